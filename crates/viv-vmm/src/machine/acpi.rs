//! What the firmware tables say, taken from where the devices are.

use viv_boot::AcpiParameters;
use viv_boot::acpi::{FixedHardware, GpeBlock, IoApic, IoWindow, PciHost, PciInterrupt};
use viv_devices::layout;

use super::board::slot_gsi;

/// Addresses that the tables express in 32 bits; all of these lie in the hole below 4 GiB.
const IOAPIC_BASE: u32 = layout::IOAPIC_BASE as u32;
const LOCAL_APIC_BASE: u32 = layout::LOCAL_APIC_BASE as u32;

/// The tables' parameters for a machine with `cpus` vCPUs whose RAM ends at `ram_end`.
pub(crate) fn parameters(cpus: u32, ram_end: u64) -> AcpiParameters {
    // Only INTA is wired; the other pins of a slot lead to the same line.
    let interrupts = (1..32)
        .flat_map(|slot| (0..4).map(move |pin| PciInterrupt { slot, pin, gsi: slot_gsi(slot) }))
        .collect();
    AcpiParameters {
        cpus,
        local_apic: LOCAL_APIC_BASE,
        io_apic: IoApic { id: 0, address: IOAPIC_BASE, gsi_base: 0 },
        timer_gsi: layout::PIT_IOAPIC_PIN,
        fixed: FixedHardware {
            pm1_event: layout::PM1_EVENT,
            pm1_control: layout::PM1_CONTROL,
            pm_timer: layout::PM_TIMER,
            pm_timer_32_bit: true,
            gpe0: Some(GpeBlock { port: layout::GPE0, length: layout::GPE0_LENGTH }),
            sci: layout::SCI_IRQ as u8,
            reset_port: layout::RESET_PORT,
            reset_value: layout::RESET_VALUE,
            sleep_type_s5: layout::SLEEP_TYPE_S5,
        },
        pci: PciHost {
            ecam_base: layout::PCI_ECAM_BASE,
            last_bus: (layout::PCI_ECAM_SIZE >> 20).saturating_sub(1) as u8,
            config_ports: layout::PCI_CONFIG_ADDRESS..layout::PCI_CONFIG_DATA + 4,
            io: layout::PCI_IO,
            mmio32: layout::PCI_MMIO32,
            mmio64: Some(layout::pci_mmio64(ram_end)),
            interrupts,
        },
        serial: vec![IoWindow {
            ports: layout::UART0..layout::UART0 + layout::UART_PORTS,
            gsi: layout::UART0_IRQ,
        }],
        rtc: Some(IoWindow { ports: layout::RTC_INDEX..layout::RTC_DATA + 1, gsi: layout::RTC_IRQ }),
        board_ports: vec![layout::ACPI_PM, layout::PIC_ELCR..layout::PIC_ELCR + 2],
        i8042: true,
        vga: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_can_express_every_machine() {
        for (cpus, ram_end) in [(1, 16 << 20), (crate::config::MAX_VCPUS, 1 << 41)] {
            viv_boot::acpi::build(&parameters(cpus, ram_end), 0xe_0000..0xf_0000).unwrap();
        }
    }
}
