//! Frames that leave something to their receiver.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use smoltcp::wire::{TcpControl, checksum};

use super::datagram::{QUERY, dns, refusing};
use super::{Guest, gateway, open, pattern};
use crate::resolvers::Resolvers;
use crate::testing::packets::{self, Tcp};
use crate::{Checksum, Config, GuestOffloads, Offload, Segment, SegmentKind};

const FROM: u16 = 40_000;

/// What the guest says next in a connection.
struct Talk {
    to: SocketAddr,
    next: u32,
    known: u32,
}

impl Talk {
    /// Opens a connection.
    fn open(guest: &mut Guest, to: SocketAddr) -> Self {
        let mut talk = Self { to, next: 1000, known: 0 };
        let syn = Tcp { ack: None, ..talk.segment(TcpControl::Syn, &[]) };
        assert!(guest.net.send(Offload::default(), &syn.frame()));
        talk.known = guest.frame("an answer", |frame| {
            let segment = packets::tcp(frame)?;
            assert!(segment.syn() && segment.ack());
            Some((segment.seq_number().0 as u32).wrapping_add(1))
        });
        talk.next += 1;
        assert!(guest.net.send(Offload::default(), &talk.segment(TcpControl::None, &[]).frame()));
        talk
    }

    fn segment<'a>(&self, control: TcpControl, payload: &'a [u8]) -> Tcp<'a> {
        let from = SocketAddr::new(Config::default().ipv4.guest.into(), FROM);
        Tcp { from, to: self.to, seq: self.next, ack: Some(self.known), control, window: 4096, payload }
    }
}

#[test]
fn uncut_segments_of_the_guest_are_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(open());
    let mut talk = Talk::open(&mut guest, gateway(listener.local_addr().unwrap()));
    let data = pattern(64_000);
    let mut frame = talk.segment(TcpControl::Psh, &data).frame();
    // The field holds the sum of the pseudo-header alone, which is wrong as a checksum.
    frame[50] ^= 0x55;
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segment: Some(Segment { kind: SegmentKind::Tcp4, size: 1460 }),
    };
    assert!(guest.net.send(offload, &frame));
    talk.next += data.len() as u32;
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = vec![0; data.len()];
    stream.read_exact(&mut heard).unwrap();
    assert!(heard == data);
    guest.frame("an acknowledgement", |frame| {
        (packets::tcp(frame)?.ack_number().0 as u32 == talk.next).then_some(())
    });
}

#[test]
fn a_wrong_checksum_is_noticed_if_nobody_vouches_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(open());
    let talk = Talk::open(&mut guest, gateway(listener.local_addr().unwrap()));
    let mut frame = talk.segment(TcpControl::Psh, b"wrong").frame();
    frame[50] ^= 0x55;
    assert!(guest.net.send(Offload::default(), &frame));
    assert!(guest.net.send(Offload::default(), &talk.segment(TcpControl::Psh, b"right").frame()));
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"right");
}

#[test]
fn a_guest_that_takes_uncut_segments_gets_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(open());
    guest.net.set_guest_offloads(GuestOffloads { checksum: true, tso4: true, tso6: true });
    let mut talk = Talk::open(&mut guest, gateway(listener.local_addr().unwrap()));
    let (mut stream, _) = listener.accept().unwrap();
    let data = pattern(1 << 20);
    let expected = data.clone();
    let sender = thread::spawn(move || stream.write_all(&data));
    let (mut heard, mut largest) = (Vec::<u8>::new(), 0);
    while heard.len() < expected.len() {
        // `frame` passes over frames, so each is looked at here.
        let (segment, length) = guest.frame("data", |frame| {
            let segment = packets::tcp(frame)?;
            Some((frame.to_vec(), segment.payload().len()))
        });
        let tcp = packets::tcp(&segment).unwrap();
        if length == 0 {
            continue;
        }
        let pseudo = checksum::pseudo_header(
            &talk.to.ip().into(),
            &Config::default().ipv4.guest.into(),
            smoltcp::wire::IpProtocol::Tcp,
            (segment.len() - 34) as u32,
        );
        assert_eq!(tcp.checksum(), pseudo, "the sum of the pseudo-header");
        assert_eq!(tcp.seq_number().0 as u32, talk.known, "in order");
        heard.extend(tcp.payload());
        talk.known = talk.known.wrapping_add(length as u32);
        largest = largest.max(length);
        assert!(guest.net.send(Offload::default(), &talk.segment(TcpControl::None, &[]).frame()));
    }
    assert!(heard == expected);
    assert!(largest > 30_000, "the largest segment had {largest} bytes");
    sender.join().unwrap().unwrap();
}

#[test]
fn a_guest_that_sums_up_datagrams_is_left_to_do_that() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(open());
    guest.net.set_guest_offloads(GuestOffloads { checksum: true, tso4: false, tso6: false });
    let from = SocketAddr::new(Config::default().ipv4.guest.into(), 40_000);
    let to = gateway(server.local_addr().unwrap());
    assert!(guest.net.send(Offload::default(), &packets::udp(from, to, b"anyone?")));
    let (_, peer) = server.recv_from(&mut [0; 7]).unwrap();
    server.send_to(b"the host", peer).unwrap();
    let datagram = datagram_to_sum_up(&mut guest, to, |frame| frame.ends_with(b"the host"));
    assert_eq!(&datagram[8..], b"the host");
}

#[test]
fn it_sums_up_that_its_question_failed() {
    let mut guest = Guest::new(Config::default());
    guest.net.set_guest_offloads(GuestOffloads { checksum: true, tso4: false, tso6: false });
    guest.net.core_mut().resolvers = Resolvers::of(vec![refusing()]);
    let from = SocketAddr::new(Config::default().ipv4.guest.into(), 40_000);
    assert!(guest.net.send(Offload::default(), &packets::udp(from, dns(), QUERY)));
    let answer =
        datagram_to_sum_up(&mut guest, dns(), |frame| frame.get(42..44).is_some_and(|id| id == &QUERY[..2]));
    assert_eq!(answer[11] & 15, 2);
}

/// A datagram for the guest, whose checksum is left to it.
fn datagram_to_sum_up(guest: &mut Guest, from: SocketAddr, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut frame, mut offload) = (Vec::new(), None);
    for _ in 0..10_000 {
        guest.net.poll();
        // Advertisements come besides.
        offload = guest.net.receive(&mut frame).filter(|_| is_it(&frame));
        if offload.is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let partial = Checksum::Partial { start: 34, offset: 6 };
    assert_eq!(offload, Some(Offload { checksum: partial, segment: None }));
    let datagram = frame.split_off(34);
    let ends = (from.ip(), Config::default().ipv4.guest.into());
    let pseudo = crate::frame::pseudo_header(ends, smoltcp::wire::IpProtocol::Udp, datagram.len());
    assert_eq!(datagram[6..8], pseudo.to_be_bytes());
    datagram
}
