//! The initial RAM disk of a light guest: the guest program and the modules it loads.

use std::io;

use crate::cpio::Archive;

/// Directory of the modules, as `viv-guest` expects it.
pub(crate) const MODULES: &str = "modules";
/// File in [`MODULES`] with the names of the others, each after the ones it needs.
pub(crate) const ORDER: &str = "order";

/// Puts the guest program before an archive of modules. The kernel unpacks one archive after the other.
///
/// # Errors
/// If the program is too long for the format.
pub fn assemble(guest_program: &[u8], modules: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::with_capacity(guest_program.len() + modules.len() + 4096));
    archive.file("init", 0o755, guest_program)?;
    let mut disk = archive.finish()?;
    disk.extend_from_slice(modules);
    Ok(disk)
}

/// The archive of modules, from names and contents in the order in which to load them.
///
/// # Errors
/// If a module is too long for the format.
pub(crate) fn modules(modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.directory(MODULES, 0o755)?;
    let mut order = String::new();
    for (name, content) in modules {
        archive.file(&format!("{MODULES}/{name}"), 0o644, content)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file(&format!("{MODULES}/{ORDER}"), 0o644, order.as_bytes())?;
    archive.finish()
}
