use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard};

use viv_engine::Clock;
use viv_engine::time::ManualClock;

use super::regs::{ack, class, feature, mac, rx, status};
use super::*;
use crate::testing::Alarm;
use crate::virtio::testing::{Driver, RING_FEATURES};
use crate::virtio::{Limits, Shared, feature as ring};

const MAC: MacAddress = [2, 0, 0, 0, 0, 1];
const HEADER: u32 = VnetHeader::LENGTH as u32;

/// A host's end that remembers.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sent: Vec<(VnetHeader, Vec<u8>)>,
    to_receive: VecDeque<(VnetHeader, Vec<u8>)>,
    reads: u32,
    full: bool,
    /// What comes back for the next frame.
    echo: Option<Vec<u8>>,
    active: bool,
    offloads: Option<Offloads>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn push(&self, header: VnetHeader, frame: Vec<u8>) {
        self.state().to_receive.push_back((header, frame));
    }
}

impl NetBackend for Fake {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }
    fn set_guest_offloads(&mut self, offloads: Offloads) {
        self.state().offloads = Some(offloads);
    }
    fn set_active(&mut self, active: bool) {
        self.state().active = active;
    }
    fn send(&mut self, header: &VnetHeader, frame: &[u8]) -> Sent {
        let mut state = self.state();
        if state.full {
            return Sent::Full;
        }
        state.sent.push((*header, frame.to_vec()));
        match state.echo.take() {
            Some(frame) => {
                state.to_receive.push_back((VnetHeader::default(), frame));
                Sent::Answered
            }
            None => Sent::Done,
        }
    }
    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<(VnetHeader, usize)> {
        let mut state = self.state();
        state.reads += 1;
        let (header, frame) = state.to_receive.pop_front()?;
        *buffer = frame;
        Some((header, buffer.len()))
    }
}

struct Bench {
    driver: Driver,
    net: Shared<Net>,
    hosts: Vec<Fake>,
}

fn net(hosts: &[Fake], mtu: Option<u16>) -> Shared<Net> {
    let backends = hosts.iter().map(|host| Box::new(host.clone()) as Box<dyn NetBackend>).collect();
    Arc::new(Mutex::new(Net::new(NetConfig { mac: MAC, mtu, backends, throttles: None })))
}

/// A frame of `length` bytes to `to`.
fn frame(to: MacAddress, length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame
}

impl Bench {
    fn new(pairs: usize) -> Self {
        let mut bench = Self::stopped(pairs);
        let features = bench.driver.offered();
        bench.driver.start(features);
        bench
    }

    fn stopped(pairs: usize) -> Self {
        let hosts: Vec<_> = (0..pairs).map(|_| Fake::default()).collect();
        let net = net(&hosts, None);
        Self { driver: Driver::new(net.clone()), net, hosts }
    }

    /// Offers a buffer for frames to the guest.
    fn offer(&mut self, queue: usize, length: u32) -> u64 {
        let buffer = self.driver.buffer(length);
        self.driver.add(queue, &[(buffer, length, true)]);
        buffer
    }

    fn wake(&self, pair: usize) {
        self.net.lock().unwrap().process_pair(pair);
    }

    fn send(&mut self, queue: usize, header: VnetHeader, frame: &[u8]) {
        let header = self.driver.data(&header.to_bytes(0));
        let data = self.driver.data(frame);
        let half = frame.len() as u32 / 2;
        let rest = frame.len() as u32 - half;
        self.driver.add(
            queue,
            &[(header, HEADER, false), (data, half, false), (data + u64::from(half), rest, false)],
        );
        self.driver.kick(queue);
    }

    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let queue = self.driver.rings.len() - 1;
        let head = self.driver.data(&[class, command]);
        let data_at = self.driver.data(data);
        let answer = self.driver.data(&[0xee]);
        self.driver.add(queue, &[(head, 2, false), (data_at, data.len() as u32, false), (answer, 1, true)]);
        self.driver.kick(queue);
        assert_eq!(self.driver.used(queue).len(), 1);
        self.driver.bytes(answer, 1)[0]
    }
}

#[test]
fn the_configuration_says_what_the_interface_is() {
    let hosts = [Fake::default(), Fake::default()];
    let mut driver = Driver::new(net(&hosts, Some(9000)));
    assert_eq!(driver.config(0, 4), 0x0000_0002);
    assert_eq!((driver.config(4, 2), driver.config(6, 2)), (0x0100, u64::from(status::LINK_UP)));
    assert_eq!((driver.config(8, 2), driver.config(10, 2)), (2, 9000));
    let features = driver.offered();
    assert_ne!(features & feature::MQ, 0);
    assert_ne!(features & feature::MTU, 0);
    let features = Bench::stopped(1).driver.offered();
    assert_eq!(features & (feature::MQ | feature::MTU), 0);
}

#[test]
fn frames_leave_whole_with_their_header() {
    let mut bench = Bench::new(1);
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    let long = frame(MAC, 60_000);
    bench.send(1, header, &long);
    bench.send(1, VnetHeader::default(), &long[..60]);
    let state = bench.hosts[0].state();
    assert!(state.sent == [(header, long.clone()), (VnetHeader::default(), long[..60].to_vec())]);
}

#[test]
fn what_the_host_has_no_room_for_stays_in_the_ring() {
    let mut bench = Bench::new(1);
    bench.hosts[0].state().full = true;
    bench.send(1, VnetHeader::default(), &frame(MAC, 100));
    bench.send(1, VnetHeader::default(), &frame(MAC, 200));
    assert!(bench.driver.used(1).is_empty());
    bench.hosts[0].state().full = false;
    bench.wake(0);
    let lengths: Vec<_> = bench.hosts[0].state().sent.iter().map(|(_, frame)| frame.len()).collect();
    assert_eq!((lengths, bench.driver.used(1).len()), (vec![100, 200], 2));
}

#[test]
fn an_answer_comes_at_once_and_makes_room() {
    let mut bench = Bench::new(1);
    bench.offer(0, 100);
    bench.hosts[0].state().echo = Some(frame(MAC, 60));
    bench.send(1, VnetHeader::default(), &frame(MAC, 100));
    assert_eq!(bench.driver.used(0).len(), 1);

    bench.hosts[0].state().full = true;
    bench.send(1, VnetHeader::default(), &frame(MAC, 200));
    bench.hosts[0].state().full = false;
    bench.hosts[0].push(VnetHeader::default(), frame(MAC, 60));
    bench.offer(0, 100);
    bench.driver.kick(0);
    bench.driver.worker.process();
    assert_eq!((bench.driver.used(0).len(), bench.hosts[0].state().sent.len()), (1, 2));
}

#[test]
fn what_is_no_frame_is_dropped() {
    let mut bench = Bench::new(1);
    let segments = VnetHeader { gso_type: 3, ..VnetHeader::default() };
    bench.send(1, segments, &frame(MAC, 100));
    bench.send(1, VnetHeader::default(), &frame(MAC, 13));
    bench.send(1, VnetHeader::default(), &frame(MAC, MAX_FRAME + 1));
    let short = bench.driver.data(&[0; 5]);
    bench.driver.add(1, &[(short, 5, false)]);
    bench.driver.kick(1);
    assert_eq!((bench.driver.used(1).len(), bench.hosts[0].state().sent.len()), (4, 0));
    assert!(!bench.driver.is_broken());

    let features = bench.driver.offered() & !(feature::HOST_TSO4 | feature::CSUM);
    bench.driver.start(features);
    for header in [
        VnetHeader { gso_type: VnetHeader::GSO_TCPV4, ..VnetHeader::default() },
        VnetHeader { flags: VnetHeader::NEEDS_CSUM, ..VnetHeader::default() },
    ] {
        bench.send(1, header, &frame(MAC, 100));
    }
    assert!(bench.hosts[0].state().sent.is_empty(), "what was not negotiated");
}

#[test]
fn a_long_frame_takes_several_buffers_at_once() {
    let mut bench = Bench::new(1);
    bench.driver.interrupts();
    let header = VnetHeader { flags: VnetHeader::DATA_VALID, ..VnetHeader::default() };
    let sent = frame(MAC, 4000);
    bench.hosts[0].push(header, sent.clone());
    let buffers: Vec<_> = (0..4).map(|_| bench.offer(0, 1500)).collect();
    bench.driver.kick(0);
    let used = bench.driver.used(0);
    let lengths: Vec<_> = used.iter().map(|(_, length)| *length).collect();
    assert_eq!(lengths, [1500, 1500, 4000 + HEADER - 3000]);
    assert_eq!(bench.driver.interrupts(), [0]);
    let received: Vec<u8> =
        buffers.iter().zip(&lengths).flat_map(|(&at, &n)| bench.driver.bytes(at, n as usize)).collect();
    assert_eq!(received[..12], header.to_bytes(3));
    assert!(received[12..] == sent);
}

#[test]
fn a_guest_without_buffers_is_waited_for() {
    let mut bench = Bench::new(1);
    let sent = frame(MAC, 4000);
    bench.hosts[0].push(VnetHeader::default(), sent.clone());
    bench.hosts[0].push(VnetHeader::default(), frame(MAC, 60));
    bench.wake(0);
    assert_eq!(bench.hosts[0].state().reads, 0, "without a buffer it is not read");
    let mut buffers = vec![bench.offer(0, 1500), bench.offer(0, 1500)];
    bench.driver.kick(0);
    assert!(bench.driver.used(0).is_empty() && bench.hosts[0].state().reads == 1);

    // The frame that waits moves with the device.
    let Bench { driver, hosts, .. } = bench;
    let net = net(&hosts, None);
    let mut bench = Bench { driver: driver.move_to(net.clone()), net, hosts };
    bench.driver.worker.process();
    assert!(bench.driver.used(0).is_empty());
    buffers.extend([bench.offer(0, 1500), bench.offer(0, 1500)]);
    bench.driver.kick(0);
    let used = bench.driver.used(0);
    assert_eq!(used.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1500, 1500, 1012, 72]);
    assert!(bench.driver.bytes(buffers[1], 1500) == sent[1488..2988]);
}

#[test]
fn frames_that_never_fit_are_dropped() {
    let mut bench = Bench::stopped(1);
    assert!(bench.driver.negotiate(RING_FEATURES | feature::MRG_RXBUF));
    bench.driver.set_up_queues(2);
    bench.driver.set_msix(true);
    bench.driver.set((0x14, 1), 15);
    for length in [4000, 100] {
        bench.hosts[0].push(VnetHeader::default(), frame(MAC, length));
    }
    bench.offer(0, 1500);
    bench.offer(0, 1500);
    bench.driver.kick(0);
    bench.driver.worker.process();
    assert_eq!(bench.driver.used(0), [(0, 112)]);

    let mut bench = Bench::stopped(1);
    bench.driver.start(ring::VERSION_1);
    for (flags, gso_type, length) in [
        (0, 0, 2000),
        (VnetHeader::NEEDS_CSUM, 0, 100),
        (0, VnetHeader::GSO_TCPV4, 100),
        (0, 9, 100),
        (0, 0, 10),
        (0, 0, 64),
    ] {
        bench.hosts[0].push(VnetHeader { flags, gso_type, ..VnetHeader::default() }, frame(MAC, length));
    }
    bench.offer(0, 1526);
    bench.driver.kick(0);
    assert_eq!(bench.driver.used(0), [(0, 76)]);
    bench.offer(0, 5);
    bench.hosts[0].push(VnetHeader::default(), frame(MAC, 64));
    bench.driver.kick(0);
    assert!(bench.driver.used(0).is_empty() && bench.hosts[0].state().to_receive.is_empty());
    assert!(!bench.driver.is_broken());
}

#[test]
fn only_frames_that_are_wanted_arrive() {
    let mut bench = Bench::new(1);
    let (other, group) = ([2, 0, 0, 0, 0, 9], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(bench.command(class::RX, rx::PROMISC, &[0]), ack::OK);
    let mut table = 1_u32.to_le_bytes().to_vec();
    table.extend(other);
    table.extend(0_u32.to_le_bytes());
    assert_eq!(bench.command(class::MAC, mac::TABLE_SET, &table), ack::OK);
    for to in [MAC, other, group, [0xff; 6], [2, 0, 0, 0, 0, 5]] {
        bench.hosts[0].push(VnetHeader::default(), frame(to, 60));
        bench.offer(0, 100);
    }
    bench.driver.kick(0);
    assert_eq!(bench.driver.used(0).len(), 3);
    assert_eq!(bench.command(class::MAC, mac::ADDR_SET, &[2, 0, 0, 0, 0, 5]), ack::OK);
    assert_eq!(bench.driver.config(4, 2), 0x0500);
    bench.hosts[0].push(VnetHeader::default(), frame([2, 0, 0, 0, 0, 5], 60));
    bench.wake(0);
    assert_eq!(bench.driver.used(0).len(), 1);
}

#[test]
fn commands_that_make_no_sense_fail() {
    let mut bench = Bench::new(2);
    let mut long = 300_u32.to_le_bytes().to_vec();
    long.resize(4 + 300 * 6 + 4, 0);
    for (class, command, data) in [
        (class::RX, 9, vec![1]),
        (class::RX, rx::PROMISC, vec![]),
        (class::MAC, mac::ADDR_SET, vec![1, 2, 3]),
        (class::MAC, mac::TABLE_SET, vec![0xff; 4]),
        (class::MAC, mac::TABLE_SET, vec![1, 0, 0, 0, 2, 2]),
        (class::MAC, mac::TABLE_SET, long),
        (class::MQ, 0, vec![0, 0]),
        (class::MQ, 0, vec![3, 0]),
        (class::MQ, 1, vec![1, 0]),
        (class::GUEST_OFFLOADS, 0, (1_u64 << 40).to_le_bytes().to_vec()),
        (2, 0, vec![1, 0]),
        (99, 0, vec![]),
    ] {
        assert_eq!(bench.command(class, command, &data), ack::ERR, "{class} {command}");
    }
}

#[test]
fn the_driver_uses_as_many_pairs_as_it_says() {
    let mut bench = Bench::new(2);
    let active = |bench: &Bench| bench.hosts.iter().map(|host| host.state().active).collect::<Vec<_>>();
    assert_eq!(active(&bench), [true, false]);
    bench.hosts[1].push(VnetHeader::default(), frame(MAC, 60));
    bench.offer(2, 100);
    bench.driver.kick(2);
    bench.send(3, VnetHeader::default(), &frame(MAC, 60));
    assert!(bench.driver.used(2).is_empty() && bench.driver.used(3).is_empty());
    assert_eq!(bench.command(class::MQ, 0, &[2, 0]), ack::OK);
    assert_eq!((bench.driver.used(2).len(), bench.driver.used(3).len()), (1, 1));
    assert_eq!(active(&bench), [true, true]);
    bench.driver.reset_machine();
    assert_eq!(active(&bench), [true, false]);

    // Without MQ the third queue is for commands.
    let features = bench.driver.offered() & !feature::MQ;
    bench.driver.start(features);
    bench.driver.rings.truncate(3);
    assert_eq!(bench.command(class::RX, rx::ALLMULTI, &[1]), ack::OK);
    assert_eq!(bench.command(class::MQ, 0, &[2, 0]), ack::ERR);
}

#[test]
fn offloads_are_those_of_both_sides() {
    let mut bench = Bench::new(1);
    let told = |bench: &Bench| bench.hosts[0].state().offloads.unwrap();
    assert_eq!(told(&bench), Offloads::all());
    let set = |bench: &mut Bench, bits: u64| bench.command(class::GUEST_OFFLOADS, 0, &bits.to_le_bytes());
    assert_eq!(set(&mut bench, feature::GUEST_CSUM | feature::GUEST_TSO4), ack::OK);
    assert_eq!(told(&bench), Offloads::CHECKSUM | Offloads::TSO4);
    assert_eq!(set(&mut bench, feature::GUEST_TSO6), ack::OK);
    assert_eq!(told(&bench), Offloads::empty(), "segments need checksums");
    bench.driver.start(RING_FEATURES | feature::GUEST_CSUM);
    assert_eq!(told(&bench), Offloads::CHECKSUM);
    bench.driver.reset_machine();
    assert_eq!(told(&bench), Offloads::empty());
}

#[test]
fn the_link_and_the_wish_for_an_announcement_are_told() {
    let mut bench = Bench::new(1);
    bench.driver.interrupts();
    bench.net.lock().unwrap().set_link(false);
    assert_eq!((bench.driver.config(6, 2), bench.driver.interrupts()), (0, vec![3]));
    bench.send(1, VnetHeader::default(), &frame(MAC, 60));
    bench.offer(0, 100);
    bench.hosts[0].push(VnetHeader::default(), frame(MAC, 60));
    bench.wake(0);
    assert!(bench.hosts[0].state().sent.is_empty() && bench.driver.used(0).is_empty());
    bench.net.lock().unwrap().set_link(true);
    assert_eq!((bench.driver.config(6, 2), bench.driver.used(0).len()), (1, 1));

    bench.net.lock().unwrap().announce();
    assert_eq!(bench.driver.config(6, 2), 3);
    assert_eq!(bench.command(class::ANNOUNCE, 0, &[]), ack::OK);
    assert_eq!(bench.driver.config(6, 2), 1);
    bench.driver.start(ring::VERSION_1);
    bench.net.lock().unwrap().announce();
    assert_eq!(bench.driver.config(6, 2), 1, "it does not know how");
}

#[test]
fn a_saved_interface_fits_only_one_like_it() {
    let mut bench = Bench::new(2);
    bench.command(class::MQ, 0, &[2, 0]);
    bench.command(class::RX, rx::PROMISC, &[0]);
    bench.command(class::MAC, mac::ADDR_SET, &[2, 0, 0, 0, 0, 7]);
    let state = bench.net.lock().unwrap().save().unwrap();
    for (pairs, mtu) in [(1, None), (2, Some(1500))] {
        let hosts = vec![Fake::default(); pairs];
        let other = net(&hosts, mtu);
        assert!(matches!(other.lock().unwrap().restore(&state), Err(DeviceError::Invalid { .. })));
    }
    let newer = SavedState { version: 3, ..state };
    assert!(matches!(bench.net.lock().unwrap().restore(&newer), Err(DeviceError::Version { .. })));

    let hosts = vec![Fake::default(), Fake::default()];
    let net = net(&hosts, None);
    let mut bench = Bench { driver: bench.driver.move_to(net.clone()), net, hosts };
    assert!(bench.hosts[1].state().active);
    bench.hosts[1].push(VnetHeader::default(), frame(MAC, 60));
    bench.hosts[1].push(VnetHeader::default(), frame([2, 0, 0, 0, 0, 7], 60));
    bench.offer(2, 100);
    bench.offer(2, 100);
    bench.driver.kick(2);
    assert_eq!(bench.driver.used(2).len(), 1);
}

#[test]
fn frames_beyond_the_limits_wait_where_they_are() {
    let (clock, alarm) = (Arc::<ManualClock>::default(), Arc::<Alarm>::default());
    let make = |host: &Fake| {
        let throttle = |requests: u64, bytes: u64| {
            let limits = Limits { requests: NonZeroU64::new(requests), bytes: NonZeroU64::new(bytes) };
            Throttle::new(limits, clock.clone(), alarm.clone())
        };
        let throttles = Some(Throttles { receive: throttle(10, 0), transmit: throttle(0, 1000) });
        let backends: Vec<Box<dyn NetBackend>> = vec![Box::new(host.clone())];
        Arc::new(Mutex::new(Net::new(NetConfig { mac: MAC, mtu: None, backends, throttles })))
    };
    let host = Fake::default();
    let net = make(&host);
    let mut driver = Driver::new(net.clone());
    driver.start(RING_FEATURES | feature::HOST_TSO4 | feature::CSUM);
    let frame = |length: usize| [&MAC[..], &vec![0; length - 6]].concat();
    // Bytes of the guest's: a second's worth, and the one that has begun.
    for _ in 0..20 {
        let address = driver.data(&[&[0; 12][..], &frame(100)].concat());
        driver.add(1, &[(address, HEADER + 100, false)]);
    }
    driver.kick(1);
    assert_eq!((driver.used(1).len(), host.state().sent.len()), (11, 11));
    clock.advance(500_000_000);
    net.lock().unwrap().resume();
    assert_eq!(driver.used(1).len(), 5);
    // Packets for the guest: large ones are those that they become.
    for _ in 0..20 {
        host.push(VnetHeader::default(), frame(60));
        let address = driver.buffer(2000);
        driver.add(0, &[(address, 2000, true)]);
    }
    net.lock().unwrap().process_pair(0);
    driver.kick(0);
    assert_eq!((driver.used(0).len(), host.state().to_receive.len()), (11, 9));
    assert!(alarm.deadline().is_some());
    // A copy has as little left.
    let other = make(&host);
    let mut driver = driver.move_to(other.clone());
    driver.worker.process();
    assert_eq!((driver.used(0).len(), driver.used(1).len()), (0, 0));
    clock.advance(5_000_000_000);
    other.lock().unwrap().resume();
    assert_eq!((driver.used(0).len(), driver.used(1).len()), (9, 4));
    assert_eq!(host.state().sent.len(), 20);

    // One large segment is many packets.
    let segments = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        gso_size: 100,
        ..VnetHeader::default()
    };
    let mut throttle =
        Throttle::new(Limits { requests: NonZeroU64::new(10), bytes: None }, clock.clone(), alarm.clone());
    pair::charge(Some(&mut throttle), segments, 3000);
    assert!(!throttle.is_open());
    assert_eq!(alarm.deadline(), Some(clock.now() + 2_000_000_000));
}

#[test]
fn a_state_of_before_there_were_limits_is_understood() {
    let (one, other) = (net(&[Fake::default()], None), net(&[Fake::default()], None));
    let saved = one.lock().unwrap().save().unwrap();
    // What is new is at the end: two limits for each direction, none of them used.
    let (data, paid) = saved.data.split_at(saved.data.len() - 4);
    assert_eq!(paid, [0; 4]);
    let old = SavedState { version: 1, data: data.to_vec(), ..saved.clone() };
    other.lock().unwrap().restore(&old).unwrap();
    assert_eq!(other.lock().unwrap().save().unwrap(), saved);
}
