use super::*;
use crate::device::{DeviceError, MemoryIo, PortIo, SavedState};

/// Answers each byte with its number, and keeps what was written.
#[derive(Default)]
struct Echo {
    writes: Vec<(u64, Vec<u8>)>,
    reads: Vec<(u64, usize)>,
}

impl Device for Echo {
    fn name(&self) -> &str {
        "echo"
    }
    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
    fn memory_io(&mut self) -> Option<&mut dyn MemoryIo> {
        Some(self)
    }
    fn reset(&mut self) {}
    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode("echo", 1, &())
    }
    fn restore(&mut self, _: &SavedState) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl PortIo for Echo {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        MemoryIo::read(self, port.into(), data);
    }
    fn write(&mut self, port: u16, data: &[u8]) {
        MemoryIo::write(self, port.into(), data);
    }
}

impl MemoryIo for Echo {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.reads.push((offset, data.len()));
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = (offset as usize + index) as u8;
        }
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.writes.push((offset, data.to_vec()));
    }
}

fn echo() -> Arc<Mutex<Echo>> {
    Arc::default()
}

#[test]
fn ports_reach_their_device_whole() {
    let (bus, a, b) = (IoBus::new(), echo(), echo());
    bus.map_ports(PortRange::new(0x70, 2), b.clone()).unwrap();
    bus.map_ports(PortRange::new(0x40, 4), a.clone()).unwrap();
    let mut data = [0; 4];
    bus.port_read(0x40, &mut data);
    assert_eq!(data, [0x40, 0x41, 0x42, 0x43]);
    bus.port_write(0x71, &[9]);
    assert_eq!(a.lock().unwrap().reads, [(0x40, 4)]);
    assert_eq!(b.lock().unwrap().writes, [(0x71, vec![9])]);
}

#[test]
fn what_nobody_claims_reads_as_ones() {
    let bus = IoBus::new();
    let mut data = [0; 8];
    bus.memory_read(0xfed0_0000, &mut data);
    assert_eq!(data, [0xff; 8]);
    bus.memory_read(u64::MAX, &mut data);
    let mut data = [0; 4];
    bus.port_read(0xffff, &mut data);
    assert_eq!(data, [0xff; 4]);
    bus.port_write(0xfffe, &data);
    bus.memory_write(u64::MAX - 1, &data);
}

#[test]
fn accesses_across_the_end_of_a_range_are_split() {
    let (bus, a, b) = (IoBus::new(), echo(), echo());
    bus.map_ports(PortRange::new(0x60, 1), a.clone()).unwrap();
    bus.map_ports(PortRange::new(0x61, 1), b.clone()).unwrap();
    let mut data = [0; 4];
    bus.port_read(0x60, &mut data);
    assert_eq!(data, [0x60, 0x61, 0xff, 0xff]);
    bus.port_write(0x5f, &[1, 2, 3, 4]);
    assert_eq!(a.lock().unwrap().writes, [(0x60, vec![2])]);
    assert_eq!(b.lock().unwrap().writes, [(0x61, vec![3])]);

    bus.map_memory(0x1000, 0x1000, a.clone()).unwrap();
    let mut data = [0; 8];
    bus.memory_read(0xffc, &mut data);
    assert_eq!(data, [0xff, 0xff, 0xff, 0xff, 0, 1, 2, 3]);
    bus.memory_write(0x1fff, &[7, 8]);
    assert_eq!(a.lock().unwrap().writes.last(), Some(&(0xfff, vec![7])));
}

#[test]
fn overlaps_and_bad_bounds_are_refused() {
    let bus = IoBus::new();
    bus.map_memory(0x1000, 0x1000, echo()).unwrap();
    for (start, size) in [(0x1fff, 1), (0xfff, 2), (0, 0x10000), (0x1800, 8), (0x1000, 0x1000)] {
        assert!(matches!(bus.map_memory(start, size, echo()), Err(BusError::Overlap { other: 0x1000, .. })));
    }
    bus.map_memory(0x2000, 1, echo()).unwrap();
    bus.map_memory(0xfff, 1, echo()).unwrap();
    bus.map_memory(u64::MAX, 1, echo()).unwrap();
    assert!(matches!(bus.map_memory(0x5000, 0, echo()), Err(BusError::Bounds { .. })));
    assert!(matches!(bus.map_memory(u64::MAX, 2, echo()), Err(BusError::Bounds { .. })));
    bus.map_ports(PortRange::new(0xffff, 1), echo()).unwrap();
    assert!(matches!(bus.map_ports(PortRange::new(0xfffe, 3), echo()), Err(BusError::Bounds { .. })));
}

#[test]
fn a_range_can_move() {
    let (bus, a) = (IoBus::new(), echo());
    bus.map_memory(0x1000, 0x100, a.clone()).unwrap();
    assert!(!bus.unmap_memory(0x1010));
    assert!(bus.unmap_memory(0x1000));
    bus.map_memory(0x2000, 0x100, a.clone()).unwrap();
    let mut data = [0];
    bus.memory_read(0x1000, &mut data);
    assert_eq!(data, [0xff]);
    bus.memory_read(0x2004, &mut data);
    assert_eq!(data, [4]);
    bus.map_ports(PortRange::new(0x80, 1), a).unwrap();
    assert!(bus.unmap_ports(0x80) && !bus.unmap_ports(0x80));
}

#[test]
fn a_dword_port_takes_dwords_only() {
    let (bus, config, reset) = (IoBus::new(), echo(), echo());
    bus.map_dword_port(0xcf8, config.clone()).unwrap();
    bus.map_ports(PortRange::new(0xcf9, 1), reset.clone()).unwrap();
    bus.port_write(0xcf8, &[1, 2, 3, 4]);
    bus.port_write(0xcf9, &[6]);
    bus.port_write(0xcf8, &[5, 6]);
    assert_eq!(config.lock().unwrap().writes, [(0xcf8, vec![1, 2, 3, 4])]);
    assert_eq!(reset.lock().unwrap().writes, [(0xcf9, vec![6]), (0xcf9, vec![6])]);
}

#[test]
fn ranges_move_while_vcpus_use_them() {
    let (bus, a) = (Arc::new(IoBus::new()), echo());
    let reader = std::thread::spawn({
        let bus = Arc::clone(&bus);
        move || {
            for _ in 0..2000 {
                let mut data = [0; 4];
                bus.memory_read(0x1004, &mut data);
                assert!(data == [0xff; 4] || data == [4, 5, 6, 7], "{data:x?}");
            }
        }
    });
    for _ in 0..2000 {
        bus.map_memory(0x1000, 0x10, a.clone()).unwrap();
        assert!(bus.unmap_memory(0x1000));
    }
    reader.join().unwrap();
}
