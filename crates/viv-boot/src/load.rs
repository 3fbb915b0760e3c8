//! Loading a guest.

use std::fmt;
use std::ops::Range;

use viv_arch::{VcpuState, msr};
use viv_engine::GuestMemory;

use crate::acpi::{self, AcpiParameters};
use crate::error::BootError;
use crate::initrd::{self, Module};
use crate::kernel::{ElfClass, Kernel, Segment};
use crate::map::{self, MemoryRange};
use crate::smbios::{self, SmbiosParameters, SystemIdentity};
use crate::{layout, linux, multiboot, pvh};

/// The longest command line of a kernel that does not say: Linux's COMMAND_LINE_SIZE on x86, less the zero.
const DEFAULT_CMDLINE_SIZE: usize = 2047;
/// The highest address that an initrd may occupy in a kernel that does not say.
const DEFAULT_INITRD_ADDR_MAX: u64 = 0x7fff_ffff;

/// IA32_MTRR_DEF_TYPE (SDM vol. 3, 12.11.2.1): the MTRRs are on, and memory that none of them names is
/// write-back. Firmware leaves them on; where they are off, Linux believes that there is no PAT either.
const MTRR_ENABLED: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// The ways to start a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit boot protocol of Linux, entered at the unpacked kernel.
    Linux64,
    /// PVH: 32-bit protected mode, with `hvm_start_info`.
    Pvh,
    /// Multiboot 1: 32-bit protected mode, with modules.
    Multiboot,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "64-bit Linux",
            Self::Pvh => "PVH",
            Self::Multiboot => "Multiboot",
        })
    }
}

impl Protocol {
    /// How a kernel is started if nobody says otherwise: a 64-bit bzImage by Linux's own protocol; what has a
    /// PVH note by that; what has a Multiboot header by that; an ELF image of a 64-bit Linux by Linux's.
    ///
    /// # Errors
    /// When there is no way.
    pub fn preferred(kernel: &Kernel) -> Result<Self, BootError> {
        let is_64_bit = kernel.class() == ElfClass::Elf64;
        if is_64_bit && kernel.setup_header().is_some() {
            Ok(Self::Linux64)
        } else if kernel.pvh_entry().is_some() {
            Ok(Self::Pvh)
        } else if kernel.multiboot_entry().is_some() {
            Ok(Self::Multiboot)
        } else if is_64_bit && kernel.is_high_half() {
            Ok(Self::Linux64)
        } else {
            Err(BootError::NoProtocol)
        }
    }

    /// Where the kernel is entered by this protocol.
    fn entry(self, kernel: &Kernel) -> Result<u64, BootError> {
        let entry = match self {
            Self::Linux64 if kernel.class() == ElfClass::Elf64 => kernel.entry(),
            Self::Linux64 => return Err(BootError::ProtocolMismatch(self, "it is a 32-bit image")),
            Self::Pvh => kernel
                .pvh_entry()
                .ok_or(BootError::ProtocolMismatch(self, "it has no note with an entry point for it"))?,
            Self::Multiboot => kernel
                .multiboot_entry()
                .ok_or(BootError::ProtocolMismatch(self, "it has no Multiboot header"))?,
        };
        let reachable = u32::try_from(entry).is_ok();
        if reachable && kernel.segments().iter().any(|segment| segment.contains(entry)) {
            Ok(entry)
        } else {
            Err(BootError::EntryOutside(entry))
        }
    }
}

/// What the guest is told about its machine, besides what its memory shows.
#[derive(Debug, Clone)]
pub struct BootParameters {
    /// How to start the kernel, if not in the preferred way ([`Protocol::preferred`]).
    pub protocol: Option<Protocol>,
    /// What the ACPI tables say.
    pub acpi: AcpiParameters,
    /// Who the machine is, to the SMBIOS tables.
    pub identity: SystemIdentity,
}

/// What every protocol passes on to the kernel.
pub(crate) struct Loaded {
    pub entry: u64,
    /// The initrd, in one piece. `None` for Multiboot.
    pub initrd: Option<Range<u64>>,
    /// The modules of Multiboot, one by one.
    pub modules: Vec<Range<u64>>,
    pub rsdp: u64,
    pub map: Vec<MemoryRange>,
}

/// Puts a kernel and all it needs into guest memory, and gives the state in which vCPU 0 starts it.
///
/// Several initrds become one, each at a multiple of four, as Linux expects archives to be; to Multiboot they are modules.
///
/// Memory that nothing is put into is taken to be zero already, as it is when new.
///
/// # Errors
/// When the kernel cannot be started by the protocol, or something does not fit.
pub fn load(
    memory: &GuestMemory,
    machine: &BootParameters,
    kernel: &Kernel,
    initrds: &[Module<'_>],
    cmdline: &str,
) -> Result<VcpuState, BootError> {
    let protocol = machine.protocol.map_or_else(|| Protocol::preferred(kernel), Ok)?;
    let entry = protocol.entry(kernel)?;
    load_kernel(memory, kernel)?;
    load_cmdline(memory, kernel, cmdline)?;
    let room = initrd_room(memory, kernel);
    let (initrd, modules) = match protocol {
        Protocol::Linux64 | Protocol::Pvh => (initrd::place_joined(initrds, memory, room)?, Vec::new()),
        Protocol::Multiboot => (None, initrd::place_apart(initrds, memory, room)?),
    };

    let tables = acpi::build(&machine.acpi, layout::ACPI_TABLES)?;
    for table in tables.iter() {
        map::write(memory, "ACPI tables", table.address, &table.bytes)?;
    }
    load_smbios(memory, machine)?;
    let map = map::memory_map(memory, &[machine.acpi.pci.ecam()]);
    let loaded = Loaded { entry, initrd, modules, rsdp: tables.rsdp(), map };
    let mut state = match protocol {
        Protocol::Linux64 => linux::prepare(memory, kernel, &loaded),
        Protocol::Pvh => pvh::prepare(memory, &loaded),
        Protocol::Multiboot => multiboot::prepare(memory, initrds, &loaded),
    }?;
    state.msrs.push((msr::IA32_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK));
    Ok(state)
}

/// Fills the memory of every segment, after checking them all.
fn load_kernel(memory: &GuestMemory, kernel: &Kernel) -> Result<(), BootError> {
    for segment in kernel.segments() {
        let (start, end) = (segment.address, segment.end());
        if start < layout::HIGH_MEMORY {
            return Err(BootError::KernelTooLow(start));
        }
        if !map::is_ram(memory, &(start..end)) {
            return Err(BootError::KernelOutsideRam { start, end, ram: map::describe_ram(memory) });
        }
    }
    for segment in kernel.segments() {
        let content = kernel.content(segment);
        let length = content.len() as u64;
        map::write(memory, "kernel", segment.address, content)?;
        map::write_zeros(memory, "kernel", segment.address + length, segment.size - length)?;
    }
    Ok(())
}

fn load_cmdline(memory: &GuestMemory, kernel: &Kernel, cmdline: &str) -> Result<(), BootError> {
    let room = (layout::CMDLINE.end - layout::CMDLINE.start) as usize - 1;
    // A size of zero means that the kernel does not say.
    let announced = kernel.setup_header().map_or(0, |header| header.cmdline_size as usize);
    let limit = if announced == 0 { DEFAULT_CMDLINE_SIZE } else { announced.min(room) };
    if cmdline.len() > limit {
        return Err(BootError::CmdlineTooLong { length: cmdline.len(), limit });
    }
    if cmdline.contains('\0') {
        return Err(BootError::CmdlineZero);
    }
    let bytes = [cmdline.as_bytes(), &[0]].concat();
    map::write(memory, "command line", layout::CMDLINE.start, &bytes)
}

fn load_smbios(memory: &GuestMemory, machine: &BootParameters) -> Result<(), BootError> {
    let parameters = SmbiosParameters::new(machine.identity.clone(), machine.acpi.cpus, memory);
    let tables = smbios::build(&parameters)?;
    let place = layout::SMBIOS_TABLES;
    map::write(memory, "SMBIOS tables", place.start, &tables.placed(&place)?)
}

/// Where an initrd can lie: above the kernel, below the hole.
fn initrd_room(memory: &GuestMemory, kernel: &Kernel) -> Range<u64> {
    let ram_end = map::low_ram_end(memory);
    let low = kernel.segments().iter().filter(|segment| segment.address < ram_end);
    let kernel_end = low.map(Segment::end).max().unwrap_or(layout::HIGH_MEMORY);
    let limit = kernel.setup_header().map_or(DEFAULT_INITRD_ADDR_MAX, |header| header.initrd_addr_max.into());
    kernel_end..ram_end.min(limit + 1)
}
