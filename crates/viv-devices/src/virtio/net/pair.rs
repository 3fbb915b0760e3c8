//! A pair of queues: frames from the guest and to it.

use serde::{Deserialize, Serialize};

use super::filter::{Filter, MacAddress};
use super::{NetBackend, Offloads, Sent, VnetHeader};
use crate::virtio::chain::Chain;
use crate::virtio::gather::{Filled, Gather};
use crate::virtio::queue::{Outcome, RingError};

/// The longest frame: an IP packet of 65,535 bytes behind Ethernet's header with two tags for VLANs.
pub(super) const MAX_FRAME: usize = 65_535 + 22;
/// The shortest frame: Ethernet's header.
const MIN_FRAME: usize = 14;

/// A pair of queues with its back end.
pub(super) struct Pair {
    pub(super) backend: Box<dyn NetBackend>,
    /// A frame on its way.
    buffer: Vec<u8>,
    /// One for which the guest had no room.
    waiting: Option<Waiting>,
}

/// A frame for which the guest has too few buffers. One is all that a pair holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    header: VnetHeader,
    frame: Vec<u8>,
}

impl Waiting {
    pub(super) fn length(&self) -> usize {
        self.frame.len()
    }
}

/// What a frame for the guest has to be like.
pub(super) struct Rules<'a> {
    pub(super) filter: &'a Filter,
    pub(super) mac: &'a MacAddress,
    pub(super) offloads: Offloads,
    /// Whether it may take several buffers.
    pub(super) mergeable: bool,
}

impl Rules<'_> {
    fn accept(&self, header: VnetHeader, frame: &[u8]) -> bool {
        frame.len() >= MIN_FRAME
            && header.needs().is_some_and(|needs| self.offloads.contains(needs))
            && frame.first_chunk().is_some_and(|to| self.filter.accepts(to, self.mac))
    }
}

impl Pair {
    pub(super) fn new(backend: Box<dyn NetBackend>) -> Self {
        Self { backend, buffer: vec![0; MAX_FRAME], waiting: None }
    }

    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    pub(super) fn set_waiting(&mut self, waiting: Option<Waiting>) {
        self.waiting = waiting;
    }

    /// Gives one frame of the guest's to the back end. What is no frame, or asks for what was not negotiated
    /// (`offloads`), is dropped.
    pub(super) fn send(&mut self, chain: &mut Chain, offloads: Offloads) -> Result<Outcome, RingError> {
        let mut header = [0; VnetHeader::LENGTH];
        let is_whole = chain.readable.read(&mut header)? == header.len();
        let header = VnetHeader::from_bytes(header);
        let is_allowed = header.needs().is_some_and(|needs| offloads.contains(needs));
        let length = usize::try_from(chain.readable.remaining()).unwrap_or(usize::MAX);
        let Some(frame) = self.buffer.get_mut(..length).filter(|frame| frame.len() >= MIN_FRAME) else {
            return Ok(Outcome::Done(0));
        };
        if !is_whole || !is_allowed {
            return Ok(Outcome::Done(0));
        }
        chain.readable.read(frame)?;
        match self.backend.send(&header, frame) {
            Sent::Done => Ok(Outcome::Done(0)),
            Sent::Full => Ok(Outcome::Later),
        }
    }

    /// Writes one frame for the guest into its buffers, the one that waits or the back end's next.
    pub(super) fn receive(
        &mut self,
        gather: &mut Gather<'_>,
        rules: &Rules<'_>,
    ) -> Result<Filled, RingError> {
        let waiting = self.waiting.take();
        let (header, frame) = match &waiting {
            Some(Waiting { header, frame }) => (*header, frame.as_slice()),
            None => match self.backend.receive(&mut self.buffer) {
                // A back end that gives more than fits gives nothing.
                Some((header, length)) => (header, self.buffer.get(..length).unwrap_or_default()),
                None => return Ok(Filled::Later),
            },
        };
        if !rules.accept(header, frame) {
            return Ok(Filled::Dropped);
        }
        let filled = write(gather, header, frame, rules.mergeable)?;
        if filled == Filled::NoRoom {
            self.waiting = Some(Waiting { header, frame: frame.to_vec() });
        }
        Ok(filled)
    }
}

fn write(
    gather: &mut Gather<'_>,
    header: VnetHeader,
    frame: &[u8],
    mergeable: bool,
) -> Result<Filled, RingError> {
    let mut front = gather.reserve(VnetHeader::LENGTH as u64);
    if front.remaining() < VnetHeader::LENGTH as u64 {
        return Ok(Filled::Dropped);
    }
    let mut rest = frame;
    loop {
        let written = gather.write(rest)?;
        rest = rest.get(written..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        if !mergeable || gather.is_whole_ring() {
            return Ok(Filled::Dropped);
        }
        if !gather.more()? {
            return Ok(Filled::NoRoom);
        }
    }
    front.write(&header.to_bytes(u16::try_from(gather.count()).unwrap_or(u16::MAX)))?;
    Ok(Filled::Done)
}
