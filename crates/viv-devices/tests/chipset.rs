//! The whole chipset on one bus, as a machine puts it together.

use std::sync::{Arc, Mutex};

use viv_devices::a20::A20Gate;
use viv_devices::acpi_pm::AcpiPm;
use viv_devices::bus::{PortRange, lock};
use viv_devices::debug_port::DebugPort;
use viv_devices::exit_port::ExitPort;
use viv_devices::fw_cfg::{FwCfg, MachineFacts};
use viv_devices::hpet::Hpet;
use viv_devices::i8042::I8042;
use viv_devices::irq::{Gate, InterruptController};
use viv_devices::irqchip::{IrqChip, IrqChipDevice};
use viv_devices::pflash::{MemoryStore, Pflash};
use viv_devices::pit::Pit;
use viv_devices::reset::ResetPorts;
use viv_devices::rtc::{MemorySize, Rtc};
use viv_devices::system::{SystemControl, SystemRequest};
use viv_devices::uart::{CharBackend, Uart};
use viv_devices::{IoBus, SharedDevice, layout};
use viv_engine::time::ManualClock;
use viv_engine::{A20Target, Clock, ExtIntTarget, Msi, MsiTarget, Timer};

#[derive(Default)]
struct World {
    messages: Mutex<Vec<Msi>>,
    extint: Mutex<bool>,
    requests: Mutex<Vec<SystemRequest>>,
    console: Mutex<Vec<u8>>,
}

impl MsiTarget for World {
    fn send_msi(&self, msi: Msi) {
        self.messages.lock().unwrap().push(msi);
    }
}

impl ExtIntTarget for World {
    fn set_extint(&self, asserted: bool) {
        *self.extint.lock().unwrap() = asserted;
    }
}

impl A20Target for World {}

impl SystemControl for World {
    fn request(&self, request: SystemRequest) {
        self.requests.lock().unwrap().push(request);
    }
}

struct Console(Arc<World>);

impl CharBackend for Console {
    fn transmit(&mut self, data: &[u8]) -> usize {
        self.0.console.lock().unwrap().extend(data);
        data.len()
    }

    fn input_wanted(&mut self) {}
}

#[derive(Default)]
struct Alarm(Mutex<Option<u64>>);

impl Timer for Alarm {
    fn arm(&self, deadline: u64) {
        *self.0.lock().unwrap() = Some(deadline);
    }

    fn disarm(&self) {
        *self.0.lock().unwrap() = None;
    }
}

struct Machine {
    world: Arc<World>,
    clock: Arc<ManualClock>,
    pit_alarm: Arc<Alarm>,
    bus: IoBus,
    chip: Arc<IrqChip>,
    pit: SharedDevice,
    devices: Vec<SharedDevice>,
}

fn machine() -> Machine {
    let world = Arc::new(World::default());
    let clock = Arc::new(ManualClock::default());
    let pit_alarm = Arc::new(Alarm::default());
    let chip = IrqChip::new(world.clone(), world.clone());
    let (bus, mut devices) = (IoBus::new(), Vec::new());
    let mut add = |device: SharedDevice, ports: &[PortRange]| {
        for &range in ports {
            bus.map_ports(range, device.clone()).unwrap();
        }
        devices.push(device.clone());
        device
    };
    let irqchip = add(Arc::new(Mutex::new(IrqChipDevice::new(chip.clone()))), &IrqChip::PORTS);
    let legacy = Gate::new(chip.clone() as Arc<dyn InterruptController>);
    let pit = Pit::new(clock.clone(), pit_alarm.clone(), legacy.line(layout::PIT_IRQ));
    let pit = add(Arc::new(Mutex::new(pit)), &Pit::PORTS);
    let memory = MemorySize { below_4_gib: 1 << 30, above_4_gib: 0 };
    let rtc = Rtc::new(clock.clone(), Arc::new(Alarm::default()), legacy.line(layout::RTC_IRQ), memory);
    add(Arc::new(Mutex::new(rtc)), &Rtc::PORTS);
    let console = Box::new(Console(world.clone()));
    let uart = Uart::new(0, layout::UART0, chip.line(layout::UART0_IRQ), console);
    add(Arc::new(Mutex::new(uart)), &Uart::PORTS);
    let a20 = A20Gate::new(world.clone());
    let keyboard = I8042::new(chip.line(layout::KEYBOARD_IRQ), world.clone(), a20.clone());
    add(Arc::new(Mutex::new(keyboard)), &I8042::PORTS);
    add(Arc::new(Mutex::new(ResetPorts::new(world.clone(), a20))), &ResetPorts::PORTS);
    let alarm = Arc::new(Alarm::default());
    let pm = AcpiPm::new(clock.clone(), alarm, chip.line(layout::SCI_IRQ), world.clone());
    add(Arc::new(Mutex::new(pm.with_legacy_mode())), &[AcpiPm::PORTS, AcpiPm::APM_PORTS].concat());
    for port in [layout::DEBUG_PORT, layout::FIRMWARE_LOG] {
        add(Arc::new(Mutex::new(DebugPort::new(port, Box::new(|_| {})))), &DebugPort::ports(port));
    }
    add(Arc::new(Mutex::new(ExitPort::new(world.clone()))), &ExitPort::PORTS);
    let ram = viv_engine::memory::allocate(1 << 20).unwrap();
    let facts = MachineFacts {
        uuid: [7; 16],
        ram_size: 1 << 20,
        cpus: 1,
        max_cpus: 1,
        display: false,
        boot_menu: false,
    };
    add(Arc::new(Mutex::new(FwCfg::new(ram, &facts))), &FwCfg::PORTS);
    let alarm = Arc::new(Alarm::default());
    let hpet = Hpet::new(clock.clone(), alarm, |gsi| chip.line(gsi), legacy);
    let hpet = add(Arc::new(Mutex::new(hpet)), &[]);
    let variables = Pflash::new(0, Box::new(MemoryStore::new(vec![0xff; 0x2000]))).unwrap();
    let variables = add(Arc::new(Mutex::new(variables)), &[]);
    bus.map_memory(layout::IOAPIC_BASE, layout::IOAPIC_SIZE, irqchip).unwrap();
    bus.map_memory(layout::HPET_BASE, layout::HPET_SIZE, hpet).unwrap();
    bus.map_memory(0x1_0000_0000 - 0x2000, 0x2000, variables).unwrap();
    Machine { world, clock, pit_alarm, bus, chip, pit, devices }
}

impl Machine {
    fn out(&self, writes: &[(u16, u8)]) {
        for &(port, value) in writes {
            self.bus.port_write(port, &[value]);
        }
    }

    /// Sets the 8259s up as Linux does, with every line but the cascade masked.
    fn initialize_pics(&self) {
        self.out(&[(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfb)]);
        self.out(&[(0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, 1), (0xa1, 0xff)]);
    }

    fn program_ioapic(&self, pin: u32, entry: u32) {
        self.bus.memory_write(layout::IOAPIC_BASE, &(0x10 + 2 * pin).to_le_bytes());
        self.bus.memory_write(layout::IOAPIC_BASE + 0x10, &entry.to_le_bytes());
    }
}

#[test]
fn no_two_devices_want_the_same_port_and_names_are_unique() {
    let machine = machine();
    let mut names: Vec<_> = machine.devices.iter().map(|device| lock(device).name().to_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), machine.devices.len());
    let host_bridge = machine.devices[0].clone();
    machine.bus.map_dword_port(layout::PCI_CONFIG_ADDRESS, host_bridge.clone()).unwrap();
    machine.bus.map_ports(PortRange::new(layout::PCI_CONFIG_DATA, 4), host_bridge).unwrap();
}

#[test]
fn the_timer_interrupts_by_way_of_the_8259() {
    let m = machine();
    m.initialize_pics();
    m.out(&[(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e), (0x21, 0xfa)]);
    // The rise of OUT at the control word has left a request.
    assert_eq!(m.chip.acknowledge(), Some(0x30));
    m.out(&[(0x20, 0x20)]);
    for _ in 0..3 {
        assert!(!*m.world.extint.lock().unwrap());
        let deadline = m.pit_alarm.0.lock().unwrap().take().unwrap();
        m.clock.advance(deadline - m.clock.now());
        lock(&m.pit).timer_events().unwrap().on_timer(deadline);
        assert!(*m.world.extint.lock().unwrap());
        assert_eq!(m.chip.acknowledge(), Some(0x30));
        m.out(&[(0x20, 0x20)]);
    }
    let elapsed = m.clock.now();
    assert!((30_000_000..30_100_000).contains(&elapsed), "three periods of 10 ms: {elapsed}");
}

#[test]
fn the_console_interrupts_by_way_of_the_ioapic() {
    let m = machine();
    m.program_ioapic(layout::UART0_IRQ, 0x34);
    m.out(&[(0x3fa, 1), (0x3f9, 2)]);
    let mut iir = [0];
    m.bus.port_read(0x3fa, &mut iir);
    assert_eq!(iir, [0xc2]);
    for &byte in b"login: " {
        m.out(&[(0x3f8, byte)]);
    }
    assert_eq!(*m.world.console.lock().unwrap(), b"login: ");
    let vectors: Vec<u8> = m.world.messages.lock().unwrap().iter().map(|msi| msi.vector()).collect();
    assert_eq!(vectors, [0x34, 0x34]);
}

#[test]
fn the_hpet_takes_the_timers_place() {
    let m = machine();
    m.program_ioapic(layout::PIT_IOAPIC_PIN, 0x40);
    m.out(&[(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)]);
    let vectors = || -> Vec<u8> {
        std::mem::take(&mut *m.world.messages.lock().unwrap()).iter().map(|msi| msi.vector()).collect()
    };
    let ring_pit = || {
        let deadline = m.pit_alarm.0.lock().unwrap().take().unwrap();
        m.clock.advance(deadline - m.clock.now());
        lock(&m.pit).timer_events().unwrap().on_timer(deadline);
    };
    ring_pit();
    assert_eq!(vectors(), [0x40, 0x40], "the mode, and the first period");
    // Legacy replacement, and comparator 0 by edge, 1000 ticks from now.
    for (register, value) in [(0x10, 3), (0x100, 4), (0x108, 1000)] {
        m.bus.memory_write(layout::HPET_BASE + register, &u32::to_le_bytes(value));
    }
    m.bus.memory_write(layout::HPET_BASE + 0x10c, &[0; 4]);
    ring_pit();
    assert_eq!(vectors(), [], "from the PIT");
    let mut counter = [0; 8];
    m.bus.memory_read(layout::HPET_BASE + 0xf0, &mut counter);
    assert!(u64::from_le_bytes(counter) > 1000);
    assert_eq!(vectors(), [0x40], "from the HPET");
}

#[test]
fn a_guest_switches_the_machine_off() {
    let m = machine();
    let value = u16::from(layout::SLEEP_TYPE_S5) << 10 | 1 << 13;
    m.bus.port_write(layout::PM1_CONTROL, &value.to_le_bytes());
    m.out(&[(layout::RESET_PORT, layout::RESET_VALUE), (layout::I8042_COMMAND, 0xfe)]);
    let requests = m.world.requests.lock().unwrap().clone();
    assert_eq!(requests, [SystemRequest::PowerOff, SystemRequest::Reset, SystemRequest::Reset]);
}

#[test]
fn a_machine_saved_is_restored_in_any_order() {
    let m = machine();
    m.initialize_pics();
    m.out(&[(0x43, 0x36), (0x40, 0x9c), (0x40, 0x2e), (0x3fa, 1), (0x3f9, 3), (0x21, 0xee)]);
    m.program_ioapic(layout::SCI_IRQ, 0x8039);
    let saved: Vec<_> = m.devices.iter().map(|device| lock(device).save().unwrap()).collect();
    for backwards in [false, true] {
        let other = machine();
        let mut order: Vec<_> = other.devices.iter().zip(&saved).collect();
        if backwards {
            order.reverse();
        }
        for (device, state) in order {
            lock(device).restore(state).unwrap();
        }
        for (device, state) in other.devices.iter().zip(&saved) {
            assert_eq!(lock(device).save().unwrap(), *state);
        }
        assert!(*other.world.extint.lock().unwrap());
        assert_eq!(other.chip.acknowledge(), Some(0x30), "the timer, and then");
        other.out(&[(0x20, 0x20)]);
        assert_eq!(other.chip.acknowledge(), Some(0x34), "the console");
        assert!(other.world.messages.lock().unwrap().is_empty());
    }
}
