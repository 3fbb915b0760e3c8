use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::Shared;
use crate::virtio::testing::{Driver, RING_FEATURES};

const FEATURES: u64 = RING_FEATURES | feature::SIZE | feature::MULTIPORT;

/// The host's side of a port, as the test sees it.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<u8>,
    ended: bool,
    from_guest: Vec<u8>,
    room: usize,
    open: bool,
}

#[derive(Clone, Default)]
struct Backend(Arc<Mutex<Wire>>);

impl Backend {
    fn wire(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }
}

impl PortBackend for Backend {
    fn write(&mut self, data: &[u8]) -> usize {
        let mut wire = self.wire();
        let taken = data.len().min(wire.room);
        wire.room -= taken;
        wire.from_guest.extend(&data[..taken]);
        taken
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        let mut wire = self.wire();
        let count = data.len().min(wire.to_guest.len());
        for (byte, given) in data.iter_mut().zip(wire.to_guest.drain(..count)) {
            *byte = given;
        }
        match count {
            0 if wire.ended => Input::End,
            0 => Input::Nothing,
            count => Input::Bytes(count),
        }
    }

    fn set_guest_open(&mut self, open: bool) {
        self.wire().open = open;
    }
}

/// What Linux's driver does, with two ports: a console and `viv.stdin`.
struct Bench {
    driver: Driver,
    console: Shared<Console>,
    wires: [Backend; 2],
}

fn console(wires: &[Backend; 2], order: ResizeOrder) -> Shared<Console> {
    let [first, second] = wires.clone();
    let ports = vec![
        PortConfig { name: String::new(), console: true, backend: Box::new(first) },
        PortConfig { name: "viv.stdin".to_owned(), console: false, backend: Box::new(second) },
    ];
    Arc::new(Mutex::new(Console::new(ports, order)))
}

/// A message: port, event, value, and what follows.
type Told = (u32, u16, u16, Vec<u8>);

impl Bench {
    fn new() -> Self {
        let wires = [Backend::default(), Backend::default()];
        for wire in &wires {
            wire.wire().room = 1 << 20;
        }
        let console = console(&wires, ResizeOrder::RowsFirst);
        let mut driver = Driver::new(console.clone());
        driver.start(FEATURES);
        let mut bench = Self { driver, console, wires };
        bench.listen(16);
        bench
    }

    /// Gives buffers for control messages.
    fn listen(&mut self, count: usize) {
        for _ in 0..count {
            let buffer = self.driver.buffer(64);
            self.driver.add(2, &[(buffer, 64, true)]);
        }
        self.driver.kick(2);
    }

    fn tell(&mut self, id: u32, event: u16, value: u16) {
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        let message = self.driver.data(&message);
        self.driver.add(3, &[(message, 8, false)]);
        self.driver.kick(3);
    }

    /// The messages that came, with their buffers given back.
    fn told(&mut self) -> Vec<Told> {
        let told: Vec<Told> = (self.driver.used(2).into_iter())
            .map(|(head, length)| {
                let bytes = self.buffer_of(2, head, length as usize);
                let (header, rest) = bytes.split_at(8);
                let (id, event, value) = control::decode(header.try_into().unwrap());
                (id, event, value, rest.to_vec())
            })
            .collect();
        self.listen(told.len());
        told
    }

    fn buffer_of(&self, queue: usize, head: u16, length: usize) -> Vec<u8> {
        let descriptor = self.driver.bytes(Driver::descriptors(queue) + u64::from(head) * 16, 8);
        self.driver.bytes(u64::from_le_bytes(descriptor.try_into().unwrap()), length)
    }

    /// The whole handshake.
    fn open_all(&mut self) {
        self.tell(0, event::DEVICE_READY, 1);
        for port in 0..2 {
            self.tell(port, event::PORT_READY, 1);
            self.tell(port, event::PORT_OPEN, 1);
        }
        self.told();
    }

    /// Gives a buffer for bytes of a port.
    fn receive(&mut self, queue: usize, length: u32) {
        let buffer = self.driver.buffer(length);
        self.driver.add(queue, &[(buffer, length, true)]);
        self.driver.kick(queue);
    }

    fn received(&mut self, queue: usize) -> Vec<u8> {
        let used = self.driver.used(queue);
        used.into_iter().flat_map(|(head, length)| self.buffer_of(queue, head, length as usize)).collect()
    }

    fn send(&mut self, queue: usize, data: &[u8]) {
        let buffer = self.driver.data(data);
        let half = data.len() as u32 / 2;
        let rest = data.len() as u32 - half;
        self.driver.add(queue, &[(buffer, half, false), (buffer + u64::from(half), rest, false)]);
        self.driver.kick(queue);
    }

    fn process(&mut self, port: usize) {
        self.console.lock().unwrap().process_port(port);
    }
}

#[test]
fn queues_are_numbered_as_the_specification_says() {
    assert_eq!(Role::of(0), Role::Receive(0));
    assert_eq!(Role::of(1), Role::Transmit(0));
    assert_eq!(Role::of(4), Role::Receive(1));
    for index in 0..64 {
        assert_eq!(Role::of(index).queue(), usize::from(index));
    }
}

#[test]
fn ports_are_announced_in_the_order_that_linux_needs() {
    let mut bench = Bench::new();
    assert_eq!((bench.driver.config(4, 4), bench.told()), (2, vec![]));
    bench.console.lock().unwrap().resize(80, 25);
    bench.tell(0, event::DEVICE_READY, 1);
    assert_eq!(bench.told(), [(0, event::PORT_ADD, 1, vec![]), (1, event::PORT_ADD, 1, vec![])]);
    bench.tell(0, event::PORT_READY, 1);
    let size = vec![25, 0, 80, 0];
    assert_eq!(
        bench.told(),
        [(0, event::CONSOLE_PORT, 1, vec![]), (0, event::RESIZE, 1, size), (0, event::PORT_OPEN, 1, vec![])]
    );
    bench.tell(1, event::PORT_READY, 1);
    assert_eq!(
        bench.told(),
        [(1, event::PORT_OPEN, 1, vec![]), (1, event::PORT_NAME, 1, b"viv.stdin".to_vec())]
    );
    assert!(!bench.wires[1].wire().open);
    bench.tell(1, event::PORT_OPEN, 1);
    assert!(bench.wires[1].wire().open && bench.console.lock().unwrap().is_open(1));
    bench.tell(1, event::PORT_OPEN, 0);
    assert!(!bench.wires[1].wire().open);
    for (id, event, value) in [(2, event::PORT_READY, 1), (u32::MAX, event::PORT_OPEN, 1), (0, 99, 1)] {
        bench.tell(id, event, value);
    }
    assert_eq!(bench.told(), []);
}

#[test]
fn a_guest_that_does_not_listen_is_told_later_and_once() {
    let mut bench = Bench::new();
    bench.open_all();
    bench.driver.start(FEATURES);
    for _ in 0..1000 {
        bench.tell(0, event::DEVICE_READY, 1);
        bench.tell(0, event::PORT_READY, 1);
        bench.driver.used(3);
    }
    bench.listen(16);
    let events: Vec<_> = bench.told().into_iter().map(|(id, event, ..)| (id, event)).collect();
    let expected =
        [(0, event::PORT_ADD), (0, event::CONSOLE_PORT), (0, event::PORT_OPEN), (1, event::PORT_ADD)];
    assert_eq!(events, expected);
}

#[test]
fn the_window_size_is_told_in_both_ways() {
    let mut bench = Bench::new();
    bench.open_all();
    bench.driver.interrupts();
    bench.console.lock().unwrap().resize(132, 50);
    assert_eq!(bench.driver.interrupts(), [6, 2], "the configuration's and the control queue's");
    assert_eq!(bench.told(), [(0, event::RESIZE, 1, vec![50, 0, 132, 0])]);
    assert_eq!((bench.driver.config(0, 2), bench.driver.config(2, 2)), (132, 50));
    assert_eq!(bench.driver.get(crate::virtio::testing::common::GENERATION), 1);
    bench.console.lock().unwrap().resize(132, 50);
    assert_eq!(bench.told(), []);

    let port =
        Port::new(PortConfig { name: String::new(), console: true, backend: Box::new(Backend::default()) });
    let size = Size { columns: 132, rows: 50 };
    let message = control::encode(0, Message::Resize, &port, size, ResizeOrder::ColumnsFirst);
    assert_eq!(message[8..], [132, 0, 50, 0]);
}

#[test]
fn bytes_wait_for_an_open_port_and_for_buffers() {
    let mut bench = Bench::new();
    let wire = bench.wires[1].clone();
    wire.wire().to_guest.extend(b"hello, world");
    bench.receive(4, 5);
    bench.process(1);
    assert_eq!(wire.wire().to_guest.len(), 12, "Linux would throw them away");
    bench.open_all();
    assert_eq!(bench.received(4), b"hello");
    bench.process(1);
    assert_eq!(wire.wire().to_guest.len(), 7);
    bench.receive(4, 100);
    assert_eq!(bench.received(4), b", world");
    bench.receive(4, 100);
    assert_eq!(bench.received(4), b"");
    wire.wire().to_guest.extend(b"more");
    bench.process(1);
    assert_eq!(bench.received(4), b"more");
}

#[test]
fn the_end_of_input_comes_after_the_last_byte() {
    let mut bench = Bench::new();
    bench.open_all();
    {
        let mut wire = bench.wires[1].wire();
        wire.to_guest.extend(b"last");
        wire.ended = true;
    }
    bench.process(1);
    bench.receive(4, 3);
    assert_eq!((bench.received(4), bench.told()), (b"las".to_vec(), vec![]));
    bench.receive(4, 3);
    assert_eq!((bench.received(4), bench.told()), (b"t".to_vec(), vec![]));
    bench.receive(4, 3);
    assert_eq!(bench.told(), [(1, event::PORT_OPEN, 0, vec![])]);
    bench.process(1);
    assert_eq!(bench.told(), []);
}

#[test]
fn the_guest_waits_when_the_host_does_not_read() {
    let mut bench = Bench::new();
    bench.open_all();
    let wire = bench.wires[0].clone();
    let data: Vec<u8> = (0..20_000_u32).map(|i| (i % 249) as u8).collect();
    wire.wire().room = 0;
    bench.send(1, &data);
    bench.send(1, b"end");
    assert!(bench.driver.used(1).is_empty());
    wire.wire().room = 7001;
    bench.process(0);
    bench.process(0);
    assert!(bench.driver.used(1).is_empty());
    assert!(wire.wire().from_guest == data[..7001]);

    // A machine that is saved now goes on at the very byte.
    let other = console(&bench.wires, ResizeOrder::RowsFirst);
    bench.driver = bench.driver.move_to(other.clone());
    bench.console = other;
    wire.wire().room = 1 << 20;
    bench.driver.worker.process();
    assert_eq!(bench.driver.used(1).len(), 2);
    assert!(wire.wire().from_guest == [&data[..], b"end"].concat());
}

#[test]
fn a_long_buffer_is_taken_in_turns() {
    let mut bench = Bench::new();
    bench.open_all();
    bench.wires[0].wire().room = usize::MAX;
    let data: Vec<u8> = (0..70_000_u32).map(|i| (i % 249) as u8).collect();
    // The same bytes over and over, for guest memory is small.
    let part = (bench.driver.data(&data), data.len() as u32, false);
    bench.driver.add_indirect(1, &vec![part; 40]);
    bench.driver.ring(1);
    let taken = |bench: &Bench| bench.wires[0].wire().from_guest.len();
    let mut before = 0;
    while bench.driver.used(1).is_empty() {
        bench.driver.worker.process();
        assert!(taken(&bench) - before <= 1 << 20);
        before = taken(&bench);
    }
    assert!(bench.wires[0].wire().from_guest == data.repeat(40));
}

#[test]
fn a_saved_console_knows_what_the_guest_is_still_to_be_told() {
    let mut bench = Bench::new();
    bench.open_all();
    bench.driver.start(FEATURES);
    bench.tell(1, event::PORT_READY, 1);
    bench.console.lock().unwrap().resize(80, 25);
    let other = console(&bench.wires, ResizeOrder::RowsFirst);
    bench.driver = bench.driver.move_to(other);
    bench.listen(4);
    assert_eq!(bench.told().len(), 2);
    assert_eq!(bench.driver.config(0, 2), 80);

    let one = Console::new(vec![], ResizeOrder::RowsFirst).save().unwrap();
    let wires = bench.wires;
    let refused = console(&wires, ResizeOrder::RowsFirst).lock().unwrap().restore(&one);
    assert!(matches!(refused, Err(DeviceError::Invalid { .. })));
}

#[test]
fn a_driver_that_knows_one_port_has_it_open() {
    let mut bench = Bench::new();
    bench.driver.start(RING_FEATURES);
    bench.wires[0].wire().to_guest.extend(b"hi");
    bench.receive(0, 10);
    assert_eq!(bench.received(0), b"hi");
    bench.send(1, b"there");
    assert_eq!(bench.wires[0].wire().from_guest, b"there");
}

#[test]
fn a_reset_closes_the_ports() {
    let mut bench = Bench::new();
    bench.open_all();
    assert!(bench.wires[1].wire().open);
    bench.driver.start(FEATURES);
    assert!(!bench.wires[1].wire().open);
    bench.listen(16);
    bench.open_all();
    assert!(bench.wires[1].wire().open);
}
