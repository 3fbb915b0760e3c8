//! A direct boot: Debian's kernel with an initial RAM disk made here, of busybox and one script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use viv_image::cpio::Archive;

use crate::debian::{image, viv};

/// What comes before each script: the kernel's file systems and its modules. `/dev/vda` is the image's own disk.
const PRELUDE: &str = "#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev /root
/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done
stty -onlcr
";

/// A machine that runs a script as its first process.
pub struct Machine {
    directory: TempDir,
    kernel: PathBuf,
    root: PathBuf,
}

impl Machine {
    pub fn new(script: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let image = image();
        let mut initrd = image.initrd(format!("{PRELUDE}{script}").as_bytes()).expect("an initrd");
        let busybox = fs::read("/bin/busybox").expect("busybox-static, which cargo xtask test installs");
        let mut archive = Archive::new(Vec::new());
        archive.file("busybox", 0o755, &busybox).expect("small enough");
        initrd.extend(archive.finish().expect("in memory"));
        fs::write(directory.path().join("initrd"), initrd).expect("written");
        Self { directory, kernel: image.kernel(), root: image.root() }
    }

    /// A place for a file beside the initial RAM disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The kernel.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The image's disk.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `viv run` on it, with these options. Its first disk is the image's, read-only.
    pub fn run(&self, options: &[&str]) -> Command {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let mut viv = viv(&["run", "--append", "console=ttyS0 quiet panic=-1"]);
        viv.current_dir(self.directory.path())
            .args(["--kernel", &text(&self.kernel), "--initrd", "initrd"])
            .args(["--disk", &(text(&self.root) + ",readonly")])
            .args(options);
        viv
    }
}
