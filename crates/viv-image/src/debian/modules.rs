//! Which kernel modules a guest needs before it has its root file system, and in which order.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::files;

/// Drivers of the devices that a light guest has, and its file system. What is built into the kernel is no
/// module and is left out.
const NEEDED: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4"];
/// Good to have: the processor's instruction for ext4's checksums; what gives memory back to the host and takes more;
/// network interfaces and sockets to the host, without which the guest asks its root file system for their drivers; what
/// tells the host of a panic; and the watchdog. With what is added here [`FORMAT`](crate::image::FORMAT) changes: older images
/// lack it.
const HELPFUL: [&str; 7] = [
    "crc32c_intel",
    "virtio_balloon",
    "virtio_mem",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "pvpanic_mmio",
    "wdat_wdt",
];

/// Why the modules cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such driver.
    #[error("the kernel in {} has no module {module}", directory.display())]
    Missing {
        /// The module.
        module: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// The modules for the initial RAM disk, by name and content, each after the ones it needs. `directory` is
/// the one of a kernel's modules, with the lists that depmod(8) makes.
///
/// # Errors
/// If a needed driver is neither there nor built in.
pub fn select(directory: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let listed = files::read_to_string(&directory.join("modules.dep"))?;
    let dependencies = Dependencies::parse(&listed);
    let built_in = files::read_to_string(&directory.join("modules.builtin"))?;
    let is_built_in = |wanted: &str| built_in.lines().any(|path| module_name(path) == wanted);

    let mut order = Vec::new();
    for wanted in HELPFUL {
        dependencies.append(wanted, &mut order);
    }
    for wanted in NEEDED {
        if !dependencies.append(wanted, &mut order) && !is_built_in(wanted) {
            return Err(Error::Missing { module: wanted.into(), directory: directory.to_owned() });
        }
    }
    order
        .into_iter()
        .map(|path| {
            let content = read_module(&directory.join(path))?;
            Ok((format!("{}.ko", module_name(path)), content))
        })
        .collect()
}

/// `modules.dep`: each module's file and the files it needs, the last of which is to be loaded first
/// (modules.dep(5)).
struct Dependencies<'a> {
    by_name: HashMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Self {
        let entry = |line: &'a str| {
            let (path, needs) = line.split_once(':')?;
            Some((module_name(path), (path, needs.split_whitespace().collect())))
        };
        Self { by_name: text.lines().filter_map(entry).collect() }
    }

    /// Appends a module's file after those it needs, unless they are there already. Whether there is such a
    /// module.
    fn append(&self, name: &str, order: &mut Vec<&'a str>) -> bool {
        let Some((path, needs)) = self.by_name.get(name) else { return false };
        for file in needs.iter().rev().chain([path]) {
            if !order.contains(file) {
                order.push(file);
            }
        }
        true
    }
}

/// The kernel's name of a module: its file's name without endings, and dashes are underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// A module's content, unpacked: kernels differ in what they unpack themselves.
fn read_module(path: &Path) -> Result<Vec<u8>, files::Error> {
    let stored = files::read(path)?;
    let mut content = Vec::new();
    let unpacked = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => liblzma::read::XzDecoder::new(stored.as_slice()).read_to_end(&mut content),
        Some("zst") => {
            zstd::Decoder::new(stored.as_slice()).and_then(|mut from| from.read_to_end(&mut content))
        }
        _ => return Ok(stored),
    };
    unpacked.map_err(files::at("unpacking", path))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEP: &str = "\
kernel/virtio_pci.ko: kernel/legacy.ko kernel/virtio.ko kernel/virtio_ring.ko
kernel/virtio.ko: kernel/virtio_ring.ko
kernel/virtio_ring.ko:
kernel/legacy.ko:
kernel/virtio_blk.ko.xz: kernel/virtio.ko kernel/virtio_ring.ko
kernel/virtio_console.ko: kernel/virtio.ko kernel/virtio_ring.ko
kernel/virtio-rng.ko:
";

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let dependencies = Dependencies::parse(DEP);
        let mut order = Vec::new();
        assert!(dependencies.append("virtio_pci", &mut order));
        assert!(dependencies.append("virtio_console", &mut order));
        let names: Vec<_> = order.into_iter().map(module_name).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "legacy", "virtio_pci", "virtio_console"]);
    }

    #[test]
    fn modules_are_unpacked_and_named_by_the_kernel() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("kernel")).unwrap();
        fs::write(home.path().join("modules.dep"), DEP).unwrap();
        fs::write(home.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        for name in [
            "virtio_pci.ko",
            "virtio.ko",
            "virtio_ring.ko",
            "legacy.ko",
            "virtio_console.ko",
            "virtio-rng.ko",
        ] {
            fs::write(home.path().join("kernel").join(name), name).unwrap();
        }
        let packed = home.path().join("kernel/virtio_blk.ko.xz");
        let mut xz = liblzma::write::XzEncoder::new(fs::File::create(packed).unwrap(), 1);
        std::io::Write::write_all(&mut xz, b"block driver").unwrap();
        xz.finish().unwrap();

        let selected = select(home.path()).unwrap();
        let content = |name: &str| selected.iter().find(|(found, _)| found == name).unwrap().1.as_slice();
        assert_eq!(content("virtio_blk.ko"), b"block driver");
        assert_eq!(content("virtio_rng.ko"), b"virtio-rng.ko");
        assert_eq!(selected.len(), 7);

        fs::write(home.path().join("modules.builtin"), "").unwrap();
        assert!(matches!(select(home.path()), Err(Error::Missing { module, .. }) if module == "ext4"));
    }
}
