//! Why a guest cannot be started.

use std::io;

use vm_memory::GuestMemoryError;

use crate::acpi::AcpiError;
use crate::load::Protocol;
use crate::smbios::SmbiosError;

/// Why a kernel that was understood cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file that is no firmware image, by its size.
    #[error("not a firmware image: it has {size} bytes; images have whole pages, from 64 KiB to 16 MiB")]
    FirmwareSize {
        /// Its size.
        size: u64,
    },
    /// The kernel is an ELF image that announces no way to start it.
    #[error(
        "not a kernel: an ELF image that has no PVH entry note, no Multiboot header and is no 64-bit Linux"
    )]
    NoProtocol,
    /// The kernel cannot be started in the way that was asked for.
    #[error("the kernel cannot be started by the {0} protocol: {1}")]
    ProtocolMismatch(Protocol, &'static str),
    /// The kernel does not fit into the guest's memory.
    #[error("the kernel does not fit into the guest's memory: it needs {start:#x} to {end:#x}, RAM is {ram}")]
    KernelOutsideRam {
        /// Where the piece that does not fit begins.
        start: u64,
        /// The address after its last.
        end: u64,
        /// What RAM there is.
        ram: String,
    },
    /// The kernel wants memory that holds what it is told at the start.
    #[error("the kernel wants the memory at {0:#x}: below 1 MiB nothing can be loaded")]
    KernelTooLow(u64),
    /// The entry point is not in the kernel.
    #[error("the kernel's entry point {0:#x} is in no part of it that is loaded below 4 GiB")]
    EntryOutside(u64),
    /// The initrd does not fit between the kernel and the end of what it can use.
    #[error(
        "the initrd of {size} bytes does not fit into the guest's memory: beside the kernel there is room for {room}"
    )]
    InitrdTooLarge {
        /// Its size.
        size: u64,
        /// How large it could be.
        room: u64,
    },
    /// There are more modules, or longer strings with them, than there is room for.
    #[error(
        "the kernel's modules with their command lines need {size} bytes of description, there is room for {room}"
    )]
    ModulesTooMany {
        /// How much they need.
        size: u64,
        /// How much there is.
        room: u64,
    },
    /// The initrd cannot be read.
    #[error("cannot read the initrd")]
    ReadInitrd(#[source] io::Error),
    /// The command line is longer than the kernel takes.
    #[error("the kernel's command line has {length} bytes, the kernel takes at most {limit}")]
    CmdlineTooLong {
        /// Its length.
        length: usize,
        /// The longest one.
        limit: usize,
    },
    /// The command line contains a zero byte, where a kernel would take it to end.
    #[error("the kernel's command line contains a zero byte")]
    CmdlineZero,
    /// The machine has more separate ranges of memory than `boot_params` can list.
    #[error("the machine has {0} memory ranges, more than the kernel can be told of")]
    TooManyRanges(usize),
    /// The ACPI tables cannot be made.
    #[error("cannot describe the machine to the guest")]
    Acpi(#[from] AcpiError),
    /// The SMBIOS tables cannot be made.
    #[error("cannot describe the machine to the guest")]
    Smbios(#[from] SmbiosError),
    /// What the kernel must be told does not fit into the guest's memory.
    #[error("cannot write the {what} at {address:#x} in the guest's memory")]
    Write {
        /// What was being written.
        what: &'static str,
        /// Where to.
        address: u64,
        /// Why not.
        #[source]
        source: GuestMemoryError,
    },
}
