//! The files that a machine starts with.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use viv_arch::VcpuState;
use viv_boot::{AcpiParameters, BootParameters, Initrd, Kernel, Module, Protocol, SystemIdentity};
use viv_engine::GuestMemory;

use super::firmware::Firmware;
use crate::config::{Boot, BootProtocol, Fds, FileSource, KernelConfig};
use crate::error::MachineError;

/// What a machine starts with.
pub(crate) enum BootSource {
    /// A kernel.
    Kernel(KernelFiles),
    /// Firmware.
    Firmware(Firmware),
}

impl BootSource {
    /// Opens what `config` names.
    pub(crate) fn open(config: &Boot, fds: &Fds) -> Result<Self, MachineError> {
        Ok(match config {
            Boot::Kernel(kernel) => Self::Kernel(KernelFiles::open(kernel, fds)?),
            Boot::Firmware(firmware) => Self::Firmware(Firmware::open(firmware, fds)?),
        })
    }

    /// Puts into `memory`, which is zero, what is there at the start, and gives the state in which vCPU 0 starts.
    pub(crate) fn load(&self, memory: &GuestMemory, acpi: AcpiParameters) -> Result<VcpuState, MachineError> {
        match self {
            Self::Kernel(kernel) => kernel.load(memory, acpi),
            Self::Firmware(firmware) => firmware.load(memory),
        }
    }
}

/// Kernel and initrds, open for as long as the machine may start anew; read each time, so that they take no
/// memory in between.
pub(crate) struct KernelFiles {
    kernel: File,
    kernel_name: String,
    /// Each with its command line.
    initrds: Vec<(File, String)>,
    cmdline: String,
    protocol: Option<Protocol>,
}

impl KernelFiles {
    fn open(config: &KernelConfig, fds: &Fds) -> Result<Self, MachineError> {
        let kernel_name = match &config.kernel {
            FileSource::Path(path) => path.display().to_string(),
            FileSource::Fd(_) => "that was passed".to_owned(),
        };
        Ok(Self {
            kernel: open("kernel", &config.kernel, fds)?,
            kernel_name,
            initrds: config
                .initrds
                .iter()
                .map(|initrd| {
                    Ok::<_, MachineError>((open("initrd", &initrd.source, fds)?, initrd.cmdline.clone()))
                })
                .collect::<Result<_, _>>()?,
            cmdline: config.cmdline.clone(),
            protocol: match config.protocol {
                BootProtocol::Auto => None,
                BootProtocol::Linux64 => Some(Protocol::Linux64),
                BootProtocol::Pvh => Some(Protocol::Pvh),
                BootProtocol::Multiboot => Some(Protocol::Multiboot),
            },
        })
    }

    fn load(&self, memory: &GuestMemory, acpi: AcpiParameters) -> Result<VcpuState, MachineError> {
        (&self.kernel).rewind().map_err(MachineError::host("read the kernel from its start"))?;
        let kernel = Kernel::from_file(&self.kernel)
            .map_err(|source| MachineError::Kernel { name: self.kernel_name.clone(), source })?;
        let initrds: Vec<_> = self
            .initrds
            .iter()
            .map(|(file, cmdline)| Module { content: Initrd::File(file), cmdline })
            .collect();
        let parameters =
            BootParameters { protocol: self.protocol, acpi, identity: SystemIdentity::default() };
        Ok(viv_boot::load(memory, &parameters, &kernel, &initrds, &self.cmdline)?)
    }
}

/// Opens a file that the machine starts with.
pub(crate) fn open(what: &'static str, source: &FileSource, fds: &Fds) -> Result<File, MachineError> {
    match source {
        FileSource::Fd(slot) => Ok(File::from(fds.get(*slot)?)),
        FileSource::Path(path) => {
            open_file(path).map_err(|source| MachineError::Open { what, path: path.clone(), source })
        }
    }
}

/// Opens a regular file or block device. Anything else could block for ever, and cannot be read again for a
/// reset.
fn open_file(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is neither a regular file nor a block device"));
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_cannot_be_opened_is_named() {
        let refuse = |path: &str| {
            let config = KernelConfig {
                kernel: FileSource::Path(path.into()),
                initrds: Vec::new(),
                cmdline: String::new(),
                protocol: BootProtocol::Auto,
            };
            KernelFiles::open(&config, &Fds::default()).err().unwrap().line()
        };
        assert!(refuse("/nonexistent/vmlinuz").contains("the kernel /nonexistent/vmlinuz: No such file"));
        assert!(refuse("/").contains("directory"));
        assert!(refuse("/dev/zero").contains("neither a regular file nor a block device"));
    }
}
