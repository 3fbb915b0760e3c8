use std::sync::{Arc, Mutex};

use viv_engine::memory::VGA_START;
use vm_memory::{Bytes, GuestAddress};

use super::regs::feature;
use super::testing::{Driver, Numbers, RAM, RING_FEATURES, common};
use super::*;
use crate::pci::regs as pci_regs;
use crate::testing::Calls;

fn entropy() -> Shared<Entropy> {
    Arc::new(Mutex::new(Entropy::new(None)))
}

/// A source of entropy that waits for its thread.
struct Slow(Entropy);

impl VirtioDevice for Slow {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
    fn features(&self) -> u64 {
        self.0.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        self.0.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }
    fn start_queue(&mut self, r: QueueResources, f: u64, s: QueueState) -> Result<(), RingError> {
        self.0.start_queue(r, f, s)
    }
    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.0.stop_queue(index)
    }
    fn process_queue(&mut self, index: u16) {
        self.0.process_queue(index);
    }
    fn reset(&mut self) {
        self.0.reset();
    }
    fn save(&self) -> Result<crate::SavedState, crate::DeviceError> {
        self.0.save()
    }
    fn restore(&mut self, state: &crate::SavedState) -> Result<(), crate::DeviceError> {
        self.0.restore(state)
    }
}

fn slow() -> Shared<Slow> {
    Arc::new(Mutex::new(Slow(Entropy::new(None))))
}

#[test]
fn a_driver_finds_the_device() {
    let mut driver = Driver::new(entropy());
    assert_eq!(driver.pci(0, 4), 0x1044_1af4);
    assert_eq!(driver.pci(8, 1), 1);
    assert_eq!(driver.pci(pci_regs::INTERRUPT_LINE.into(), 2), 0x010a);
    assert_eq!(driver.offered(), RING_FEATURES);
    assert_eq!(driver.get(common::NUM_QUEUES), 1);
    driver.set(common::QUEUE_SELECT, 0);
    assert_eq!((driver.get(common::QUEUE_SIZE), driver.get(common::QUEUE_NOTIFY_OFF)), (64, 0));
    driver.set(common::QUEUE_SELECT, 1);
    assert_eq!(driver.get(common::QUEUE_SIZE), 0);
}

#[test]
fn only_offered_features_of_version_1_are_accepted() {
    let mut driver = Driver::new(entropy());
    assert!(!driver.negotiate(feature::VERSION_1 | 1));
    assert!(!driver.negotiate(0));
    assert!(driver.negotiate(feature::VERSION_1));
    driver.set(common::DRIVER_FEATURE_SELECT, 0);
    driver.set(common::DRIVER_FEATURE, 0xffff_ffff);
    assert_eq!(driver.get(common::DRIVER_FEATURE), 0, "they are fixed now");
    driver.negotiate(0);
    driver.set(common::STATUS, 0xff);
    assert_eq!(driver.get(common::STATUS), 0x83, "it does not run without features");
}

#[test]
fn requests_are_served_and_announced() {
    for features in [feature::VERSION_1, RING_FEATURES] {
        let mut driver = Driver::new(entropy());
        driver.start(features);
        let buffer = driver.buffer(64);
        let head = driver.add(0, &[(buffer, 32, true), (buffer + 32, 32, true)]);
        driver.ring(0);
        assert_eq!(driver.used(0), [(head, 64)], "served on the vCPU's thread");
        assert_eq!(driver.interrupts(), [0]);
        assert_ne!(driver.bytes(buffer, 64), [0; 64]);
        assert!(!driver.line() && driver.isr() == 0);
    }
}

#[test]
fn a_large_request_gets_a_bounded_part() {
    let mut driver = Driver::new(entropy());
    driver.start(RING_FEATURES);
    let buffer = driver.buffer(1 << 20);
    let head = driver.add_indirect(0, &[(buffer, 1 << 20, true)]);
    driver.ring(0);
    assert_eq!(driver.used(0), [(head, 4096)]);
}

#[test]
fn without_msix_the_line_is_held_until_the_status_is_read() {
    let mut driver = Driver::new(entropy());
    driver.start(RING_FEATURES);
    driver.set_msix(false);
    let buffer = driver.buffer(8);
    driver.add(0, &[(buffer, 8, true)]);
    driver.ring(0);
    assert!(driver.line() && driver.interrupts().is_empty());
    assert_eq!(driver.pci(pci_regs::STATUS.into(), 2) & u64::from(pci_regs::status::INTERRUPT), 8);
    driver.set_pci(pci_regs::COMMAND.into(), 2, u64::from(pci_regs::command::INTERRUPT_DISABLE | 2));
    assert!(!driver.line());
    driver.set_pci(pci_regs::COMMAND.into(), 2, 2);
    assert!(driver.line());
    assert_eq!((driver.isr(), driver.line(), driver.isr()), (1, false, 0));
}

#[test]
fn a_driver_that_does_not_want_interrupts_gets_none() {
    let mut driver = Driver::new(entropy());
    let buffer = driver.buffer(8);
    driver.start(feature::VERSION_1);
    driver.memory.write_obj(1_u16, GuestAddress(Driver::available(0))).unwrap();
    driver.add(0, &[(buffer, 8, true)]);
    driver.ring(0);
    assert_eq!((driver.used(0).len(), driver.interrupts()), (1, vec![]));

    driver.start(RING_FEATURES);
    let used_event = GuestAddress(Driver::available(0) + 4 + 2 * 64);
    driver.memory.write_obj(2_u16, used_event).unwrap();
    for expected in [vec![], vec![], vec![0], vec![]] {
        driver.add(0, &[(buffer, 8, true)]);
        driver.ring(0);
        assert_eq!(driver.interrupts(), expected);
    }
    assert_eq!(driver.used(0).len(), 4);
}

#[test]
fn rings_are_answered_by_the_devices_thread() {
    let mut driver = Driver::new(slow());
    driver.start(RING_FEATURES);
    driver.worker.process();
    let buffer = driver.buffer(8);
    driver.add(0, &[(buffer, 8, true)]);
    driver.ring(0);
    driver.ring(0);
    assert!(driver.used(0).is_empty());
    driver.worker.process();
    assert_eq!(driver.used(0).len(), 1);
}

#[test]
fn a_reset_stops_and_forgets() {
    let mut driver = Driver::new(slow());
    driver.start(RING_FEATURES);
    let buffer = driver.buffer(8);
    driver.add(0, &[(buffer, 8, true)]);
    driver.ring(0);
    driver.set(common::STATUS, 0);
    driver.worker.process();
    driver.ring(0);
    driver.worker.process();
    assert!(driver.used(0).is_empty());
    assert_eq!(driver.get(common::QUEUE_ENABLE), 0);
    assert_eq!(driver.get(common::QUEUE_DESC), 0);
    assert_eq!(driver.get(common::QUEUE_VECTOR), 0xffff);
    driver.start(RING_FEATURES);
    driver.add(0, &[(buffer, 8, true)]);
    driver.kick(0);
    assert_eq!(driver.used(0).len(), 1);
    driver.reset_machine();
    assert_eq!(driver.get(common::STATUS), 0);
}

#[test]
fn vectors_that_do_not_exist_are_refused() {
    let mut driver = Driver::new(entropy());
    driver.set(common::CONFIG_VECTOR, 2);
    assert_eq!(driver.get(common::CONFIG_VECTOR), 0xffff);
    driver.set(common::CONFIG_VECTOR, 1);
    assert_eq!(driver.get(common::CONFIG_VECTOR), 1);
}

#[test]
fn registers_are_reached_through_configuration_space() {
    let mut driver = Driver::new(entropy());
    let access = driver.access;
    let select = |driver: &mut Driver, offset: u64, length: u64| {
        driver.write(access + 8, 4, offset);
        driver.write(access + 12, 4, length);
    };
    select(&mut driver, 0x14, 1);
    driver.write(access + 16, 1, 1);
    assert_eq!(driver.get(common::STATUS), 1);
    assert_eq!(driver.read(access + 16, 1), 1);
    select(&mut driver, 0x12, 2);
    assert_eq!(driver.read(access + 16, 2), 1);
    for (offset, length) in [(0x13, 2), (0x12, 3), (0xffff_fffc, 4), (0x12, 0)] {
        select(&mut driver, offset, length);
        driver.write(access + 16, 4, 0xff);
        driver.read(access + 16, 4);
    }
    assert_eq!(driver.get(common::STATUS), 1);
}

/// What a hostile or broken driver does with its ring.
type Mischief = fn(&mut Driver);

#[test]
fn a_broken_ring_breaks_the_device_until_it_is_reset() {
    let mischief: [(&str, Mischief); 9] = [
        ("a loop", |d| {
            for i in 0..64 {
                d.write_descriptor(Driver::descriptors(0), i, (0x1000, 8, true), 1, (i + 1) % 64);
            }
            d.offer(0, 0);
        }),
        ("a descriptor that does not exist", |d| d.offer(0, 64)),
        ("a next descriptor that does not exist", |d| {
            d.write_descriptor(Driver::descriptors(0), 0, (0x1000, 8, true), 1, 64);
            d.offer(0, 0);
        }),
        ("a buffer outside RAM", |d| {
            d.add(0, &[(RAM - 4, 8, true)]);
        }),
        ("a buffer around the end of the address space", |d| {
            d.add(0, &[(u64::MAX - 3, 8, true)]);
        }),
        ("a buffer to read after one to write", |d| {
            d.add(0, &[(0x1000, 8, true), (0x2000, 8, false)]);
        }),
        ("an indirect table in an indirect table", |d| {
            d.write_descriptor(0x2000, 0, (0x3000, 16, false), 4, 0);
            d.write_descriptor(Driver::descriptors(0), 0, (0x2000, 16, false), 4, 0);
            d.offer(0, 0);
        }),
        ("an indirect table of no whole number of descriptors", |d| {
            d.write_descriptor(Driver::descriptors(0), 0, (0x2000, 17, false), 4, 0);
            d.offer(0, 0);
        }),
        ("more requests than fit", |d| {
            d.memory.write_obj(65_u16, GuestAddress(Driver::available(0) + 2)).unwrap();
        }),
    ];
    let mut driver = Driver::new(entropy());
    for (what, act) in mischief {
        driver.start(RING_FEATURES);
        act(&mut driver);
        driver.ring(0);
        assert!(driver.is_broken(), "{what}");
        assert!(driver.used(0).is_empty(), "{what}");
        assert_eq!(driver.interrupts(), [1], "the configuration's, for {what}");

        driver.start(RING_FEATURES);
        let buffer = driver.buffer(8);
        driver.add(0, &[(buffer, 8, true)]);
        driver.ring(0);
        assert!(!driver.is_broken() && driver.used(0).len() == 1, "after {what}");
        driver.interrupts();
    }
}

#[test]
fn rings_outside_ram_break_the_device() {
    for register in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
        for address in [RAM, RAM - 16, !15, 0x10_0001] {
            let mut driver = Driver::new(entropy());
            assert!(driver.negotiate(RING_FEATURES));
            driver.set(common::QUEUE_SELECT, 0);
            for (i, part) in
                [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE].iter().enumerate()
            {
                driver.set(*part, 0x1000 * (i as u64 + 1));
            }
            driver.set(register, address);
            driver.set(common::QUEUE_ENABLE, 1);
            driver.set(common::STATUS, 15);
            assert!(driver.is_broken(), "{register:?} at {address:#x}");
            driver.ring(0);
        }
    }
}

#[test]
fn a_saved_device_goes_on_in_another() {
    let mut driver = Driver::new(slow());
    driver.start(RING_FEATURES);
    let buffer = driver.buffer(8);
    for _ in 0..100 {
        driver.add(0, &[(buffer, 8, true)]);
        driver.kick(0);
    }
    driver.used(0);
    driver.interrupts();
    let waiting = driver.add(0, &[(buffer, 8, true)]);
    driver.ring(0);
    let saved = driver.save();
    assert_eq!(driver.save(), saved, "saving changes nothing");

    let mut other = driver.move_to(slow());
    other.worker.process();
    assert_eq!(other.used(0), [(waiting, 8)]);
    assert_eq!(other.interrupts(), [0]);
    let head = other.add(0, &[(buffer, 8, true)]);
    other.kick(0);
    assert_eq!(other.used(0), [(head, 8)]);
}

#[test]
fn a_broken_device_is_still_broken_in_another() {
    let mut driver = Driver::new(slow());
    driver.start(RING_FEATURES);
    driver.offer(0, 64);
    driver.kick(0);
    let mut other = driver.move_to(slow());
    assert!(other.is_broken());
    let buffer = other.buffer(8);
    other.add(0, &[(buffer, 8, true)]);
    other.kick(0);
    assert!(other.used(0).is_empty());
}

#[test]
fn no_register_access_does_harm() {
    let mut numbers = Numbers::new(1);
    let mut driver = Driver::new(entropy());
    driver.start(RING_FEATURES);
    let bar = driver.msix_table & !0xffff;
    for _ in 0..20_000 {
        let length = [1, 2, 4, 8][numbers.below(4) as usize];
        let offset = numbers.below(0x8000) & if numbers.below(4) == 0 { !0 } else { !0xf8f };
        if numbers.below(3) == 0 {
            driver.read(bar + offset.min(0x7ff8), length);
        } else {
            let value = numbers.next() >> numbers.below(64);
            driver.write(bar + offset.min(0x7ff8), length, value);
        }
        if numbers.below(8) == 0 {
            driver.set_pci(numbers.below(0x100) & !7, length, numbers.next());
            driver.set_pci(pci_regs::BAR0.into(), 4, bar);
            driver.set_pci(pci_regs::COMMAND.into(), 2, 2);
        }
        if numbers.below(50) == 0 {
            driver.start(RING_FEATURES);
        }
        driver.worker.process();
    }
}

#[test]
fn features_that_were_not_agreed_on_are_saved_and_restored() {
    let mut driver = Driver::new(entropy());
    driver.set(common::DRIVER_FEATURE, 0xffff_ffff);
    let mut driver = driver.move_to(entropy());
    assert_eq!(driver.get(common::DRIVER_FEATURE), 0xffff_ffff);
}

#[test]
fn saving_a_broken_device_changes_nothing() {
    let mut driver = Driver::new(slow());
    driver.start(RING_FEATURES);
    driver.offer(0, u16::MAX);
    driver.kick(0);
    assert!(driver.is_broken());
    let saved = driver.save();
    assert_eq!(driver.save(), saved);
    let mut driver = driver.move_to(slow());
    assert_eq!((driver.save(), driver.is_broken()), (saved, true));
}

/// Fills rings with random descriptors, of which some lead to somewhere, and lets the device at them.
fn offer_random_chains(device: Shared<dyn VirtioDevice>, features: u64, seed: u64, rounds: u32) {
    let mut numbers = Numbers::new(seed);
    let mut driver = Driver::new(device);
    let mut survived = 0;
    for _ in 0..rounds {
        if driver.get(common::STATUS) == 0 || driver.is_broken() || numbers.below(64) == 0 {
            driver.start(features);
            driver.worker.process();
        }
        let queue = numbers.below(driver.rings.len() as u64) as usize;
        let size = driver.rings[queue].size;
        let table = Driver::descriptors(queue);
        for index in 0..size.min(16) {
            let wild = numbers.below(40) == 0;
            let address = if wild { numbers.next() } else { 0x1000 + numbers.below(VGA_START - 0x2000) };
            let length =
                if numbers.below(30) == 0 { numbers.next() as u32 } else { numbers.below(80) as u32 };
            let flags = if wild { numbers.next() as u16 & 7 } else { u16::from(numbers.below(3) == 0) };
            let next = if wild { numbers.next() as u16 } else { numbers.below(16) as u16 };
            let writable = numbers.below(2) == 0;
            driver.write_descriptor(table, index, (address, length, writable), flags, next);
            if !wild && length >= 16 && numbers.below(2) == 0 {
                // Something like a request, or a control message.
                let small = numbers.next() & 0x0007_000f_0000_000f;
                driver.memory.write_obj(small, GuestAddress(address)).unwrap();
                driver.memory.write_obj(numbers.below(4096), GuestAddress(address + 8)).unwrap();
            }
        }
        for _ in 0..numbers.below(4) {
            driver.offer(queue, numbers.below(16) as u16);
        }
        if numbers.below(100) == 0 {
            let wild = GuestAddress(table + numbers.below(0x3000));
            driver.memory.write_obj(numbers.next(), wild).unwrap();
        }
        driver.kick(queue);
        survived += u32::from(!driver.is_broken());
    }
    assert!(survived > rounds / 10, "most of it should reach the device: {survived} of {rounds}");
}

#[test]
fn no_chain_does_harm_to_entropy() {
    offer_random_chains(entropy(), RING_FEATURES, 2, 4000);
}

#[test]
fn no_chain_does_harm_to_a_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = viv_disk::RawDisk::open(file.path(), viv_disk::Access::ReadWrite).unwrap();
    let disk: Arc<dyn viv_disk::Disk> = Arc::new(disk);
    let block = Block::new(&disk, Calls::to(&disk), BlockSettings::default());
    let block = Arc::new(Mutex::new(block));
    let features = RING_FEATURES | block.lock().unwrap().features();
    offer_random_chains(block, features, 3, 4000);
    assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
}

#[test]
fn no_chain_does_harm_to_a_console() {
    struct Random(Numbers);
    impl PortBackend for Random {
        fn write(&mut self, data: &[u8]) -> usize {
            self.0.below(data.len() as u64 + 1) as usize
        }
        fn read(&mut self, data: &mut [u8]) -> Input {
            match self.0.below(20) {
                0 => Input::End,
                1 => Input::Nothing,
                // One that lies about how much it gave.
                2 => Input::Bytes(usize::MAX),
                _ => Input::Bytes(data.len()),
            }
        }
    }
    let port = |seed| PortConfig {
        name: format!("port{seed}"),
        console: seed == 0,
        backend: Box::new(Random(Numbers::new(seed))),
    };
    let console = Arc::new(Mutex::new(Console::new((0..3).map(port).collect(), ResizeOrder::default())));
    let features = RING_FEATURES | console.lock().unwrap().features();
    offer_random_chains(console, features, 4, 4000);
}
