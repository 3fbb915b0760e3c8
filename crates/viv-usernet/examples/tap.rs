//! Joins a user-mode network to a TAP device, so that a kernel can be its guest.
//!
//! The device is standard input, opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR. Arguments: `--host-access`,
//! `--mtu BYTES`, `--tso` (the device has checksum and segmentation offloads), `--tcp PORT` or `--udp PORT` (published
//! under the same number).

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use viv_usernet::{
    Checksum, Config, GuestOffloads, Offload, Protocol, Publish, Segment, SegmentKind, UserNet,
};

/// The length of `struct virtio_net_hdr` without a count of buffers, in bytes.
const HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config { hostname: Some("guest".into()), ..Config::default() };
    let mut offloads = GuestOffloads::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u16>().ok()).ok_or("no number");
        let publish = |port, protocol| Publish { host: None, host_port: port, guest_port: port, protocol };
        match argument.as_str() {
            "--host-access" => config.host_access = true,
            "--mtu" => config.mtu = number()?,
            "--tso" => offloads = GuestOffloads { checksum: true, tso4: true, tso6: true },
            "--tcp" => config.publish.push(publish(number()?, Protocol::Tcp)),
            "--udp" => config.publish.push(publish(number()?, Protocol::Udp)),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let mut net = UserNet::new(config)?;
    net.set_guest_offloads(offloads);
    let tap = io::stdin();
    let (mut buffer, mut frame) = (vec![0; HEADER + 65_550], Vec::new());
    loop {
        let both = PollFlags::IN;
        let ready = {
            let mut fds = [PollFd::new(&tap, both), PollFd::from_borrowed_fd(net.fd(), both)];
            poll(&mut fds, None)?;
            fds.map(|fd| !fd.revents().is_empty())
        };
        if ready[1] {
            net.poll();
        }
        if ready[0] {
            for _ in 0..64 {
                match rustix::io::read(tap.as_fd(), &mut buffer) {
                    Ok(length) if length > HEADER => {
                        let _ = net.send(offload(&buffer[..HEADER]), &buffer[HEADER..length]);
                    }
                    Ok(_) => return Ok(()),
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        while let Some(offload) = net.receive(&mut frame) {
            let mut bytes = header(offload).to_vec();
            bytes.extend(&frame);
            // A full device loses frames, as any link may.
            let _ = rustix::io::write(tap.as_fd(), &bytes);
        }
    }
}

fn offload(header: &[u8]) -> Offload {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let checksum = match header[0] {
        flags if flags & NEEDS_CSUM != 0 => Checksum::Partial { start: word(6), offset: word(8) },
        flags if flags & DATA_VALID != 0 => Checksum::Valid,
        _ => Checksum::None,
    };
    let kind = match header[1] & 0x7F {
        GSO_TCPV4 => Some(SegmentKind::Tcp4),
        GSO_TCPV6 => Some(SegmentKind::Tcp6),
        _ => None,
    };
    Offload { checksum, segment: kind.map(|kind| Segment { kind, size: word(4) }) }
}

fn header(offload: Offload) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    match offload.checksum {
        Checksum::None => {}
        Checksum::Valid => header[0] = DATA_VALID,
        Checksum::Partial { start, offset } => {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
    }
    if let Some(segment) = offload.segment {
        header[1] = match segment.kind {
            SegmentKind::Tcp4 => GSO_TCPV4,
            SegmentKind::Tcp6 => GSO_TCPV6,
            SegmentKind::Udp => 5,
        };
        // Ethernet, IP and TCP.
        let ip = if segment.kind == SegmentKind::Tcp6 { 40_u16 } else { 20 };
        header[2..4].copy_from_slice(&(14 + ip + 20).to_le_bytes());
        header[4..6].copy_from_slice(&segment.size.to_le_bytes());
    }
    header
}
