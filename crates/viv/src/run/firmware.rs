//! Which firmware a machine starts with.

use std::fs::File;
use std::path::Path;

use viv_vmm::config::{BootDevice, Fds, FileSource, FirmwareConfig};

use crate::cli::{BootDeviceArg, FirmwareArg, RunArgs};
use crate::failure::Failure;

/// Where Debian's packages put it: the file and the package.
const BIOS: (&str, &str) = ("/usr/share/seabios/bios-256k.bin", "seabios");
const UEFI: (&str, &str) = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");

/// What `args` say of it.
pub fn config(args: &RunArgs, firmware: &FirmwareArg, fds: &mut Fds) -> Result<FirmwareConfig, Failure> {
    let image = match firmware {
        FirmwareArg::Bios => packaged("--firmware bios", BIOS)?,
        FirmwareArg::Uefi => packaged("--firmware uefi", UEFI)?,
        FirmwareArg::File(path) => path,
    };
    let log = args.firmware_log.as_ref().map(|path| {
        File::create(path).map_err(|error| Failure::of(format!("--firmware-log {}", path.display()), &error))
    });
    Ok(FirmwareConfig {
        image: FileSource::Path(image.to_owned()),
        log: log.transpose()?.map(|file| fds.add(file)),
        boot_order: args.boot_order.iter().copied().map(BootDevice::from).collect(),
    })
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
