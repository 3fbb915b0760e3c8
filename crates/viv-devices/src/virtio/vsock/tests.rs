use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::connection::BUFFER;
use super::regs::{HOST_CID, STREAM, Shutdown, op};
use super::*;
use crate::virtio::testing::{Driver, RING_FEATURES};
use crate::virtio::{Input, Shared};

const RX: usize = queue::RECEIVE as usize;
const TX: usize = queue::TRANSMIT as usize;
const EVENT: usize = queue::EVENT as usize;
const CID: u64 = 7;
/// Room for data in the guest's buffers.
const ROOM: u32 = 4096;
/// What the guest has room for, unless a test says otherwise.
const CREDIT: u32 = 256 << 10;
/// No packets.
const NOTHING: [u16; 0] = [];

/// The host's side of a connection, as a test sees it.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<u8>,
    ended: bool,
    gone: bool,
    from_guest: Vec<u8>,
    room: usize,
    accepted: Option<u32>,
    output_ended: u32,
    input_ended: bool,
    dropped: bool,
}

#[derive(Clone, Default)]
struct End(Arc<Mutex<Wire>>);

impl End {
    fn wire(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }

    /// One that takes all.
    fn open() -> Self {
        let end = Self::default();
        end.wire().room = usize::MAX;
        end
    }

    fn stream(&self) -> Box<dyn VsockStream> {
        Box::new(Stream(self.clone()))
    }
}

struct Stream(End);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.wire().dropped = true;
    }
}

impl VsockStream for Stream {
    fn accepted(&mut self, host_port: u32) {
        self.0.wire().accepted = Some(host_port);
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Gone> {
        let mut wire = self.0.wire();
        if wire.gone {
            return Err(Gone);
        }
        let taken = data.len().min(wire.room);
        wire.room -= taken;
        wire.from_guest.extend(&data[..taken]);
        Ok(taken)
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        let mut wire = self.0.wire();
        let count = data.len().min(wire.to_guest.len());
        for (to, from) in data.iter_mut().zip(wire.to_guest.drain(..count)) {
            *to = from;
        }
        match count {
            0 if wire.ended || wire.gone => Input::End,
            0 => Input::Nothing,
            count => Input::Bytes(count),
        }
    }

    fn is_gone(&self) -> bool {
        self.0.wire().gone
    }

    fn end_output(&mut self) {
        self.0.wire().output_ended += 1;
    }

    fn end_input(&mut self) {
        self.0.wire().input_ended = true;
    }
}

/// What the guest asked for: connections and their ports.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(u64, u32)>>>);

impl VsockHost for Asked {
    fn connect(&mut self, connection: u64, port: u32) -> bool {
        self.0.lock().unwrap().push((connection, port));
        port != 666
    }

    fn forget(&mut self, connection: u64) {
        self.0.lock().unwrap().retain(|(asked, _)| *asked != connection);
    }
}

struct Bench {
    driver: Driver,
    vsock: Shared<Vsock>,
    asked: Asked,
    /// The guest's buffers for packets, by the head of their chain.
    buffers: Vec<(u16, u64)>,
}

fn device(cid: u64) -> (Shared<Vsock>, Asked) {
    let asked = Asked::default();
    (Arc::new(Mutex::new(Vsock::new(cid as u32, Box::new(asked.clone())))), asked)
}

impl Bench {
    fn new() -> Self {
        let (vsock, asked) = device(CID);
        let mut driver = Driver::new(vsock.clone());
        driver.start(RING_FEATURES | feature::STREAM);
        Self { driver, vsock, asked, buffers: Vec::new() }
    }

    fn vsock(&self) -> std::sync::MutexGuard<'_, Vsock> {
        self.vsock.lock().unwrap()
    }

    /// Gives the device room for packets.
    fn offer_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let address = self.driver.buffer(44 + ROOM);
            let head = self.driver.add(RX, &[(address, 44, true), (address + 44, ROOM, true)]);
            self.buffers.push((head, address));
        }
        self.driver.kick(RX);
    }

    /// The packets that have come.
    fn heard(&mut self) -> Vec<(Header, Vec<u8>)> {
        let used = self.driver.used(RX);
        used.into_iter()
            .map(|(head, length)| {
                let at = self.buffers.iter().position(|(known, _)| *known == head).unwrap();
                let (_, address) = self.buffers.remove(at);
                let bytes = self.driver.bytes(address, length as usize);
                let header = Header::from_bytes(*bytes.first_chunk().unwrap());
                assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
                assert_eq!(header.len as usize, bytes.len() - 44);
                (header, bytes[44..].to_vec())
            })
            .collect()
    }

    /// What they are.
    fn ops(&mut self) -> Vec<u16> {
        self.heard().iter().map(|(header, _)| header.op).collect()
    }

    /// A packet of the guest's, after a change.
    fn say_with(
        &mut self,
        (guest, host): (u32, u32),
        op: u16,
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) {
        let mut header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            len: data.len() as u32,
            kind: STREAM,
            op,
            buf_alloc: CREDIT,
            ..Header::default()
        };
        change(&mut header);
        let bytes = [&header.to_bytes()[..], data].concat();
        let address = self.driver.data(&bytes);
        self.driver.add(TX, &[(address, bytes.len() as u32, false)]);
        self.driver.kick(TX);
        assert!(!self.driver.is_broken());
    }

    fn say(&mut self, ports: (u32, u32), op: u16, data: &[u8]) {
        self.say_with(ports, op, data, |_| ());
    }

    fn shut(&mut self, ports: (u32, u32), what: Shutdown) {
        self.say_with(ports, op::SHUTDOWN, &[], |header| header.flags = what.bits());
    }

    /// A connection that the guest asked for.
    fn connect(&mut self, ports: (u32, u32), end: &End) -> u64 {
        self.say(ports, op::REQUEST, &[]);
        let (id, port) = self.asked.0.lock().unwrap().pop().unwrap();
        assert_eq!(port, ports.1);
        self.vsock().answer(id, Some(end.stream()));
        assert_eq!(self.ops(), [op::RESPONSE]);
        id
    }

    /// The guest has taken what was sent to it.
    fn take(&mut self, ports: (u32, u32), forwarded: u32) {
        self.say_with(ports, op::CREDIT_UPDATE, &[], |header| header.fwd_cnt = forwarded);
    }
}

#[test]
fn the_guest_connects_and_bytes_go_both_ways() {
    let mut bench = Bench::new();
    assert_eq!(bench.driver.config(0, 8), CID);
    bench.offer_buffers(16);
    let end = End::open();
    let id = bench.connect((1000, 52), &end);
    bench.say((1000, 52), op::RW, b"to the host");
    assert_eq!(end.wire().from_guest, b"to the host");
    end.wire().to_guest.extend(b"to the guest");
    bench.vsock().process_stream(id);
    let heard = bench.heard();
    assert_eq!(heard.len(), 1);
    let (header, data) = &heard[0];
    assert_eq!((header.op, header.src_port, header.dst_port, header.fwd_cnt), (op::RW, 52, 1000, 11));
    assert_eq!(data, b"to the guest");
}

#[test]
fn the_host_connects_and_is_told_its_port() {
    let mut bench = Bench::new();
    bench.offer_buffers(16);
    let end = End::open();
    bench.vsock().connect(end.stream(), 52).unwrap();
    let (header, _) = bench.heard().remove(0);
    assert_eq!((header.op, header.dst_port, header.src_port), (op::REQUEST, 52, HOST_PORTS.start));
    assert_eq!(end.wire().accepted, None);
    bench.say((52, header.src_port), op::RESPONSE, &[]);
    assert_eq!(end.wire().accepted, Some(HOST_PORTS.start));
    bench.say((52, header.src_port), op::RST, &[]);
    assert!(end.wire().dropped);
    assert_eq!(bench.ops(), NOTHING);
}

#[test]
fn what_is_refused_is_over_at_once() {
    let mut bench = Bench::new();
    // Before there is a driver nobody can be connected to.
    let (idle, _) = device(CID);
    assert_eq!(idle.lock().unwrap().connect(End::open().stream(), 1), None);

    bench.offer_buffers(16);
    let end = End::open();
    let id = bench.vsock().connect(end.stream(), 52).unwrap();
    bench.heard();
    bench.say((52, HOST_PORTS.start), op::RST, &[]);
    assert!(end.wire().dropped);
    bench.vsock().process_stream(id);

    bench.say((1000, 666), op::REQUEST, &[]);
    assert_eq!(bench.ops(), [op::RST], "no, at once");
    bench.say((1000, 52), op::REQUEST, &[]);
    let (id, _) = bench.asked.0.lock().unwrap().pop().unwrap();
    bench.vsock().answer(id, None);
    assert_eq!(bench.ops(), [op::RST], "no, later");
    // An answer that comes too late.
    bench.vsock().answer(id, Some(End::open().stream()));
    // Nobody knows these.
    bench.say((1, 2), op::RW, b"x");
    bench.say((1, 2), op::SHUTDOWN, &[]);
    bench.say((1, 2), op::RST, &[]);
    bench.say_with((1, 2), op::REQUEST, &[], |header| header.kind = 2);
    assert_eq!(bench.ops(), [op::RST; 3]);
    // From and to somewhere else.
    bench.say_with((1, 2), op::REQUEST, &[], |header| header.src_cid = CID + 1);
    bench.say_with((1, 2), op::REQUEST, &[], |header| header.dst_cid = 1);
    assert_eq!(bench.ops(), NOTHING);
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_back() {
    let mut bench = Bench::new();
    bench.offer_buffers(16);
    let end = End::default();
    let id = bench.connect((1000, 52), &end);
    let data: Vec<u8> = (0..BUFFER).map(|n| ((n * 7) >> 3) as u8).collect();
    for part in data.chunks(1 << 15) {
        bench.say((1000, 52), op::RW, part);
    }
    assert_eq!((bench.ops(), end.wire().from_guest.len()), (NOTHING.to_vec(), 0));
    // Some of it is read, but not enough to speak of.
    end.wire().room = 1000;
    bench.vsock().process_stream(id);
    assert_eq!(bench.ops(), NOTHING);
    end.wire().room = usize::MAX;
    bench.vsock().process_stream(id);
    let (header, _) = bench.heard().remove(0);
    assert_eq!((header.op, header.fwd_cnt, header.buf_alloc), (op::CREDIT_UPDATE, BUFFER, BUFFER));
    assert!(end.wire().from_guest == data);
    bench.say((1000, 52), op::CREDIT_REQUEST, &[]);
    assert_eq!(bench.ops(), [op::CREDIT_UPDATE]);
}

#[test]
fn more_than_there_is_credit_for_breaks_the_connection() {
    let mut bench = Bench::new();
    bench.offer_buffers(16);
    let end = End::default();
    bench.connect((1000, 52), &end);
    bench.say((1000, 52), op::RW, &vec![1; BUFFER as usize]);
    assert_eq!(bench.ops(), NOTHING);
    bench.say((1000, 52), op::RW, &[1]);
    assert_eq!((bench.ops(), end.wire().dropped), (vec![op::RST], true));
    // A packet that is longer than its chain.
    let end = End::open();
    bench.connect((1000, 52), &end);
    bench.say_with((1000, 52), op::RW, b"abc", |header| header.len = 4);
    assert_eq!((bench.ops(), end.wire().dropped), (vec![op::RST], true));
}

#[test]
fn a_guest_that_does_not_read_holds_the_host_back() {
    let mut bench = Bench::new();
    bench.offer_buffers(32);
    let end = End::open();
    let id = bench.connect((1000, 52), &end);
    bench.say_with((1000, 52), op::CREDIT_UPDATE, &[], |header| header.buf_alloc = 5000);
    let data: Vec<u8> = (0..20_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    end.wire().to_guest.extend(&data);
    bench.vsock().process_stream(id);
    let mut got: Vec<u8> = Vec::new();
    let heard = bench.heard();
    let ops: Vec<_> = heard.iter().map(|(header, _)| header.op).collect();
    assert_eq!(ops, [op::RW, op::RW, op::CREDIT_REQUEST], "as much as there is room, and one question");
    got.extend(heard.into_iter().flat_map(|(_, data)| data));
    assert_eq!(got.len(), 5000);
    while got.len() < data.len() {
        let forwarded = got.len() as u32;
        bench.say_with((1000, 52), op::CREDIT_UPDATE, &[], |header| {
            (header.buf_alloc, header.fwd_cnt) = (5000, forwarded);
        });
        let heard = bench.heard();
        assert!(!heard.is_empty());
        got.extend(heard.into_iter().flat_map(|(_, data)| data));
    }
    assert!(got == data);
    // Without buffers nothing is read.
    bench.driver.rings[RX].size = 256;
    while !bench.buffers.is_empty() {
        let forwarded = got.len() as u32;
        end.wire().to_guest.extend([0; 100]);
        bench.take((1000, 52), forwarded);
        bench.vsock().process_stream(id);
        got.extend(bench.heard().into_iter().flat_map(|(_, data)| data));
    }
    end.wire().to_guest.extend([0; 100]);
    bench.vsock().process_stream(id);
    assert_eq!(end.wire().to_guest.len(), 100);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut bench = Bench::new();
    bench.offer_buffers(32);
    // The guest first.
    let end = End::open();
    let id = bench.connect((1000, 52), &end);
    bench.say((1000, 52), op::RW, b"request");
    bench.shut((1000, 52), Shutdown::SEND);
    assert_eq!(end.wire().output_ended, 1);
    assert!(!end.wire().input_ended);
    end.wire().to_guest.extend(b"answer");
    bench.vsock().process_stream(id);
    bench.vsock().process_stream(id);
    assert_eq!((bench.ops(), end.wire().output_ended), (vec![op::RW], 1), "it is told once");
    bench.shut((1000, 52), Shutdown::all());
    assert_eq!((bench.ops(), end.wire().dropped), (vec![op::RST], true));

    // The host first.
    let end = End::open();
    let id = bench.connect((1001, 52), &end);
    end.wire().to_guest.extend(b"request");
    end.wire().ended = true;
    bench.vsock().process_stream(id);
    let heard = bench.heard();
    let said: Vec<_> = heard.iter().map(|(header, _)| (header.op, header.flags)).collect();
    assert_eq!(said, [(op::RW, 0), (op::SHUTDOWN, Shutdown::SEND.bits())]);
    bench.say((1001, 52), op::RW, b"answer");
    assert_eq!(end.wire().from_guest, b"answer");
    end.wire().gone = true;
    bench.vsock().process_stream(id);
    let heard = bench.heard();
    let said: Vec<_> = heard.iter().map(|(header, _)| (header.op, header.flags)).collect();
    assert_eq!(said, [(op::SHUTDOWN, Shutdown::all().bits())]);
    bench.say((1001, 52), op::RST, &[]);
    assert!(end.wire().dropped);
}

#[test]
fn what_the_guest_sent_before_it_went_arrives() {
    for forgets in [false, true] {
        let mut bench = Bench::new();
        bench.offer_buffers(16);
        let end = End::default();
        let id = bench.connect((1000, 52), &end);
        bench.say((1000, 52), op::RW, b"last words");
        bench.shut((1000, 52), Shutdown::all());
        assert_eq!((bench.ops(), end.wire().output_ended), (NOTHING.to_vec(), 0));
        if forgets {
            bench.say((1000, 52), op::RST, &[]);
            // Its ports are free.
            bench.connect((1000, 52), &End::open());
        }
        assert!(!end.wire().dropped);
        end.wire().room = usize::MAX;
        bench.vsock().process_stream(id);
        assert_eq!(end.wire().from_guest, b"last words");
        assert!(end.wire().dropped);
        assert_eq!(bench.ops(), if forgets { vec![] } else { vec![op::RST] });
    }
    // One that breaks off takes it back.
    let mut bench = Bench::new();
    bench.offer_buffers(16);
    let end = End::default();
    bench.connect((1000, 52), &end);
    bench.say((1000, 52), op::RW, b"half a wo");
    bench.say((1000, 52), op::RST, &[]);
    assert!(end.wire().dropped);
}

#[test]
fn a_host_that_goes_leaves_what_it_sent() {
    let mut bench = Bench::new();
    bench.offer_buffers(16);
    let end = End::default();
    let id = bench.connect((1000, 52), &end);
    bench.say((1000, 52), op::RW, b"for nobody");
    end.wire().to_guest.extend(vec![7; 10_000]);
    end.wire().gone = true;
    bench.vsock().process_stream(id);
    let heard = bench.heard();
    let bytes: usize = heard.iter().map(|(_, data)| data.len()).sum();
    assert_eq!(bytes, 10_000);
    let (last, _) = heard.last().unwrap();
    assert_eq!((last.op, last.flags), (op::SHUTDOWN, Shutdown::all().bits()));
    // What comes then is dropped, with credit for more.
    for _ in 0..3 {
        bench.say((1000, 52), op::RW, &vec![0; BUFFER as usize / 2]);
    }
    assert_eq!(bench.ops(), [op::CREDIT_UPDATE; 3]);
}

#[test]
fn connections_take_turns() {
    let mut bench = Bench::new();
    bench.offer_buffers(4);
    let ends = [End::open(), End::open()];
    let ids = [bench.connect((1, 52), &ends[0]), bench.connect((2, 52), &ends[1])];
    for (end, id) in ends.iter().zip(ids) {
        end.wire().to_guest.extend(vec![0; 4 * ROOM as usize]);
        bench.vsock().process_stream(id);
    }
    bench.offer_buffers(6);
    let ports: Vec<_> = bench.heard().iter().map(|(header, _)| header.dst_port).collect();
    assert_eq!(ports, [1, 1, 1, 2, 1, 2, 2, 2]);
}

#[test]
fn there_are_so_many_connections_and_refusals_and_no_more() {
    let mut bench = Bench::new();
    for port in 0..Vsock::MAX_CONNECTIONS as u32 {
        bench.say((port, 1), op::REQUEST, &[]);
        bench.driver.used(TX);
    }
    assert_eq!(bench.vsock().connect(End::open().stream(), 1), None);
    // The guest has no room for refusals. When there are too many, it has to wait.
    for port in 0..100 {
        bench.say((port, 2), op::REQUEST, &[]);
    }
    assert_eq!(bench.driver.used(TX).len(), 64);
    bench.offer_buffers(100);
    bench.driver.worker.process();
    assert_eq!(bench.driver.used(TX).len(), 36);
    bench.driver.kick(RX);
    assert_eq!(bench.ops(), [op::RST; 100]);
}

#[test]
fn after_a_restore_connections_are_gone_and_the_guest_is_told() {
    let mut bench = Bench::new();
    bench.offer_buffers(8);
    let event = bench.driver.buffer(4);
    bench.driver.add(EVENT, &[(event, 4, true)]);
    bench.driver.kick(EVENT);
    let end = End::open();
    let id = bench.connect((1000, 52), &end);
    // Saving changes nothing.
    let before = bench.driver.save();
    assert_eq!(before, bench.driver.save());
    bench.driver.worker.process();
    bench.say((1000, 52), op::RW, b"still there");
    assert_eq!((end.wire().from_guest.len(), bench.driver.used(EVENT).len()), (11, 0));

    let Bench { driver, buffers, .. } = bench;
    let (vsock, asked) = device(CID);
    let driver = driver.move_to(vsock.clone());
    let mut bench = Bench { driver, vsock, asked, buffers };
    bench.driver.worker.process();
    assert_eq!(bench.driver.used(EVENT).len(), 1);
    assert_eq!(bench.driver.bytes(event, 4), TRANSPORT_RESET.to_le_bytes());
    bench.vsock().process_stream(id);
    bench.say((1000, 52), op::RW, b"anybody there?");
    assert_eq!(bench.ops(), [op::RST]);
    bench.connect((1000, 52), &End::open());

    // Without connections there is nothing to tell, unless the address is another.
    for (cid, events) in [(CID, 0), (CID + 1, 1)] {
        let mut driver = Driver::new(device(CID).0);
        driver.start(RING_FEATURES);
        let mut driver = driver.move_to(device(cid).0);
        let event = driver.buffer(4);
        driver.add(EVENT, &[(event, 4, true)]);
        driver.kick(EVENT);
        assert_eq!(driver.used(EVENT).len(), events);
        assert_eq!(driver.config(0, 8), cid);
    }
}

#[test]
fn a_reset_closes_what_is_open() {
    let mut bench = Bench::new();
    bench.offer_buffers(8);
    let end = End::open();
    bench.connect((1000, 52), &end);
    bench.driver.reset_machine();
    assert!(end.wire().dropped);
}
