//! What the firmware tables say, taken from where the devices are.

use viv_boot::AcpiParameters;
use viv_boot::acpi::{
    FixedHardware, GenerationId, GpeBlock, Hpet, IoApic, IoWindow, MemoryLayout, PciHost, PciInterrupt, Ps2,
    SmiCommands, Watchdog,
};
use viv_devices::pci::PciBus;
use viv_devices::{hpet, layout};

use super::resources::Processors;
use crate::config::Profile;

/// Addresses that the tables express in 32 bits; all of these lie in the hole below 4 GiB.
const IOAPIC_BASE: u32 = layout::IOAPIC_BASE as u32;
const HPET_BASE: u32 = layout::HPET_BASE as u32;
const LOCAL_APIC_BASE: u32 = layout::LOCAL_APIC_BASE as u32;
const GENERATION_ID: u32 = layout::GENERATION_ID.start as u32;
const GENERATION_ID_SIZE: u32 = (layout::GENERATION_ID.end - layout::GENERATION_ID.start) as u32;

/// What of a machine the tables tell, besides its PCI bus.
#[derive(Clone)]
pub(crate) struct Described {
    pub(crate) profile: Profile,
    pub(crate) processors: Processors,
    /// Where memory is, if more can be plugged in.
    pub(crate) memory: Option<MemoryLayout>,
    pub(crate) display: bool,
    pub(crate) watchdog: bool,
}

/// The tables' parameters for a machine on this PCI bus.
pub(crate) fn parameters(machine: &Described, pci: &PciBus) -> AcpiParameters {
    let Described { profile, processors, memory, display, watchdog } = machine;
    let windows = pci.windows();
    // Firmware has switched it on before it asks for the tables.
    let ecam = pci.ecam().unwrap_or(layout::PCI_ECAM_BASE..layout::PCI_ECAM_BASE + layout::PCI_ECAM_SIZE);
    let low = windows.memory32;
    let around_ecam = [low.start..ecam.start.min(low.end), ecam.end.max(low.start)..low.end];
    // Only INTA is wired; the other pins of a slot lead to the same line.
    let interrupts = (1..32)
        .flat_map(|slot| {
            (0..4).map(move |pin| PciInterrupt { slot, pin, gsi: layout::slot_gsi(slot).into() })
        })
        .collect();
    let is_pc = *profile == Profile::Pc;
    AcpiParameters {
        cpus: u32::try_from(processors.present().len()).unwrap_or(u32::MAX),
        cpu_hotplug: processors.hotplug(),
        memory: memory.clone(),
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
            smi: is_pc.then_some(SmiCommands {
                port: layout::APM_CONTROL,
                acpi_enable: layout::ACPI_ENABLE,
                acpi_disable: layout::ACPI_DISABLE,
            }),
        },
        pci: PciHost {
            ecam_base: ecam.start,
            last_bus: ((ecam.end - ecam.start) >> 20).saturating_sub(1) as u8,
            config_ports: layout::PCI_CONFIG_ADDRESS..layout::PCI_CONFIG_DATA + 4,
            io: windows.ports,
            mmio32: around_ecam.into_iter().filter(|range| !range.is_empty()).collect(),
            mmio64: Some(windows.memory64),
            interrupts,
        },
        serial: vec![IoWindow {
            ports: layout::UART0..layout::UART0 + layout::UART_PORTS,
            gsi: layout::UART0_IRQ,
        }],
        rtc: Some(IoWindow { ports: layout::RTC_INDEX..layout::RTC_DATA + 1, gsi: layout::RTC_IRQ }),
        hpet: is_pc.then_some(Hpet { address: HPET_BASE, block_id: hpet::Hpet::BLOCK_ID }),
        board_ports: vec![layout::ACPI_PM, layout::PIC_ELCR..layout::PIC_ELCR + 2],
        i8042: true,
        ps2: display.then_some(Ps2 {
            ports: [layout::I8042_DATA, layout::I8042_COMMAND],
            keyboard_gsi: layout::KEYBOARD_IRQ,
            mouse_gsi: layout::MOUSE_IRQ,
        }),
        vga: *display,
        panic_port: Some(layout::PANIC_PORT),
        generation: Some(GenerationId {
            address: GENERATION_ID,
            length: GENERATION_ID_SIZE,
            gpe: layout::GENERATION_GPE,
        }),
        watchdog: watchdog.then_some(Watchdog { ports: layout::TCO }),
    }
}

#[cfg(test)]
mod tests {
    use viv_devices::pci::Placing;

    use super::super::board::windows;
    use super::*;

    #[test]
    fn the_tables_can_express_every_machine() {
        for (cpus, memory_end) in [(1, 16 << 20), (crate::config::MAX_VCPUS, 1 << 41)] {
            for (profile, placing) in [(Profile::Micro, Placing::Machine), (Profile::Pc, Placing::Firmware)] {
                let pci = PciBus::new(windows(memory_end, placing), placing);
                let processors = Processors::Fixed(cpus);
                let machine = Described { profile, processors, memory: None, display: true, watchdog: true };
                viv_boot::acpi::build(&parameters(&machine, &pci), 0xe_0000..0xf_0000).unwrap();
            }
        }
    }
}
