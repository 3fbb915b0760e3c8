//! What the user-mode network carries, with a guest in the process that does next to nothing: each way, with frames of
//! 64 KiB and of 1500 bytes, beside plain TCP over the host's loopback; and how many connections a second it opens.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use viv_usernet::{Checksum, Config, GuestOffloads, Offload, Segment, SegmentKind, UserNet};

const TIME: Duration = Duration::from_secs(2);
const MSS: usize = 1460;
const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;

/// One connection of a guest's.
struct Client {
    net: UserNet,
    ports: (u16, u16),
    next: u32,
    acknowledged: u32,
    window: u32,
    known: u32,
    frame: Vec<u8>,
}

impl Client {
    fn new(port: u16, offloads: GuestOffloads) -> Self {
        let mut net = UserNet::new(Config { host_access: true, ..Config::default() }).expect("a network");
        net.set_guest_offloads(offloads);
        let frame = Vec::new();
        Self { net, ports: (1024, port), next: 0, acknowledged: 0, window: 0, known: 0, frame }
    }

    fn send(&mut self, control: TcpControl, ack: bool, payload: &[u8], size: usize) {
        let syn = control == TcpControl::Syn;
        let segment = TcpRepr {
            src_port: self.ports.0,
            dst_port: self.ports.1,
            control,
            seq_number: TcpSeqNumber(self.next as i32),
            ack_number: ack.then_some(TcpSeqNumber(self.known as i32)),
            window_len: if syn { u16::MAX } else { 1 << 13 },
            window_scale: syn.then_some(7),
            max_seg_size: syn.then_some(MSS as u16),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let header = Ipv4Repr {
            src_addr: GUEST,
            dst_addr: GATEWAY,
            next_header: IpProtocol::Tcp,
            payload_len: segment.buffer_len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; 34 + segment.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
        ethernet.set_src_addr(MAC);
        ethernet.set_dst_addr(EthernetAddress(Config::default().gateway_mac));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        header.emit(&mut packet, &Default::default());
        let mut sums = smoltcp::phy::ChecksumCapabilities::default();
        sums.tcp = smoltcp::phy::Checksum::None;
        let ends: (IpAddress, IpAddress) = (GUEST.into(), GATEWAY.into());
        segment.emit(&mut TcpPacket::new_unchecked(packet.payload_mut()), &ends.0, &ends.1, &sums);
        let cut = Segment { kind: SegmentKind::Tcp4, size: MSS as u16 };
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segment: (size > MSS).then_some(cut),
        };
        assert!(self.net.send(offload, &frame));
        self.next = self.next.wrapping_add((payload.len() + usize::from(syn)) as u32);
    }

    /// Takes all frames: how many bytes they brought.
    fn take(&mut self) -> usize {
        let mut bytes = 0;
        while self.net.receive(&mut self.frame).is_some() {
            let Ok(packet) = TcpPacket::new_checked(&self.frame[34..]) else { continue };
            if packet.dst_port() != self.ports.0 {
                continue;
            }
            let length = self.frame.len() - 34 - usize::from(packet.header_len());
            if packet.syn() {
                self.known = (packet.seq_number().0 as u32).wrapping_add(1);
                self.window = packet.window_len().into();
            } else {
                self.known = self.known.wrapping_add(length as u32);
                self.window = u32::from(packet.window_len()) << 4;
            }
            self.acknowledged = packet.ack_number().0 as u32;
            bytes += length;
        }
        bytes
    }

    fn wait(&mut self) {
        let mut fds = [PollFd::from_borrowed_fd(self.net.fd(), PollFlags::IN)];
        poll(&mut fds, None).expect("waiting");
        self.net.poll();
    }

    fn connect(&mut self) {
        self.send(TcpControl::Syn, false, &[], 0);
        let next = self.next;
        while self.acknowledged != next {
            self.wait();
            self.take();
        }
        self.send(TcpControl::None, true, &[], 0);
    }

    /// Sends for a time: how many bytes a second.
    fn upload(&mut self, size: usize) -> f64 {
        let data = vec![7; size];
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < TIME {
            let in_flight = self.next.wrapping_sub(self.acknowledged);
            if in_flight + size as u32 <= self.window {
                self.send(TcpControl::Psh, true, &data, size);
                sent += size;
                continue;
            }
            self.take();
            if self.next.wrapping_sub(self.acknowledged) + size as u32 > self.window {
                self.wait();
                self.take();
            }
        }
        sent as f64 / start.elapsed().as_secs_f64()
    }

    /// Receives for a time: how many bytes a second.
    fn download(&mut self) -> f64 {
        let (start, mut received) = (Instant::now(), 0);
        while start.elapsed() < TIME {
            let bytes = self.take();
            received += bytes;
            if bytes == 0 {
                self.wait();
            } else {
                self.send(TcpControl::None, true, &[], 0);
            }
        }
        received as f64 / start.elapsed().as_secs_f64()
    }
}

/// A server that takes all there is, or sends all it can.
fn server(sends: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = vec![1; 128 << 10];
        while if sends {
            stream.write_all(&buffer).is_ok()
        } else {
            stream.read(&mut buffer).is_ok_and(|n| n != 0)
        } {}
    });
    port
}

/// Plain TCP: how many bytes a second.
fn plain() -> f64 {
    let mut stream =
        TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, server(false))).expect("a connection");
    let data = vec![7; 64 << 10];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        stream.write_all(&data).expect("a reader");
        sent += data.len();
    }
    sent as f64 / start.elapsed().as_secs_f64()
}

/// A server that ends all connections at once.
fn ender() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || while listener.accept().is_ok() {});
    port
}

/// How many connections a second plain TCP opens, one after the other.
fn plain_rate() -> f64 {
    let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, ender());
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        drop(TcpStream::connect(at).expect("a connection"));
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// How many connections a second are opened, one after the other, and reset.
fn rate() -> f64 {
    let port = ender();
    let mut client = Client::new(port, GuestOffloads::default());
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        client.ports.0 = 1024 + (count % 60_000) as u16;
        client.connect();
        client.send(TcpControl::Rst, true, &[], 0);
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

fn main() {
    let reference = plain();
    let show = |name: &str, rate: f64| {
        println!("{name:32} {:6.2} Gbit/s  {:4.2} of plain", rate * 8e-9, rate / reference);
    };
    show("plain TCP over loopback", reference);
    let all = GuestOffloads { checksum: true, tso4: true, tso6: true };
    let uncut = (65_535 - HEADERS) / MSS * MSS;
    for (name, size) in [("from the guest, 64 KiB frames", uncut), ("from the guest, 1500 byte frames", MSS)]
    {
        let mut client = Client::new(server(false), all);
        client.connect();
        show(name, client.upload(size));
    }
    let checksum = GuestOffloads { checksum: true, ..GuestOffloads::default() };
    for (name, offloads) in [
        ("to the guest, 64 KiB frames", all),
        ("to the guest, 1500 byte frames", checksum),
        ("the same with checksums", GuestOffloads::default()),
    ] {
        let mut client = Client::new(server(true), offloads);
        client.connect();
        show(name, client.download());
    }
    println!("{:32} {:6.0} a second", "plain connections", plain_rate());
    println!("{:32} {:6.0} a second", "connections of the guest", rate());
}
