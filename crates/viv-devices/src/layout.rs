//! Where things are: the ports, addresses and interrupt numbers that the guest sees.
//!
//! This is the one place for them. The machine registers devices by these values and hands to the firmware
//! tables those that they describe, so that the tables cannot disagree with the devices.
//!
//! The interrupt numbers are global system interrupts (GSIs, ACPI 6.5, 5.2.13): 0 to 15 are the ISA IRQs and
//! reach both the 8259s and the IOAPIC, 16 to 23 reach the IOAPIC only. Ranges of ports and addresses are
//! half open.

use std::ops::Range;

/// The 8259 pair's command and data ports: the master's.
pub const PIC_MASTER: u16 = 0x20;
/// The slave's.
pub const PIC_SLAVE: u16 = 0xa0;
/// The edge/level control registers (ELCR), the master's first.
pub const PIC_ELCR: u16 = 0x4d0;
/// The IRQ of the master to which the slave is cascaded. No device can use it.
pub const PIC_CASCADE_IRQ: u8 = 2;

/// The 8254's three counters and its control port.
pub const PIT: u16 = 0x40;
/// System control port B: gate and output of counter 2, speaker.
pub const PORT_B: u16 = 0x61;
/// The interrupt of counter 0. The MADT must override its source: it reaches the IOAPIC at [`PIT_IOAPIC_PIN`].
pub const PIT_IRQ: u32 = 0;
/// The IOAPIC pin of the ISA IRQ 0.
pub const PIT_IOAPIC_PIN: u32 = 2;

/// The first serial line (COM1), 8 ports.
pub const UART0: u16 = 0x3f8;
/// The interrupt of the first serial line.
pub const UART0_IRQ: u32 = 4;
/// How many ports a serial line has.
pub const UART_PORTS: u16 = 8;

/// The keyboard controller's data port.
pub const I8042_DATA: u16 = 0x60;
/// The keyboard controller's command and status port.
pub const I8042_COMMAND: u16 = 0x64;
/// The interrupt of the keyboard port.
pub const KEYBOARD_IRQ: u32 = 1;
/// The interrupt of the auxiliary port (mouse).
pub const MOUSE_IRQ: u32 = 12;
/// System control port A: bit 0 resets, bit 1 is the A20 gate.
pub const PORT_A: u16 = 0x92;

/// The display's ports, as those of all its kind.
pub const VGA: Range<u16> = 0x3b0..0x3e0;
/// The ports of its interface for other modes: two registers of 16 bits, the second in two places.
pub const VGA_DISPI: Range<u16> = 0x1ce..0x1d2;
/// Its window.
pub const VGA_MEMORY: Range<u64> = 0xa_0000..0xc_0000;

/// The firmware configuration device's selector port; the data port follows.
pub const FW_CFG: u16 = 0x510;
/// Its DMA address register, 8 ports.
pub const FW_CFG_DMA: u16 = 0x514;

/// Takes text from test programs, as Bochs's port does.
pub const DEBUG_PORT: u16 = 0xe9;
/// Takes the logs of SeaBIOS and OVMF.
pub const FIRMWARE_LOG: u16 = 0x402;
/// Ends the machine with a status, 4 ports.
pub const EXIT_PORT: u16 = 0xf4;
/// Where a guest says that its kernel has panicked, as on QEMU's machines.
pub const PANIC_PORT: u16 = 0x505;

/// The real-time clock's index port.
pub const RTC_INDEX: u16 = 0x70;
/// The real-time clock's data port.
pub const RTC_DATA: u16 = 0x71;
/// The interrupt of the real-time clock.
pub const RTC_IRQ: u32 = 8;

/// The registers of the IOAPIC, 4 KiB.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// How much room they take.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// How many pins it has; pin n is GSI n, but for the PIT.
pub const IOAPIC_PINS: u32 = 24;
/// The registers of the HPET.
pub const HPET_BASE: u64 = 0xfed0_0000;
/// How much room they take.
pub const HPET_SIZE: u64 = 0x400;
/// The GSIs that the HPET's comparators can be routed to, as on an ICH9. PCI devices use them too: see
/// [`PCI_INTX`].
pub const HPET_ROUTES: Range<u32> = 20..24;
/// The page with the generation identifier, which is no RAM and which firmware does not move.
pub const GENERATION_ID: Range<u64> = 0xfed0_1000..0xfed0_2000;
/// The registers of the local APICs, which engines answer.
pub const LOCAL_APIC_BASE: u64 = 0xfee0_0000;

/// ACPI's fixed registers: [`PM1_EVENT`], [`PM1_CONTROL`], [`PM_TIMER`], [`GPE0`] and [`SMI_ENABLE`] lie in here,
/// as in the block of an ICH9, of which [`TCO`] is the rest.
pub const ACPI_PM: Range<u16> = 0x600..0x660;
/// The registers of the watchdog, on machines that have one.
pub const TCO: Range<u16> = 0x660..0x680;
/// PM1a event block: status, then enable, 2 bytes each (ACPI 6.5, 4.8.3.1).
pub const PM1_EVENT: u16 = 0x600;
/// Length of the PM1a event block.
pub const PM1_EVENT_LENGTH: u8 = 4;
/// PM1a control block (4.8.3.2).
pub const PM1_CONTROL: u16 = 0x604;
/// Length of the PM1a control block.
pub const PM1_CONTROL_LENGTH: u8 = 2;
/// PM timer (4.8.3.3).
pub const PM_TIMER: u16 = 0x608;
/// Length of the PM timer block.
pub const PM_TIMER_LENGTH: u8 = 4;
/// General-purpose event block 0: status bytes, then as many enable bytes (4.8.4.1).
pub const GPE0: u16 = 0x620;
/// Length of GPE block 0.
pub const GPE0_LENGTH: u8 = 8;
/// CPU hotplug: the event of GPE block 0 that says that there is news.
pub const CPU_HOTPLUG_GPE: u8 = 2;
/// The event that says that the generation identifier is another.
pub const GENERATION_GPE: u8 = 5;
/// The registers of CPU hotplug, where Q35 machines of QEMU have them.
pub const CPU_HOTPLUG: u16 = 0xcd8;
/// How many ports they take.
pub const CPU_HOTPLUG_LENGTH: u16 = 12;
/// Which events make system management interrupts (SMI_EN; ICH9 data sheet, 13.8.3), 4 bytes.
pub const SMI_ENABLE: u16 = 0x630;
/// The APM control port, where a machine with a legacy mode leaves and enters it (FADT SMI_CMD); the APM status
/// port follows.
pub const APM_CONTROL: u16 = 0xb2;
/// What written there enters ACPI mode (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 2;
/// What written there leaves it (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 3;
/// The system control interrupt, level-triggered and active high.
pub const SCI_IRQ: u32 = 9;
/// The sleep type (SLP_TYP) that means power off: the value for `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;
/// The sleep type by which SeaBIOS and OVMF switch a Q35 off, whatever its tables say.
pub const SLEEP_TYPE_FIRMWARE_OFF: u8 = 0;
/// The reset register (FADT RESET_REG).
pub const RESET_PORT: u16 = 0xcf9;
/// What written there resets (FADT RESET_VALUE).
pub const RESET_VALUE: u8 = 0x06;

/// PCI configuration mechanism 1: the address port. The data port follows 4 further.
pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
/// PCI configuration mechanism 1: the data port.
pub const PCI_CONFIG_DATA: u16 = 0xcfc;
/// Configuration space in memory (ECAM) of segment 0, buses 0 to 255, where no firmware moves it.
pub const PCI_ECAM_BASE: u64 = 0xe000_0000;
/// Size of the ECAM: 1 MiB a bus.
pub const PCI_ECAM_SIZE: u64 = 0x1000_0000;
/// The ports that BARs can use.
pub const PCI_IO: Range<u16> = 0xc000..0xff00;
/// The addresses below 4 GiB that BARs and the ECAM can use.
pub const PCI_MMIO32: Range<u64> = 0x8000_0000..0xfec0_0000;
/// Where the addresses that 64-bit BARs can use begin, unless RAM reaches beyond: see [`pci_mmio64`].
pub const PCI_MMIO64_BASE: u64 = 0x40_0000_0000;
/// How many addresses 64-bit BARs can use.
pub const PCI_MMIO64_SIZE: u64 = 0x40_0000_0000;
/// The GSIs of PIRQA# to PIRQH#, to which PCI's interrupt pins are wired: level-triggered, and active low to the
/// firmware tables. (Lines here are asserted or not; which voltage that is, no device asks.)
pub const PIRQ: Range<u32> = 16..24;
/// The slot of the bridge to the ISA devices (LPC) where there is firmware.
pub const LPC_SLOT: u8 = 31;

/// The PIRQ, from 0, of INTA# in a slot: PIRQE# to PIRQH# in turn below slot 25, as firmware for this chipset expects.
#[must_use]
pub const fn pirq(slot: u8) -> u8 {
    if slot < 25 { 4 | (slot & 3) } else { 0 }
}

/// The GSI of INTA# in a slot.
#[must_use]
pub const fn slot_gsi(slot: u8) -> u8 {
    (PIRQ.start as u8).saturating_add(pirq(slot))
}

/// The addresses above 4 GiB that BARs can use, where RAM ends at `ram_end`: [`PCI_MMIO64_BASE`] on, or the
/// first multiple of the window's size that RAM leaves free.
#[must_use]
pub const fn pci_mmio64(ram_end: u64) -> Range<u64> {
    let start = if ram_end <= PCI_MMIO64_BASE {
        PCI_MMIO64_BASE
    } else {
        ram_end.div_ceil(PCI_MMIO64_SIZE).saturating_mul(PCI_MMIO64_SIZE)
    };
    start..start.saturating_add(PCI_MMIO64_SIZE)
}

#[cfg(test)]
mod tests {
    use viv_engine::memory::{HOLE_END, HOLE_START};

    use super::*;

    #[test]
    fn the_hole_below_4_gib_holds_everything_that_is_not_ram() {
        let ecam = PCI_ECAM_BASE..PCI_ECAM_BASE + PCI_ECAM_SIZE;
        assert_eq!(PCI_MMIO32, HOLE_START..IOAPIC_BASE);
        assert!(PCI_MMIO32.contains(&ecam.start) && ecam.end <= IOAPIC_BASE);
        const { assert!(IOAPIC_BASE + IOAPIC_SIZE <= HPET_BASE) };
        const { assert!(HPET_BASE + HPET_SIZE <= GENERATION_ID.start) };
        const { assert!(GENERATION_ID.end <= LOCAL_APIC_BASE) };
        const { assert!(LOCAL_APIC_BASE < HOLE_END) };
    }

    #[test]
    fn the_high_window_lies_after_ram_and_aligned() {
        assert_eq!(pci_mmio64(1 << 30), 0x40_0000_0000..0x80_0000_0000);
        assert_eq!(pci_mmio64(PCI_MMIO64_BASE).start, PCI_MMIO64_BASE);
        assert_eq!(pci_mmio64(PCI_MMIO64_BASE + 1), 0x80_0000_0000..0xc0_0000_0000);
    }

    #[test]
    fn the_acpi_blocks_lie_in_their_range() {
        for (start, length) in [
            (PM1_EVENT, PM1_EVENT_LENGTH),
            (PM1_CONTROL, PM1_CONTROL_LENGTH),
            (PM_TIMER, PM_TIMER_LENGTH),
            (GPE0, GPE0_LENGTH),
            (SMI_ENABLE, 4),
        ] {
            assert!(ACPI_PM.contains(&start) && start + u16::from(length) <= ACPI_PM.end);
        }
    }
}
