//! The network in the process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use viv_devices::virtio::{Net, NetBackend, Offloads, Sent, VnetHeader};
use viv_devices::{Device, DeviceError, SavedState};
use viv_usernet::{Checksum, GuestOffloads, Offload, Segment, SegmentKind, UserNet};

use super::{Connected, Maker, Source, lock};
use crate::error::MachineError;

/// Makes interface `index`, with a router behind it.
pub(crate) fn connect(maker: Maker, index: usize, net: UserNet) -> Result<Connected, MachineError> {
    let fd = net.fd().try_clone_to_owned().map_err(MachineError::host("use the user-mode network"))?;
    let net = Arc::new(Mutex::new(net));
    let (network, mut sources) = maker.make(vec![Box::new(UserBackend(Arc::clone(&net)))]);
    let router = RouterDevice { name: format!("router{index}"), net: Arc::clone(&net) };
    sources.push(Box::new(UserSource { fd, net, device: network.device() }));
    Ok(Connected { network, sources, device: Some(Arc::new(Mutex::new(router))) })
}

/// The router, as the machine sees it that is reset and saved.
struct RouterDevice {
    name: String,
    net: Arc<Mutex<UserNet>>,
}

impl RouterDevice {
    const VERSION: u16 = 1;
}

impl Device for RouterDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn reset(&mut self) {
        lock(&self.net).reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(&self.name, Self::VERSION, &lock(&self.net).save())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        lock(&self.net).restore(state.decode(Self::VERSION)?);
        Ok(())
    }
}

/// The router, as the interface sees it.
struct UserBackend(Arc<Mutex<UserNet>>);

impl NetBackend for UserBackend {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) {
        lock(&self.0).set_guest_offloads(GuestOffloads {
            checksum: offloads.contains(Offloads::CHECKSUM),
            tso4: offloads.contains(Offloads::TSO4),
            tso6: offloads.contains(Offloads::TSO6),
        });
    }

    fn send(&mut self, header: &VnetHeader, frame: &[u8]) -> Sent {
        if lock(&self.0).send(offload(*header), frame) { Sent::Answered } else { Sent::Full }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<(VnetHeader, usize)> {
        let offload = lock(&self.0).receive(buffer)?;
        Some((header(offload), buffer.len()))
    }
}

/// The router, as the thread for network interfaces sees it.
struct UserSource {
    fd: OwnedFd,
    net: Arc<Mutex<UserNet>>,
    device: Arc<Mutex<Net>>,
}

impl Source for UserSource {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn ready(&mut self) {
        lock(&self.net).poll();
        lock(&self.device).process_pair(0);
    }
}

fn offload(header: VnetHeader) -> Offload {
    let VnetHeader { flags, gso_type, gso_size, csum_start, csum_offset, .. } = header;
    let checksum = if flags & VnetHeader::NEEDS_CSUM != 0 {
        Checksum::Partial { start: csum_start, offset: csum_offset }
    } else {
        Checksum::None
    };
    let kind = match gso_type {
        VnetHeader::GSO_TCPV4 => Some(SegmentKind::Tcp4),
        VnetHeader::GSO_TCPV6 => Some(SegmentKind::Tcp6),
        _ => None,
    };
    Offload { checksum, segment: kind.map(|kind| Segment { kind, size: gso_size }) }
}

fn header(offload: Offload) -> VnetHeader {
    let mut header = VnetHeader::default();
    match offload.checksum {
        Checksum::None => {}
        Checksum::Valid => header.flags = VnetHeader::DATA_VALID,
        Checksum::Partial { start, offset } => {
            header.flags = VnetHeader::NEEDS_CSUM;
            (header.csum_start, header.csum_offset) = (start, offset);
        }
    }
    if let Some(Segment { kind, size }) = offload.segment {
        header.gso_size = size;
        header.gso_type = match kind {
            SegmentKind::Tcp4 => VnetHeader::GSO_TCPV4,
            SegmentKind::Tcp6 => VnetHeader::GSO_TCPV6,
            SegmentKind::Udp => VnetHeader::GSO_UDP_L4,
        };
    }
    header
}
