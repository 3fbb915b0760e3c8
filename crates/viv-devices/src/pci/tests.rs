use std::sync::{Arc, Mutex};

use viv_engine::{Msi, MsiTarget};

use super::regs::{self, command};
use super::*;
use crate::irqchip::IrqChip;
use crate::{Device, DeviceError, MemoryIo, PortIo, SavedState, layout};

const MMIO32: u64 = 0xc000_0000;
const MMIO64: u64 = 0x40_0000_0000;
const ECAM: u64 = layout::PCI_ECAM_BASE;

/// A function that remembers the last write to a BAR.
struct Probe {
    config: ConfigSpace,
    last: LastWrite,
}

impl PciDevice for Probe {
    fn name(&self) -> &str {
        "probe0"
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(bar as u8 * 16 + offset as u8);
    }
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        *self.last.lock().unwrap() = Some((bar, offset, data.to_vec()));
    }
    fn rom_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xa0 | offset as u8);
    }
    fn reset(&mut self) {
        self.config.reset();
    }
    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode("probe0", 1, &self.config.save())
    }
    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        assert!(self.config.restore(&state.decode(1)?));
        Ok(())
    }
}

fn identity() -> Identity {
    let class = 0xff_00_00;
    Identity { vendor: 0x1234, device: 0x5678, revision: 9, class, subsystem_vendor: 1, subsystem: 2 }
}

type LastWrite = Arc<Mutex<Option<(usize, u64, Vec<u8>)>>>;

fn bus() -> (PciBus, LastWrite) {
    let windows = Windows {
        memory32: MMIO32..ECAM + layout::PCI_ECAM_SIZE,
        memory64: MMIO64..2 * MMIO64,
        ports: 0xc000..0xd000,
    };
    let bus = PciBus::new(windows, Placing::Machine);
    let mut config = ConfigSpace::new(identity());
    assert!(config.add_bar(0, Bar { kind: BarKind::Memory32, size: 0x1000 }));
    assert!(config.add_bar(1, Bar { kind: BarKind::Memory64, size: 8 << 30 }));
    assert!(!config.add_bar(2, Bar { kind: BarKind::Io, size: 32 }), "the upper half of BAR 1");
    assert!(config.add_bar(3, Bar { kind: BarKind::Io, size: 32 }));
    assert!(!config.add_bar(4, Bar { kind: BarKind::Memory32, size: 48 }), "no power of two");
    assert!(!config.add_bar(5, Bar { kind: BarKind::Memory64, size: 32 }), "no register for the upper half");
    assert!(!config.add_rom(1 << 10) && !config.add_rom(3 << 12), "no size of a ROM");
    assert!(config.add_rom(1 << 16));
    assert!(!config.add_rom(1 << 16), "there is one");
    let last = LastWrite::default();
    bus.add(3, Box::new(Probe { config, last: last.clone() })).unwrap();
    (bus, last)
}

fn select(host: &mut PciHost, slot: u32, register: u8) {
    PortIo::write(host, 0xcf8, &(0x8000_0000 | slot << 11 | u32::from(register & 0xfc)).to_le_bytes());
}

fn read32(host: &mut PciHost, slot: u32, register: u8) -> u32 {
    select(host, slot, register);
    let mut data = [0; 4];
    PortIo::read(host, 0xcfc, &mut data);
    u32::from_le_bytes(data)
}

fn write32(host: &mut PciHost, slot: u32, register: u8, value: u32) {
    select(host, slot, register);
    PortIo::write(host, 0xcfc, &value.to_le_bytes());
}

fn memory_read(host: &mut PciHost, address: u64) -> u32 {
    let mut data = [0; 4];
    MemoryIo::read(host, address - MMIO32, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn both_ways_to_configuration_space_lead_to_the_same() {
    let mut host = bus().0.host();
    assert_eq!(read32(&mut host, 3, 0), 0x5678_1234);
    assert_eq!(read32(&mut host, 0, 8), 0x0600_0000);
    assert_eq!(read32(&mut host, 4, 0), u32::MAX);
    assert_eq!(memory_read(&mut host, ECAM + (3 << 15)), 0x5678_1234);
    for elsewhere in [1 << 12, 1 << 20, 4 << 15] {
        assert_eq!(memory_read(&mut host, ECAM + (3 << 15) + elsewhere), u32::MAX);
    }
    assert_eq!(memory_read(&mut host, ECAM + (3 << 15) + 0x100), 0, "no extended capabilities");

    select(&mut host, 3, 0);
    let (mut byte, mut word, mut wide) = ([0], [0; 2], [0; 4]);
    PortIo::read(&mut host, 0xcff, &mut byte);
    PortIo::read(&mut host, 0xcfe, &mut word);
    PortIo::read(&mut host, 0xcfe, &mut wide);
    assert_eq!((byte, word, wide), ([0x56], [0x78, 0x56], [0x78, 0x56, 0xff, 0xff]));

    // Narrow accesses are not CONFIG_ADDRESS's, and without the enable bit nothing answers.
    PortIo::write(&mut host, 0xcf8, &[0]);
    let mut address = [0; 4];
    PortIo::read(&mut host, 0xcf8, &mut address);
    assert_eq!(u32::from_le_bytes(address), 0x8000_1800);
    PortIo::write(&mut host, 0xcf8, &[0; 4]);
    PortIo::read(&mut host, 0xcfc, &mut wide);
    assert_eq!(wide, [0xff; 4]);
}

#[test]
fn only_writable_bits_change() {
    let mut host = bus().0.host();
    for register in (0..=0xfc).step_by(4) {
        let bar = (regs::BAR0..regs::BAR0 + 24).contains(&register) || register == regs::ROM;
        if !bar && register != regs::COMMAND && register != regs::INTERRUPT_LINE && register != 0x0c {
            let before = read32(&mut host, 3, register);
            write32(&mut host, 3, register, !before);
            assert_eq!(read32(&mut host, 3, register), before, "register {register:#x}");
        }
    }
    write32(&mut host, 3, regs::COMMAND, u32::MAX);
    assert_eq!(read32(&mut host, 3, regs::COMMAND), u32::from(command::WRITABLE));
    PortIo::write(&mut host, 0xcfd, &[0]);
    assert_eq!(read32(&mut host, 3, regs::COMMAND), u32::from(command::WRITABLE & 0xff));
}

#[test]
fn bars_have_addresses_and_sizes() {
    let mut host = bus().0.host();
    let bars: Vec<_> = (0..6).map(|i| read32(&mut host, 3, regs::BAR0 + 4 * i)).collect();
    assert_eq!(bars, [MMIO32 as u32, 0b100, (MMIO64 >> 32) as u32, 0xc001, 0, 0]);
    for i in 0..6 {
        write32(&mut host, 3, regs::BAR0 + 4 * i, u32::MAX);
    }
    let sizes: Vec<_> = (0..6).map(|i| read32(&mut host, 3, regs::BAR0 + 4 * i)).collect();
    assert_eq!(sizes, [0xffff_f000, 0b100, 0xffff_fffe, 0xffff_ffe1, 0, 0]);
}

#[test]
fn routing_follows_the_bars() {
    let (bus, last) = bus();
    let mut host = bus.host();
    assert_eq!(memory_read(&mut host, MMIO32 + 8), 0x0808_0808);
    assert_eq!(memory_read(&mut host, MMIO32 + 0xffe), u32::MAX, "half of it is outside");
    let mut port = [0; 2];
    PortIo::read(&mut host, 0xc004, &mut port);
    assert_eq!(port, [0x34; 2]);
    let mut high = bus.high_window();
    MemoryIo::write(&mut high, 0x1_0000_0000, &[1, 2]);
    assert_eq!(last.lock().unwrap().take(), Some((1, 0x1_0000_0000, vec![1, 2])));

    write32(&mut host, 3, regs::BAR0, 0xd765_4000);
    assert_eq!(memory_read(&mut host, MMIO32 + 8), u32::MAX);
    assert_eq!(memory_read(&mut host, 0xd765_4008), 0x0808_0808);
    write32(&mut host, 3, regs::COMMAND, u32::from(command::IO_SPACE));
    assert_eq!(memory_read(&mut host, 0xd765_4008), u32::MAX);
    host.reset();
    assert_eq!(memory_read(&mut host, MMIO32 + 8), 0x0808_0808);
}

#[test]
fn a_rom_answers_when_it_is_enabled() {
    let mut host = bus().0.host();
    let place = MMIO32 + 0x1_0000;
    assert_eq!(read32(&mut host, 3, regs::ROM), place as u32, "it has a place and is off");
    assert_eq!(memory_read(&mut host, place + 4), u32::MAX);
    write32(&mut host, 3, regs::ROM, 0xffff_fffe);
    assert_eq!(read32(&mut host, 3, regs::ROM), 0xffff_0000);
    write32(&mut host, 3, regs::ROM, place as u32 | 1);
    assert_eq!(memory_read(&mut host, place + 4), 0xa4a4_a4a4);
    MemoryIo::write(&mut host, place + 4 - MMIO32, &[0]);
    assert_eq!(memory_read(&mut host, place + 0xfffe), u32::MAX, "half of it is outside");
    write32(&mut host, 3, regs::COMMAND, 0);
    assert_eq!(memory_read(&mut host, place + 4), u32::MAX);
    host.reset();
    assert_eq!(read32(&mut host, 3, regs::ROM), place as u32);
}

#[test]
fn slots_are_taken_once_and_windows_fill_up() {
    let (bus, last) = bus();
    let probe = |size| {
        let mut config = ConfigSpace::new(identity());
        assert!(config.add_bar(0, Bar { kind: BarKind::Memory32, size }));
        Box::new(Probe { config, last: last.clone() })
    };
    assert!(matches!(bus.add(3, probe(16)), Err(PciError::Slot { .. })));
    assert!(matches!(bus.add(32, probe(16)), Err(PciError::Slot { .. })));
    assert!(matches!(bus.add(4, probe(1 << 31)), Err(PciError::NoRoom { .. })));
    bus.add(4, probe(16)).unwrap();
}

#[test]
fn a_restored_bus_routes_as_the_saved_one() {
    let mut host = bus().0.host();
    write32(&mut host, 3, regs::BAR0, 0xd765_4000);
    let state = host.save().unwrap();
    let mut other = bus().0.host();
    other.restore(&state).unwrap();
    assert_eq!(memory_read(&mut other, 0xd765_4008), 0x0808_0808);
    let mut data = [0; 4];
    PortIo::read(&mut other, 0xcf8, &mut data);
    assert_eq!(u32::from_le_bytes(data) & 0xfc, u32::from(regs::BAR0));

    let empty =
        PciBus::new(Windows { memory32: MMIO32..ECAM, memory64: 0..0, ports: 0..0 }, Placing::Machine);
    assert!(matches!(empty.host().restore(&state), Err(DeviceError::Invalid { .. })));
    let truncated = SavedState { data: state.data[..20].to_vec(), ..state };
    assert!(matches!(empty.host().restore(&truncated), Err(DeviceError::Decode { .. })));
}

#[test]
fn capabilities_are_linked_until_there_is_no_room() {
    let mut config = ConfigSpace::new(identity());
    let mut offsets = Vec::new();
    while let Some(at) = config.add_capability(regs::capability::VENDOR, &[0xaa; 14], &[0x0f]) {
        offsets.push(at);
    }
    assert_eq!(offsets, (0..12).map(|i| 0x40 + i * 16).collect::<Vec<u8>>());
    let mut walked = vec![config.u16_at(regs::CAPABILITIES_POINTER) as u8];
    while let next @ 1.. = (config.u16_at(*walked.last().unwrap()) >> 8) as u8 {
        walked.push(next);
    }
    assert_eq!(walked, offsets);
    config.write(0x40, &[0xff; 4]);
    assert_eq!(config.u32_at(0x40), 0xaaaf_5009);
}

#[derive(Default)]
struct Sent(Mutex<Vec<Msi>>);

impl MsiTarget for Sent {
    fn send_msi(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi);
    }
}

#[test]
fn masked_messages_wait() {
    let sent = Arc::new(Sent::default());
    let mut msix = MsiX::new(10, sent.clone());
    let taken = || std::mem::take(&mut *sent.0.lock().unwrap());
    msix.write_table(9 * 16, &0x1_fee0_0000_u64.to_le_bytes());
    msix.write_table(9 * 16 + 8, &0x41_u32.to_le_bytes());
    msix.signal(9);
    msix.set_control(0x8000);
    assert_eq!(taken(), [], "what happened before it was switched on is not sent");
    msix.signal(9);
    msix.signal(9);
    msix.signal(10);
    let mut bits = [0; 8];
    msix.read_pending(0, &mut bits);
    assert_eq!(bits, [0, 2, 0, 0, 0, 0, 0, 0]);

    let saved = msix.save();
    let mut restored = MsiX::new(10, sent.clone());
    assert!(restored.restore(&saved) && !MsiX::new(9, sent.clone()).restore(&saved));

    for msix in [&mut msix, &mut restored] {
        msix.set_control(0xc000);
        msix.write_table(9 * 16 + 12, &0_u32.to_le_bytes());
        assert_eq!(taken(), [], "the function is masked");
        msix.set_control(0x8000);
        assert_eq!(taken(), [Msi { address: 0x1_fee0_0000, data: 0x41 }]);
        msix.signal(9);
        assert_eq!(taken().len(), 1);
    }
    let mut entry = [0; 8];
    msix.read_table(9 * 16 + 8, &mut entry);
    assert_eq!(entry, [0x41, 0, 0, 0, 0, 0, 0, 0]);
    for (offset, length) in [(2, 4), (0, 2), (10 * 16, 8), (u64::MAX - 3, 8)] {
        msix.write_table(offset, &vec![0xff; length]);
        let mut data = vec![1; length];
        msix.read_table(offset, &mut data);
        assert_eq!(data, vec![0; length]);
    }
    msix.reset();
    msix.signal(9);
    assert_eq!(taken(), []);
}

#[test]
fn firmware_places_bars_and_moves_the_ecam() {
    let windows = Windows { memory32: MMIO32..0xf000_0000, memory64: 0..0, ports: 0..0 };
    let bus = PciBus::new(windows, Placing::Firmware);
    let mut config = ConfigSpace::new(identity());
    assert!(config.add_bar(0, Bar { kind: BarKind::Memory32, size: 0x1000 }));
    bus.add(3, Box::new(Probe { config, last: LastWrite::default() })).unwrap();
    let mut host = bus.host();
    assert_eq!((read32(&mut host, 3, regs::BAR0), read32(&mut host, 3, 4) & 3), (0, 0), "no address yet");
    assert_eq!((bus.ecam(), memory_read(&mut host, ECAM)), (None, u32::MAX));

    for (register, base) in
        [(0xd000_0001, 0xd000_0000), (0xd400_0005, 0xd400_0000), (0xdc00_0003, 0xd800_0000)]
    {
        write32(&mut host, 0, 0x60, register);
        assert_eq!(bus.ecam().map(|ecam| ecam.start), Some(base));
        assert_eq!(memory_read(&mut host, base + (3 << 15)), 0x5678_1234);
    }
    let saved = host.save().unwrap();
    host.reset();
    assert_eq!(bus.ecam(), None);
    host.restore(&saved).unwrap();
    assert_eq!(bus.ecam(), Some(0xd800_0000..0xe000_0000));
    write32(&mut host, 0, 0x60, 0xd000_0000);
    assert_eq!(bus.ecam(), None, "switched off");
}

#[test]
fn the_isa_bridge_routes_interrupts() {
    let chip = IrqChip::new(Arc::new(Nobody), Arc::new(Nobody));
    let pirqs = Pirqs::new(Arc::clone(&chip));
    let bus = PciBus::new(Windows { memory32: 0..0, memory64: 0..0, ports: 0..0 }, Placing::Firmware);
    bus.add(layout::LPC_SLOT, Box::new(Lpc::new(Arc::clone(&pirqs)))).unwrap();
    let mut host = bus.host();
    // The 8259s as the PC's firmware leaves them, but with nothing masked.
    let mut chips = crate::irqchip::IrqChipDevice::new(Arc::clone(&chip));
    for (port, value) in [(0x20, 0x11), (0x21, 0x08), (0x21, 4), (0x21, 1), (0x21, 0)] {
        PortIo::write(&mut chips, port, &[value]);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, 0), (0x4d1, 0x0c)] {
        PortIo::write(&mut chips, port, &[value]);
    }
    // Slot 2 is at PIRQG#, the second group's third register.
    let line = pirqs.line(2);
    line.set(true);
    assert_eq!(chip.acknowledge(), None, "routed to no ISA interrupt");
    write32(&mut host, layout::LPC_SLOT.into(), 0x68, 0x800b_8080);
    assert_eq!(chip.acknowledge(), Some(0x73));
    let second = pirqs.line(6);
    second.set(true);
    line.set(false);
    PortIo::write(&mut chips, 0xa0, &[0x20]);
    PortIo::write(&mut chips, 0x20, &[0x20]);
    assert_eq!(chip.acknowledge(), Some(0x73), "the other source holds it");
    second.set(false);
    PortIo::write(&mut chips, 0xa0, &[0x20]);
    PortIo::write(&mut chips, 0x20, &[0x20]);
    assert_eq!(chip.acknowledge(), None);
    line.set(true);
    host.reset();
    assert_eq!(chip.acknowledge(), None, "no route after a reset");
}

struct Nobody;

impl MsiTarget for Nobody {
    fn send_msi(&self, _: Msi) {}
}

impl viv_engine::ExtIntTarget for Nobody {
    fn set_extint(&self, _: bool) {}
}

#[test]
fn what_was_last_read_of_the_status_is_not_saved() {
    let mut config = ConfigSpace::new(identity());
    let saved = config.save();
    config.set_interrupt_status(true);
    assert_eq!(config.save(), saved);
}
