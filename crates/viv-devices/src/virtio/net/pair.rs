//! A pair of queues: frames from the guest and to it.

use serde::{Deserialize, Serialize};

use super::filter::{Filter, MacAddress};
use super::{MAX_FRAME, NetBackend, Offloads, Sent, VnetHeader};
use crate::virtio::chain::Chain;
use crate::virtio::gather::{Filled, Gather};
use crate::virtio::queue::{Outcome, RingError};
use crate::virtio::throttle::Throttle;

/// The shortest frame: Ethernet's header.
const MIN_FRAME: usize = 14;

/// A pair of queues with its back end.
pub(super) struct Pair {
    pub(super) backend: Box<dyn NetBackend>,
    /// A frame on its way from the guest.
    outgoing: Vec<u8>,
    /// One on its way to it.
    incoming: Vec<u8>,
    /// One for which the guest had no room.
    waiting: Option<Waiting>,
    /// The back end had no room for a frame.
    stalled: bool,
    /// What a turn calls for in the other direction.
    calls_for: CallsFor,
}

/// What is to be done after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CallsFor {
    /// There may be frames for the guest.
    pub(super) receiving: bool,
    /// There may be room for the guest's.
    pub(super) sending: bool,
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
        Self {
            backend,
            outgoing: vec![0; MAX_FRAME],
            incoming: Vec::new(),
            waiting: None,
            stalled: false,
            calls_for: CallsFor::default(),
        }
    }

    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    pub(super) fn set_waiting(&mut self, waiting: Option<Waiting>) {
        self.waiting = waiting;
    }

    /// Forgets what is under way.
    pub(super) fn reset(&mut self) {
        self.waiting = None;
        self.stalled = false;
        self.calls_for = CallsFor::default();
    }

    /// What the last turns call for.
    pub(super) fn take_calls(&mut self) -> CallsFor {
        std::mem::take(&mut self.calls_for)
    }

    /// Gives one frame of the guest's to the back end. What is no frame, or asks for what was not negotiated
    /// (`offloads`), is dropped.
    pub(super) fn send(
        &mut self,
        chain: &mut Chain,
        offloads: Offloads,
        throttle: Option<&mut Throttle>,
    ) -> Result<Outcome, RingError> {
        if throttle.as_ref().is_some_and(|throttle| !throttle.is_open()) {
            return Ok(Outcome::Later);
        }
        let mut header = [0; VnetHeader::LENGTH];
        let is_whole = chain.readable.read(&mut header)? == header.len();
        // What a driver sends nobody has verified (5.1.6.2.1).
        let header = VnetHeader::from_bytes(header).unverified();
        let is_allowed = header.needs().is_some_and(|needs| offloads.contains(needs));
        let length = usize::try_from(chain.readable.remaining()).unwrap_or(usize::MAX);
        let Some(frame) = self.outgoing.get_mut(..length).filter(|frame| frame.len() >= MIN_FRAME) else {
            return Ok(Outcome::Done(0));
        };
        if !is_whole || !is_allowed {
            return Ok(Outcome::Done(0));
        }
        chain.readable.read(frame)?;
        let sent = self.backend.send(&header, frame);
        self.calls_for.receiving |= sent == Sent::Answered;
        self.stalled = sent == Sent::Full;
        if !self.stalled {
            charge(throttle, header, length);
        }
        Ok(if self.stalled { Outcome::Later } else { Outcome::Done(0) })
    }

    /// Writes one frame for the guest into its buffers, the one that waits or the back end's next.
    pub(super) fn receive(
        &mut self,
        gather: &mut Gather<'_>,
        rules: &Rules<'_>,
        throttle: Option<&mut Throttle>,
    ) -> Result<Filled, RingError> {
        if throttle.as_ref().is_some_and(|throttle| !throttle.is_open()) {
            return Ok(Filled::Later);
        }
        let waiting = self.waiting.take();
        let (header, frame) = match &waiting {
            Some(Waiting { header, frame }) => (*header, frame.as_slice()),
            None => match self.backend.receive(&mut self.incoming) {
                // A back end that gives more than fits gives nothing.
                Some((header, length)) => {
                    self.calls_for.sending |= self.stalled;
                    (header, self.incoming.get(..length).unwrap_or_default())
                }
                None => return Ok(Filled::Later),
            },
        };
        if !rules.accept(header, frame) {
            return Ok(Filled::Dropped);
        }
        // Without GUEST_CSUM the flags are 0 (5.1.6.4.1).
        let told = if rules.offloads.contains(Offloads::CHECKSUM) { header } else { header.unverified() };
        let filled = write(gather, told, frame, rules.mergeable)?;
        if filled == Filled::NoRoom {
            self.waiting = Some(Waiting { header, frame: frame.to_vec() });
        } else if filled == Filled::Done {
            charge(throttle, header, frame.len());
        }
        Ok(filled)
    }
}

/// Notes that a frame has passed.
pub(super) fn charge(throttle: Option<&mut Throttle>, header: VnetHeader, length: usize) {
    if let Some(throttle) = throttle {
        let segments = match (header.gso_type, header.gso_size) {
            (VnetHeader::GSO_NONE, _) | (_, 0) => 1,
            (_, size) => length.div_ceil(size.into()),
        };
        throttle.charge(segments as u64, length as u64);
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
