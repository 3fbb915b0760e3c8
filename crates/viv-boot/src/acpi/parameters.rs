//! What the tables say, as the machine gives it.

use std::ops::Range;

use super::AcpiError;

/// The most processors that the DSDT has names for.
const MAX_CPUS: u64 = 0x1000;
/// The bytes of configuration space that a bus has in the ECAM.
const ECAM_BUS_SIZE: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// All that the tables say about a machine. Ranges are half open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiParameters {
    /// How many vCPUs there are, or can be. The local APIC id of each is its index.
    pub cpus: u32,
    /// How they come and go; without, all are there for good.
    pub cpu_hotplug: Option<CpuHotplug>,
    /// Where memory is and can be; without, none can be plugged in.
    pub memory: Option<MemoryLayout>,
    /// The address of the local APICs' registers.
    pub local_apic: u32,
    /// The IOAPIC.
    pub io_apic: IoApic,
    /// The GSI that the interrupt of the 8254 (ISA IRQ 0) is wired to.
    pub timer_gsi: u32,
    /// The fixed hardware.
    pub fixed: FixedHardware,
    /// PCI.
    pub pci: PciHost,
    /// The serial lines, COM1 first.
    pub serial: Vec<SerialLine>,
    /// The high precision event timer.
    pub hpet: Option<Hpet>,
    /// The real-time clock, with its interrupt.
    pub rtc: Option<IoWindow>,
    /// Ports that belong to the board, and to no device of those described here.
    pub board_ports: Vec<Range<u16>>,
    /// Whether there is a keyboard controller (8042), if only for its reset line.
    pub i8042: bool,
    /// The keyboard and the mouse at that controller, if they are there.
    pub ps2: Option<Ps2>,
    /// Whether there is a VGA.
    pub vga: bool,
    /// The port at which the guest says that its kernel has panicked.
    pub panic_port: Option<u16>,
    /// The generation identifier.
    pub generation: Option<GenerationId>,
    /// The watchdog.
    pub watchdog: Option<Watchdog>,
}

/// The generation identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationId {
    /// Its address: that of memory which has nothing else in it.
    pub address: u32,
    /// How much memory that is.
    pub length: u32,
    /// The general-purpose event that says that it is another.
    pub gpe: u8,
}

/// A watchdog: the TCO timer of an ICH9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// The ports of its registers.
    pub ports: Range<u16>,
}

/// CPU hotplug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuHotplug {
    /// The ports of its registers, as QEMU documents them.
    pub ports: Range<u16>,
    /// The general-purpose event that says that there is news.
    pub gpe: u8,
    /// Which vCPUs are there, by index.
    pub present: Vec<bool>,
}

/// Where memory is, and where more can be plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLayout {
    /// RAM.
    pub ram: Vec<Range<u64>>,
    /// The room for more.
    pub room: Range<u64>,
}

/// A keyboard and a mouse at a keyboard controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ps2 {
    /// The controller's ports: data, and command and status.
    pub ports: [u16; 2],
    /// The GSI of the keyboard.
    pub keyboard_gsi: u32,
    /// The GSI of the mouse.
    pub mouse_gsi: u32,
}

/// The IOAPIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// The address of its registers.
    pub address: u32,
    /// The GSI of its first pin.
    pub gsi_base: u32,
}

/// The registers of ACPI's fixed hardware (ACPI 6.5, 4.8), all of them ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedHardware {
    /// PM1a event block: status and enable, 2 bytes each. It has the power button.
    pub pm1_event: u16,
    /// PM1a control block, 2 bytes.
    pub pm1_control: u16,
    /// PM timer, 4 bytes.
    pub pm_timer: u16,
    /// Whether the PM timer counts 32 bits instead of 24.
    pub pm_timer_32_bit: bool,
    /// General-purpose event block 0.
    pub gpe0: Option<GpeBlock>,
    /// The system control interrupt: a GSI, level-triggered and active high.
    pub sci: u8,
    /// The reset register, 1 byte.
    pub reset_port: u16,
    /// What written there resets the machine.
    pub reset_value: u8,
    /// The sleep type (SLP_TYP) that means power off.
    pub sleep_type_s5: u8,
    /// How the system changes from legacy to ACPI mode; without, the machine is in ACPI mode from the start.
    pub smi: Option<SmiCommands>,
}

/// The SMI command port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmiCommands {
    /// The port, 1 byte.
    pub port: u16,
    /// What written there turns ACPI mode on.
    pub acpi_enable: u8,
    /// What written there turns it off.
    pub acpi_disable: u8,
}

/// The high precision event timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hpet {
    /// The address of its registers.
    pub address: u32,
    /// Its hardware id: the low half of its capability register.
    pub block_id: u32,
}

/// A general-purpose event block: status bytes, then as many enable bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpeBlock {
    /// The first port.
    pub port: u16,
    /// Its length in bytes, both halves.
    pub length: u8,
}

/// The PCI host bridge and what it decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciHost {
    /// The address of bus 0's configuration space (ECAM).
    pub ecam_base: u64,
    /// The last bus; the first is 0.
    pub last_bus: u8,
    /// The ports of configuration mechanism 1.
    pub config_ports: Range<u16>,
    /// The ports that BARs can use.
    pub io: Range<u16>,
    /// The addresses below 4 GiB that BARs can use.
    pub mmio32: Vec<Range<u64>>,
    /// The addresses that 64-bit BARs can use, if any.
    pub mmio64: Option<Range<u64>>,
    /// Where the interrupt pins of bus 0 lead.
    pub interrupts: Vec<PciInterrupt>,
}

impl PciHost {
    /// The addresses of configuration space.
    #[must_use]
    pub fn ecam(&self) -> Range<u64> {
        let size = (u64::from(self.last_bus) + 1) * ECAM_BUS_SIZE;
        self.ecam_base..self.ecam_base.saturating_add(size)
    }
}

/// Where an interrupt pin of a slot leads: to a GSI, level-triggered and active low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciInterrupt {
    /// The slot (device number) on bus 0.
    pub slot: u8,
    /// The pin: 0 for INTA to 3 for INTD.
    pub pin: u8,
    /// The GSI.
    pub gsi: u32,
}

/// Ports with an edge-triggered interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoWindow {
    /// The ports.
    pub ports: Range<u16>,
    /// The GSI.
    pub gsi: u32,
}

/// A serial line (16550).
pub type SerialLine = IoWindow;

impl AcpiParameters {
    /// Whether a vCPU is there.
    pub(super) fn is_present(&self, id: u32) -> bool {
        let present = |hotplug: &CpuHotplug| hotplug.present.get(id as usize).copied().unwrap_or(false);
        self.cpu_hotplug.as_ref().is_none_or(present)
    }

    /// Checks all that would make tables that cannot be, or that contradict themselves.
    pub(super) fn check(&self) -> Result<(), AcpiError> {
        let cpus = self.cpus.into();
        in_range("number of vCPUs", cpus, (1..=MAX_CPUS).contains(&cpus), "1 to 4096")?;
        let sleep_type = self.fixed.sleep_type_s5;
        in_range("sleep type for S5", sleep_type.into(), sleep_type < 8, "0 to 7")?;

        let pci = &self.pci;
        let base = pci.ecam_base;
        in_range("address of the ECAM", base, base.is_multiple_of(ECAM_BUS_SIZE), "a multiple of 1 MiB")?;
        window("ECAM", &pci.ecam(), FOUR_GIB)?;
        for mmio32 in &pci.mmio32 {
            window("PCI window below 4 GiB", mmio32, FOUR_GIB)?;
        }
        if let Some(mmio64) = &pci.mmio64 {
            window("PCI window above 4 GiB", mmio64, u64::MAX)?;
        }
        ports("PCI window for ports", &pci.io, u64::from(u16::MAX))?;
        let interrupts = pci.interrupts.len() as u64;
        in_range("number of PCI interrupts", interrupts, interrupts <= 0xff, "at most 255")?;
        for interrupt in &pci.interrupts {
            in_range("slot of a PCI interrupt", interrupt.slot.into(), interrupt.slot < 32, "0 to 31")?;
            in_range("pin of a PCI interrupt", interrupt.pin.into(), interrupt.pin < 4, "0 to 3")?;
        }

        if let Some(memory) = &self.memory {
            for range in memory.ram.iter().chain([&memory.room]) {
                window("range of memory", range, u64::MAX)?;
            }
        }
        if let Some(hotplug) = &self.cpu_hotplug {
            ports("ports of CPU hotplug", &hotplug.ports, 0xff)?;
            let gpe = hotplug.gpe;
            in_range("event of CPU hotplug", gpe.into(), gpe < 32, "0 to 31")?;
        }
        if let Some(GenerationId { address, length, gpe }) = self.generation {
            let start = u64::from(address);
            window("page of the generation identifier", &(start..start + u64::from(length)), FOUR_GIB)?;
            in_range("event of the generation identifier", gpe.into(), gpe < 32, "0 to 31")?;
        }
        if let Some(watchdog) = &self.watchdog {
            ports("ports of the watchdog", &watchdog.ports, 0xff)?;
        }
        if let Some(port) = self.panic_port {
            in_range("port for panics", port.into(), port < u16::MAX, "0 to 65534")?;
        }
        ports("PCI configuration ports", &pci.config_ports, 0xff)?;
        let serial = self.serial.len() as u64;
        in_range("number of serial lines", serial, serial <= 9, "at most 9")?;
        for line in self.serial.iter().chain(&self.rtc) {
            ports("port range of a device", &line.ports, 0xff)?;
        }
        self.board_ports.iter().try_for_each(|range| ports("port range of the board", range, 0xff))
    }
}

fn in_range(what: &'static str, value: u64, good: bool, rule: &'static str) -> Result<(), AcpiError> {
    if good { Ok(()) } else { Err(AcpiError::OutOfRange { what, value, rule }) }
}

fn window(what: &'static str, range: &Range<u64>, limit: u64) -> Result<(), AcpiError> {
    if !range.is_empty() && range.end <= limit {
        return Ok(());
    }
    Err(AcpiError::Window { what, start: range.start, end: range.end, limit })
}

/// A range of ports that a descriptor with a length of at most `longest` can express.
fn ports(what: &'static str, range: &Range<u16>, longest: u64) -> Result<(), AcpiError> {
    let start = u64::from(range.start);
    window(what, &(start..u64::from(range.end)), start + longest)
}
