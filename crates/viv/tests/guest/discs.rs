//! CD-ROMs with GRUB on them, made for a test.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

/// What GRUB does before it follows the test's own commands. It speaks through the firmware's console, which is the
/// serial port's too, and with no delay.
const PRELUDE: &str = "set timeout=0\nmenuentry test {\n";

/// A disc for BIOS and UEFI. It is gone with this.
pub struct Disc {
    _directory: TempDir,
    image: String,
}

impl Disc {
    /// A disc with these files in its root directory, by name and source, and what GRUB is to do with them.
    pub fn new(files: &[(&str, &str)], commands: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("boot/grub")).expect("made");
        fs::write(tree.join("boot/grub/grub.cfg"), format!("{PRELUDE}{commands}}}\n")).expect("written");
        for (name, source) in files {
            fs::copy(source, tree.join(name)).unwrap_or_else(|error| {
                panic!("{source}: {error}; cargo xtask test installs what is needed")
            });
        }
        let image = directory.path().join("disc.iso").to_str().expect("text").to_owned();
        let made = Command::new("grub-mkrescue").args(["-o", &image]).arg(&tree).output();
        let made = made.unwrap_or_else(|error| panic!("grub-mkrescue: {error}"));
        assert!(made.status.success(), "grub-mkrescue: {}", String::from_utf8_lossy(&made.stderr));
        Self { _directory: directory, image }
    }

    /// Its image.
    pub fn path(&self) -> &str {
        &self.image
    }
}
