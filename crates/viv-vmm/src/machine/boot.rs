//! The files that a machine starts with.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use viv_arch::VcpuState;
use viv_boot::{AcpiParameters, BootParameters, Initrd, Kernel, Module, Protocol, SystemIdentity};
use viv_engine::GuestMemory;

use crate::config::{BootConfig, BootProtocol, Fds, FileSource};
use crate::error::MachineError;

/// Kernel and initrds, open for as long as the machine may start anew; read each time, so that they take no
/// memory in between.
pub(crate) struct BootFiles {
    kernel: File,
    kernel_name: String,
    /// Each with its command line.
    initrds: Vec<(File, String)>,
    cmdline: String,
    protocol: Option<Protocol>,
}

impl BootFiles {
    /// Opens what `config` names.
    pub(crate) fn open(config: &BootConfig, fds: &Fds) -> Result<Self, MachineError> {
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

    /// Puts everything into `memory`, which is zero, and gives the state in which vCPU 0 starts.
    pub(crate) fn load(&self, memory: &GuestMemory, acpi: AcpiParameters) -> Result<VcpuState, MachineError> {
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

fn open(what: &'static str, source: &FileSource, fds: &Fds) -> Result<File, MachineError> {
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
            let config = BootConfig {
                kernel: FileSource::Path(path.into()),
                initrds: Vec::new(),
                cmdline: String::new(),
                protocol: BootProtocol::Auto,
            };
            BootFiles::open(&config, &Fds::default()).err().unwrap().line()
        };
        assert!(refuse("/nonexistent/vmlinuz").contains("the kernel /nonexistent/vmlinuz: No such file"));
        assert!(refuse("/").contains("directory"));
        assert!(refuse("/dev/zero").contains("neither a regular file nor a block device"));
    }
}
