//! Which firmware a machine starts with.

use std::io::Write;
use std::path::Path;

use viv_vmm::config::{BootDevice, FileSource, FirmwareConfig, VariablesConfig};

use crate::cli::{BootDeviceArg, FirmwareArg, RunArgs};
use crate::failure::Failure;

/// Where Debian's packages put the VGA BIOS that goes with SeaBIOS: the file and the package.
const VGA_BIOS: (&str, &str) = ("/usr/share/seabios/vgabios-stdvga.bin", "seabios");
/// The same for the BIOS...
pub const BIOS: (&str, &str) = ("/usr/share/seabios/bios-256k.bin", "seabios");
/// ... and for UEFI.
pub const UEFI: (&str, &str) = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
/// The variables that OVMF begins with.
const UEFI_VARIABLES: (&str, &str) = ("/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf");

/// What `args` say of it.
pub fn config(args: &RunArgs, firmware: &FirmwareArg) -> Result<FirmwareConfig, Failure> {
    let image = match firmware {
        FirmwareArg::Bios => packaged("--firmware bios", BIOS)?,
        FirmwareArg::Uefi => packaged("--firmware uefi", UEFI)?,
        FirmwareArg::File(path) => path,
    };
    let variables = match (&args.uefi_vars, firmware) {
        (Some(path), _) => Some(kept(path, firmware)?),
        (None, FirmwareArg::Uefi) => {
            let path = packaged("--firmware uefi", UEFI_VARIABLES)?.to_owned();
            Some(VariablesConfig { path, keep: false })
        }
        (None, _) => None,
    };
    // OVMF knows the display; what is in a file may want it or not.
    let vga_bios = match firmware {
        FirmwareArg::Bios => Some(packaged("--firmware bios", VGA_BIOS)?),
        FirmwareArg::File(_) => Some(Path::new(VGA_BIOS.0)).filter(|path| path.exists()),
        FirmwareArg::Uefi => None,
    };
    Ok(FirmwareConfig {
        image: FileSource::Path(image.to_owned()),
        variables,
        vga_bios: vga_bios.map(|path| FileSource::Path(path.to_owned())),
        boot_order: args.boot_order.iter().copied().map(BootDevice::from).collect(),
    })
}

/// Variables that are kept in a file, which begins as a copy of OVMF's.
fn kept(path: &Path, firmware: &FirmwareArg) -> Result<VariablesConfig, Failure> {
    if *firmware == FirmwareArg::Uefi && !path.exists() {
        let option = format!("--uefi-vars {}", path.display());
        let template = packaged(&option, UEFI_VARIABLES)?;
        // The copy appears whole or not at all, and is writable whatever the original is.
        let failed = |error: &std::io::Error| Failure::of(format!("{option}: making it"), error);
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut copy = tempfile::NamedTempFile::new_in(directory).map_err(|error| failed(&error))?;
        let content = std::fs::read(template).map_err(|error| failed(&error))?;
        copy.write_all(&content).map_err(|error| failed(&error))?;
        copy.persist(path).map_err(|error| failed(&error.error))?;
    }
    Ok(VariablesConfig { path: path.to_owned(), keep: true })
}

/// A file of a package, or word of which package to install.
fn packaged(option: &str, (file, package): (&'static str, &str)) -> Result<&'static Path, Failure> {
    let path = Path::new(file);
    if path.exists() {
        return Ok(path);
    }
    let why = format!("{file} is not there");
    Err(Failure::new(option, why).remedy(format!("install it with 'apt-get install {package}'")))
}

impl From<BootDeviceArg> for BootDevice {
    fn from(device: BootDeviceArg) -> Self {
        match device {
            BootDeviceArg::Disk => Self::Disk,
            BootDeviceArg::Cdrom => Self::Cdrom,
        }
    }
}
