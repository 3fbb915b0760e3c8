//! The devices of the chipset, the firmware's and the test programs'.

use std::sync::{Arc, Mutex};

use super::backends::{Memory, Moody};
use super::bench::{Bench, Outside, Store};
use super::heard::Heard;
use super::{Area, Target, idioms, nothing};
use crate::a20::A20Gate;
use crate::acpi_pm::AcpiPm;
use crate::cpu_hotplug::CpuHotplug;
use crate::debug_port::DebugPort;
use crate::exit_port::ExitPort;
use crate::fw_cfg::{Content, FwCfg, MachineFacts};
use crate::generation_id::GenerationId;
use crate::hpet::Hpet;
use crate::i8042::{I8042, Key, MouseInput};
use crate::irq::{Gate, IrqLine};
use crate::irqchip::{IrqChip, IrqChipDevice};
use crate::layout;
use crate::pflash::Pflash;
use crate::pit::Pit;
use crate::pvpanic::PvPanic;
use crate::reset::ResetPorts;
use crate::rtc::{MemorySize, Rtc};
use crate::tco::Tco;
use crate::testing::Alarm;
use crate::uart::Uart;

/// Where flash memory lies, and how large it is here.
pub(super) const FLASH: u64 = 0xffe0_0000;
const FLASH_SIZE: u64 = 0x1_0000;

pub(super) const PIC: Target = Target {
    programs: 40,
    make: irqchip,
    areas: &[Area::Ports(layout::PIC_MASTER, 2), Area::Ports(layout::PIC_SLAVE, 2), Area::Ports(0x4d0, 2)],
    prologue: idioms::initialize_pics,
    idiom: idioms::pic,
};

pub(super) const IOAPIC: Target = Target {
    programs: 40,
    make: irqchip,
    areas: &[Area::Memory(layout::IOAPIC_BASE, 0x48), Area::Memory(layout::IOAPIC_BASE, layout::IOAPIC_SIZE)],
    prologue: nothing,
    idiom: idioms::ioapic,
};

pub(super) const PIT: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let alarm = Arc::new(Alarm::default());
        let pit = Pit::new(bench.clock.clone(), alarm.clone(), bench.line(layout::PIT_IRQ));
        let pit = bench.add(pit, &Pit::PORTS);
        bench.attach(pit, alarm);
        bench
    },
    areas: &[Area::Ports(layout::PIT, 4), Area::Ports(layout::PORT_B, 1)],
    prologue: nothing,
    idiom: idioms::pit,
};

pub(super) const RTC: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let alarm = Arc::new(Alarm::default());
        let memory = MemorySize { below_4_gib: 3 << 30, above_4_gib: 5 << 30 };
        let rtc = Rtc::new(bench.clock.clone(), alarm.clone(), bench.line(layout::RTC_IRQ), memory);
        let rtc = bench.add(rtc, &Rtc::PORTS);
        bench.attach(rtc, alarm);
        bench
    },
    areas: &[Area::Ports(layout::RTC_INDEX, 2)],
    prologue: nothing,
    idiom: idioms::rtc,
};

pub(super) const HPET: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let alarm = Arc::new(Alarm::default());
        let gate = Gate::new(bench.heard.clone());
        let hpet = Hpet::new(bench.clock.clone(), alarm.clone(), |gsi| bench.line(gsi), gate);
        let hpet = bench.add(hpet, &[]);
        bench.map_memory(layout::HPET_BASE, layout::HPET_SIZE, hpet.clone());
        bench.attach(hpet, alarm);
        bench
    },
    areas: &[Area::Memory(layout::HPET_BASE, layout::HPET_SIZE)],
    prologue: nothing,
    idiom: idioms::hpet,
};

pub(super) const ACPI_PM: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let alarm = Arc::new(Alarm::default());
        let line = bench.line(layout::SCI_IRQ);
        let power = AcpiPm::new(bench.clock.clone(), alarm.clone(), line, bench.heard.clone());
        let ports = [AcpiPm::PORTS, AcpiPm::APM_PORTS].concat();
        let power = bench.add(power.with_legacy_mode(), &ports);
        bench.outside = Some(Box::new(Power(power.clone())));
        bench.attach(power, alarm);
        bench
    },
    areas: &[Area::Ports(layout::ACPI_PM.start, 0x60), Area::Ports(layout::APM_CONTROL, 2)],
    prologue: nothing,
    idiom: idioms::acpi_pm,
};

/// The ports with which the A20 gate is saved.
fn add_reset_ports(bench: &mut Bench) -> Arc<A20Gate> {
    let gate = A20Gate::new(bench.heard.clone());
    bench.add(ResetPorts::new(bench.heard.clone(), gate.clone()), &ResetPorts::PORTS);
    gate
}

pub(super) const RESET: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        add_reset_ports(&mut bench);
        bench
    },
    areas: &[Area::Ports(layout::RESET_PORT, 1), Area::Ports(layout::PORT_A, 1)],
    prologue: nothing,
    idiom: idioms::none,
};

pub(super) const UART: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let store = bench.store(vec![7; 8]);
        let backend = Box::new(Moody { store, heard: bench.heard.clone() });
        let uart = Uart::new(0, layout::UART0, bench.line(layout::UART0_IRQ), backend);
        let uart = bench.add(uart, &Uart::PORTS);
        bench.outside = Some(Box::new(Wire { uart, heard: bench.heard.clone() }));
        bench
    },
    areas: &[Area::Ports(layout::UART0, layout::UART_PORTS)],
    prologue: nothing,
    idiom: idioms::none,
};

pub(super) const I8042_ALONE: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let gate = add_reset_ports(&mut bench);
        let device = I8042::new(bench.line(layout::KEYBOARD_IRQ), bench.heard.clone(), gate);
        bench.add(device, &I8042::PORTS);
        bench
    },
    areas: &[Area::Ports(layout::I8042_DATA, 1), Area::Ports(layout::I8042_COMMAND, 1)],
    prologue: nothing,
    idiom: idioms::i8042,
};

pub(super) const I8042_DEVICES: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let (keyboard, mouse) = (bench.line(layout::KEYBOARD_IRQ), bench.line(layout::MOUSE_IRQ));
        let gate = add_reset_ports(&mut bench);
        let device = I8042::with_devices(keyboard, mouse, bench.heard.clone(), gate);
        let device = bench.add(device, &I8042::PORTS);
        bench.outside = Some(Box::new(User(device)));
        bench
    },
    prologue: idioms::open_ps2_ports,
    ..I8042_ALONE
};

pub(super) const DEBUG_PORT: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let heard = bench.heard.clone();
        let port = layout::DEBUG_PORT;
        bench.add(DebugPort::new(port, Box::new(move |text| heard.bytes(text))), &DebugPort::ports(port));
        bench
    },
    areas: &[Area::Ports(layout::DEBUG_PORT, 1)],
    prologue: nothing,
    idiom: idioms::none,
};

pub(super) const CPU_HOTPLUG: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let device = CpuHotplug::new(2, 6, bench.heard.clone());
        let device = bench.add(device, &CpuHotplug::PORTS);
        bench.outside = Some(Box::new(Operator(device)));
        bench
    },
    areas: &[Area::Ports(layout::CPU_HOTPLUG, layout::CPU_HOTPLUG_LENGTH)],
    prologue: nothing,
    idiom: idioms::cpu_hotplug,
};

/// Somebody who wants more or fewer CPUs.
struct Operator(Arc<Mutex<CpuHotplug>>);

impl Outside for Operator {
    fn happen(&mut self, what: u64) {
        self.0.lock().unwrap().set_wanted((what >> 8) as u32 % 8);
    }
}

pub(super) const EXIT_PORT: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        bench.add(ExitPort::new(bench.heard.clone()), &ExitPort::PORTS);
        bench
    },
    areas: &[Area::Ports(layout::EXIT_PORT, 4)],
    prologue: nothing,
    idiom: idioms::none,
};

pub(super) const PVPANIC: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        bench.add(PvPanic::new(bench.heard.clone()), &PvPanic::PORTS);
        bench
    },
    areas: &[Area::Ports(layout::PANIC_PORT, 1)],
    prologue: nothing,
    idiom: idioms::none,
};

pub(super) const TCO: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let alarm = Arc::new(Alarm::default());
        let tco = Tco::new(bench.clock.clone(), alarm.clone(), bench.heard.clone());
        let tco = bench.add(tco, &Tco::PORTS);
        bench.attach(tco, alarm);
        bench
    },
    areas: &[Area::Ports(layout::TCO.start, 0x20)],
    prologue: nothing,
    idiom: idioms::tco,
};

pub(super) const GENERATION_ID: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let device = bench.add(GenerationId::new([7; 16]), &[]);
        let page = layout::GENERATION_ID;
        bench.map_memory(page.start, page.end - page.start, device.clone());
        bench.outside = Some(Box::new(Host(device)));
        bench
    },
    areas: &[
        Area::Memory(layout::GENERATION_ID.start, 0x20),
        Area::Memory(layout::GENERATION_ID.start, 0x1000),
    ],
    prologue: nothing,
    idiom: idioms::none,
};

/// Somebody who restores machines.
struct Host(Arc<Mutex<GenerationId>>);

impl Outside for Host {
    fn happen(&mut self, what: u64) {
        self.0.lock().unwrap().renew(u128::from(what).to_le_bytes());
    }
}

pub(super) const FW_CFG: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let facts = MachineFacts {
            uuid: *b"0123456789abcdef",
            ram_size: 5 << 30,
            cpus: 2,
            max_cpus: 4,
            display: false,
            boot_menu: true,
        };
        let mut device = FwCfg::new(bench.memory.clone(), &facts);
        let made = Content::Made { size: 0x1234, make: Box::new(|| vec![0x5a; 0x1000]) };
        for (name, content) in [
            ("etc/tables", made),
            ("etc/address", Content::Writable(vec![0xaa; 100])),
            ("bootorder", Content::Bytes(b"disk0\0".to_vec())),
        ] {
            device.add_file(name, content).unwrap();
        }
        bench.add(device, &FwCfg::PORTS);
        bench
    },
    areas: &[Area::Ports(layout::FW_CFG, 2), Area::Ports(layout::FW_CFG_DMA, 8)],
    prologue: nothing,
    idiom: idioms::fw_cfg,
};

pub(super) const PFLASH: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let store = bench.store((0..FLASH_SIZE).map(|at| at as u8 | 1).collect());
        let chip = Memory { store, heard: bench.heard.clone(), read_only: false };
        let chip = bench.add(Pflash::new(0, Box::new(chip)).unwrap(), &[]);
        bench.map_memory(FLASH, FLASH_SIZE, chip);
        bench
    },
    areas: &[Area::Memory(FLASH, FLASH_SIZE)],
    prologue: nothing,
    idiom: idioms::pflash,
};

/// Both kinds of controller, with lines that come and go. The store has the lines' levels.
fn irqchip() -> Bench {
    let mut bench = Bench::new();
    let chip = IrqChip::new(bench.heard.clone(), bench.heard.clone());
    let device = bench.add(IrqChipDevice::new(chip.clone()), &IrqChip::PORTS);
    bench.map_memory(layout::IOAPIC_BASE, layout::IOAPIC_SIZE, device);
    let lines: Vec<_> = (0..layout::IOAPIC_PINS).map(|gsi| chip.line(gsi)).collect();
    let levels = bench.store(vec![0; lines.len()]);
    bench.outside = Some(Box::new(Processor { chip, lines, levels, heard: bench.heard.clone() }));
    bench
}

struct Processor {
    chip: Arc<IrqChip>,
    lines: Vec<IrqLine>,
    levels: Store,
    heard: Arc<Heard>,
}

impl Outside for Processor {
    fn happen(&mut self, what: u64) {
        match what & 7 {
            0 => self.chip.end_of_interrupt((what >> 8) as u8),
            1 | 2 => self.heard.bytes(self.chip.acknowledge().as_slice()),
            _ => {
                let index = (what >> 8) as usize % self.lines.len();
                let level = what >> 16 & 1;
                self.levels.lock().unwrap()[index] = level as u8;
                self.lines[index].set(level != 0);
            }
        }
    }

    fn adopt(&mut self) {
        for (line, level) in self.lines.iter().zip(self.levels.lock().unwrap().iter()) {
            line.set(*level != 0);
        }
    }
}

struct Power(Arc<Mutex<AcpiPm>>);

impl Outside for Power {
    fn happen(&mut self, what: u64) {
        let mut power = self.0.lock().unwrap();
        if what & 1 == 0 {
            power.press_power_button();
        } else {
            power.raise_gpe((what >> 8) as u8);
        }
    }
}

struct Wire {
    uart: Arc<Mutex<Uart>>,
    heard: Arc<Heard>,
}

impl Outside for Wire {
    fn happen(&mut self, what: u64) {
        let bytes = what.to_le_bytes();
        let mut uart = self.uart.lock().unwrap();
        if what & 1 == 0 {
            let taken = uart.enqueue(&bytes[..bytes[1] as usize % 9]);
            self.heard.bytes(&[taken as u8]);
        } else {
            uart.drain();
        }
    }

    /// The far end takes something sooner or later.
    fn settle(&mut self) {
        let mut uart = self.uart.lock().unwrap();
        (0..64).for_each(|_| uart.drain());
    }
}

struct User(Arc<Mutex<I8042>>);

impl Outside for User {
    fn happen(&mut self, what: u64) {
        let [kind, a, b, c, d, e, f, _] = what.to_le_bytes();
        let mut device = self.0.lock().unwrap();
        if kind & 1 == 0 {
            let name = Key::names().nth(usize::from(a)).unwrap_or("a");
            device.key(Key::by_name(name).unwrap(), b & 1 == 0);
        } else {
            device.mouse(MouseInput {
                right: i16::from_le_bytes([a, b]),
                down: i16::from_le_bytes([c, d]),
                wheel: e.cast_signed(),
                buttons: f,
            });
        }
    }
}
