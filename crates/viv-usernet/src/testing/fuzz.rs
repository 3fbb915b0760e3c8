//! Random input, for every part that reads what a guest sends.
//!
//! A target is a function of bytes, run on mutations of good ones and on bytes made up; nothing may panic, and what a guest
//! holds stays within its limits. Nothing leaves the host: the guest is [restricted](crate::Config::restricted).

use std::net::{SocketAddr, TcpListener, UdpSocket};

use smoltcp::wire::{IpProtocol, TcpControl};
use viv_fuzz::Random;

use super::packets::{self, Tcp};
use crate::config::Limits;
use crate::{
    Checksum, Config, GuestOffloads, Offload, Protocol, Publish, Segment, SegmentKind, UserNet, dhcp, dns,
};

/// How many inputs a test runs.
const INPUTS: u64 = 300;

struct Target {
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

mod target {
    use super::*;

    #[test]
    fn usernet_frames() {
        check("usernet_frames", &Target { run: frames, seeds: frame_seeds });
    }

    #[test]
    fn usernet_tcp() {
        check("usernet_tcp", &Target { run: tcp, seeds: || vec![(0..=255).collect()] });
    }

    #[test]
    fn usernet_dhcp() {
        check("usernet_dhcp", &Target { run: dhcp_message, seeds: dhcp_seeds });
    }

    #[test]
    fn usernet_dns() {
        let seeds = || vec![b"\xAB\xCD\x01\0\0\x01\0\0\0\0\0\0\x04host\x07example\0\0\x01\0\x01".to_vec()];
        check("usernet_dns", &Target { run: dns_message, seeds });
    }
}

/// Runs inputs.
fn check(name: &str, target: &Target) {
    let seeds = (target.seeds)();
    viv_fuzz::run(name, INPUTS, |seed| {
        let input = input(&seeds, seed);
        let result = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(result.is_ok(), "by {input:02x?}");
    });
}

/// A seed that is damaged, or bytes made up.
fn input(seeds: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    if random.chance(8) {
        let count = random.index(600);
        return random.bytes(count);
    }
    let mut bytes = seeds[random.index(seeds.len())].clone();
    random.damage(&mut bytes);
    bytes
}

/// Takes what there is for the guest, which must keep to the rules.
fn take(net: &mut UserNet) {
    let mut frame = Vec::new();
    net.poll();
    for _ in 0..4096 {
        let Some(offload) = net.receive(&mut frame) else { return };
        assert!(frame.len() >= 14 && frame.len() <= 65_550, "a frame of {} bytes", frame.len());
        assert!(offload.segment.is_some() || frame.len() <= 1514, "{} bytes in one piece", frame.len());
    }
}

/// Frames in a row: each has its length before it, in two bytes, of which the upper bits say what else happens.
fn frames(mut input: &[u8]) {
    let publish = Publish { host: None, host_port: 0, guest_port: 80, protocol: Protocol::Udp };
    let limits = Limits { connections: 4, flows: 4, buffered: 64 << 10 };
    let config = Config { restricted: true, publish: vec![publish], limits, ..Config::default() };
    let mut net = UserNet::new(config).unwrap();
    while let Some((&[high, low], rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([high & 0x0F, low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        let on = high & 0x10 != 0;
        let checksum = match high >> 5 & 3 {
            0 => Checksum::None,
            1 => Checksum::Valid,
            _ => Checksum::Partial { start: u16::from(low), offset: 16 },
        };
        let segment = on.then_some(Segment { kind: SegmentKind::Tcp4, size: u16::from(low) });
        net.set_guest_offloads(GuestOffloads { checksum: on, tso4: on, tso6: on });
        if !net.send(Offload { checksum, segment }, frame) || high & 0x80 != 0 {
            take(&mut net);
        }
        input = rest;
    }
    take(&mut net);
    net.reset();
    assert_eq!(net.connections(), 0);
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let guest: SocketAddr = "10.0.2.15:5000".parse().unwrap();
    let syn = Tcp {
        from: guest,
        to: "10.0.2.2:80".parse().unwrap(),
        seq: 1,
        ack: None,
        control: TcpControl::Syn,
        window: 1000,
        payload: &[],
    };
    let extended = packets::ip(
        "fd76:6976:6172::15".parse().unwrap(),
        "fd76:6976:6172::2".parse().unwrap(),
        IpProtocol::HopByHop,
        24,
        |body| body[0] = IpProtocol::Ipv6Frag.into(),
    );
    let mut piece = packets::ip(guest.ip(), "192.0.2.1".parse().unwrap(), IpProtocol::Udp, 64, |_| {});
    crate::frame::set_part(&mut piece, crate::frame::Part { identification: 5, offset: 64, more: true });
    let all = [
        packets::arp_request(),
        syn.frame(),
        packets::udp(guest, "192.0.2.1:53".parse().unwrap(), b"hello"),
        packets::udp(guest, "10.0.2.2:67".parse().unwrap(), &dhcp_seeds()[0]),
        packets::ip(guest.ip(), "10.0.2.2".parse().unwrap(), IpProtocol::Icmp, 16, |body| body[0] = 8),
        extended,
        piece,
    ];
    let with_length =
        |frame: &Vec<u8>| [&(frame.len() as u16 | 0xA000).to_be_bytes()[..], frame.as_slice()].concat();
    let mut seeds: Vec<_> = all.iter().map(with_length).collect();
    seeds.push(seeds.concat());
    seeds
}

/// A guest that does what it likes with TCP, at the port of a server that echoes. Five bytes say what a segment is.
fn tcp(input: &[u8]) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let to = SocketAddr::new(Config::default().ipv4.gateway.into(), server.local_addr().unwrap().port());
    let limits = Limits { connections: 3, flows: 4, buffered: 40 << 10 };
    let config = Config { restricted: true, host_access: true, limits, ..Config::default() };
    let mut net = UserNet::new(config.clone()).unwrap();
    let payload = [7; 4000];
    let (mut next, mut known) = ([0_u32; 4], [0_u32; 4]);
    let mut streams = Vec::new();
    for step in input.chunks_exact(5) {
        let which = usize::from(step[0] & 3);
        let from = SocketAddr::new(Config::default().ipv4.guest.into(), 5000 + which as u16);
        let control = match step[0] >> 2 & 7 {
            0 | 1 => TcpControl::Syn,
            2 => TcpControl::Fin,
            3 => TcpControl::Rst,
            4 => TcpControl::Psh,
            _ => TcpControl::None,
        };
        let wrong = |byte: u8, range: i32| if byte & 0xC0 == 0 { i32::from(byte as i8) * range } else { 0 };
        let length = usize::from(step[3]) * 15;
        let segment = Tcp {
            from,
            to,
            seq: next[which].wrapping_add_signed(wrong(step[1], 97)),
            ack: (step[0] & 0x20 == 0 && control != TcpControl::Syn)
                .then(|| known[which].wrapping_add_signed(wrong(step[2], 331))),
            control,
            window: u16::from(step[4]) << 4,
            payload: if control == TcpControl::Syn { &[] } else { &payload[..length] },
        };
        net.send(Offload::default(), &segment.frame());
        next[which] = next[which].wrapping_add(length as u32);
        net.poll();
        let mut frame = Vec::new();
        for _ in 0..256 {
            if net.receive(&mut frame).is_none() {
                break;
            }
            let Some(segment) = packets::tcp(&frame) else { continue };
            let which = usize::from(segment.dst_port().wrapping_sub(5000)) & 3;
            known[which] = (segment.seq_number().0 as u32).wrapping_add(segment.segment_len() as u32);
            next[which] = segment.ack_number().0 as u32;
        }
        assert!(net.connections() <= 3);
        if step[2] & 0x1F == 0x1F {
            // The guest goes on with another router, or takes the same one's word for it twice.
            let saved = net.save();
            if step[3] & 1 == 0 {
                net = UserNet::new(config.clone()).unwrap();
            }
            net.restore(saved);
        }
        if let Ok((stream, _)) = server.accept() {
            stream.set_nonblocking(true).unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            use std::io::{Read, Write};
            let mut buffer = [0; 1024];
            if let Ok(length) = stream.read(&mut buffer) {
                let _ = stream.write(&buffer[..length]);
            }
        }
        if step[4] == 0xFF {
            streams.clear();
        }
    }
    take(&mut net);
}

fn dhcp_message(input: &[u8]) {
    if let Some((answer, _)) = dhcp::answer(&Config::default(), input) {
        assert!(answer.len() <= 548, "an answer of {} bytes", answer.len());
    }
}

fn dhcp_seeds() -> Vec<Vec<u8>> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    let with = |options: &[u8]| [&message[..], options].concat();
    vec![
        with(&[53, 1, 1, 55, 3, 1, 3, 6, 255]),
        with(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 255]),
        with(&[53, 1, 8, 12, 3, b'b', b'o', b'x', 0, 0, 255]),
    ]
}

fn dns_message(input: &[u8]) {
    if let Some(answer) = dns::failure(input) {
        assert!(answer.len() <= input.len());
        assert_eq!(dns::failure(&answer), None);
    }
}

#[test]
fn a_restricted_guest_sends_nothing() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut net = UserNet::new(Config { restricted: true, ..Config::default() }).unwrap();
    let to = SocketAddr::new(Config::default().ipv4.gateway.into(), socket.local_addr().unwrap().port());
    net.send(Offload::default(), &packets::udp("10.0.2.15:1".parse().unwrap(), to, b"x"));
    assert!(socket.recv(&mut [0]).is_err());
}
