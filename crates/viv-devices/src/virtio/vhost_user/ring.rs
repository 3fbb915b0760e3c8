//! A queue between the driver's rings and those that a back end sees.
//!
//! The driver's table of descriptors is the back end's as well; the two rings are not. What the driver makes available is
//! read as from any queue, checked, and put into a ring of the machine's own; what the back end has used comes back by
//! another. So everything that a back end may have written is known before the driver learns of it, which the engine's
//! decoded code and snapshots need, and no back end decides what becomes of the driver's ring.

use std::num::Wrapping;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use viv_engine::GuestMemory;
use viv_vhost::{Lost, RingPlace};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::is_told;
use super::refusal::Refusal;
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::device::{QueueResources, QueueState};
use crate::virtio::queue::{Outcome, RingError, Virtqueue};

/// The greatest size of a queue.
pub(super) const SIZE: u16 = 256;
/// That of a file system's: its driver asks for no more pages at once than the queue has descriptors.
pub(super) const FILE_SYSTEM_SIZE: u16 = 1024;
/// Bytes of memory that the rings of one queue take, each half of it.
pub(super) const ROOM: u64 = 0x8000;

/// Offsets in the rings (VIRTIO 1.3, 2.7.6 and 2.7.8).
mod offset {
    pub(super) const FLAGS: u64 = 0;
    pub(super) const INDEX: u64 = 2;
    pub(super) const ELEMENTS: u64 = 4;
    /// Bytes of an element of the available ring.
    pub(super) const AVAILABLE: u64 = 2;
    /// Bytes of an element of the used ring.
    pub(super) const USED: u64 = 8;
}

const _: () =
    assert!(offset::ELEMENTS + FILE_SYSTEM_SIZE as u64 * offset::USED <= ROOM / 2, "it has its half");

/// A flag of the used ring: the back end does not want to be told of what is available.
const NO_NOTIFY: u16 = 1;

/// A queue.
pub(super) struct Ring {
    queue: Virtqueue,
    place: RingPlace,
    /// The memory that the back end's rings are in.
    room: Arc<GuestMemory>,
    /// Whether the back end serves it.
    runs: bool,
    /// The next position in the back end's available ring.
    available: Wrapping<u16>,
    /// The next position in the back end's used ring.
    used: Wrapping<u16>,
    /// The first descriptors of what is in the back end's available ring, by position.
    heads: Vec<u16>,
    /// What the back end has, by the first descriptor.
    under_way: Vec<Option<UnderWay>>,
    count: u16,
    /// Where guest memory is that the back end does not know.
    hidden: Vec<Range<u64>>,
    /// Whether a request that is to be refused waits for the end of those before it: what the back end does not begin is put
    /// back, which must be what was taken last.
    waits: bool,
    /// How requests are refused.
    refusal: Refusal,
    /// Whether the back end is lost, so that all of them are.
    is_lost: bool,
}

/// A request that the back end has.
struct UnderWay {
    /// What it is.
    asked: Buffers,
    /// Where the back end may write.
    answer: Buffers,
}

impl Ring {
    /// A queue that the back end does not serve yet, whose rings are to be at `start` in `room`. `refusal` is how requests are
    /// refused.
    pub(super) fn new(
        resources: QueueResources,
        features: u64,
        state: QueueState,
        (room, start): (Arc<GuestMemory>, u64),
        refusal: Refusal,
    ) -> Result<Self, RingError> {
        let size = resources.size;
        let untold = resources.memory.iter().filter(|region| !is_told(region));
        let hidden =
            untold.map(|region| region.start_addr().0..region.start_addr().0.saturating_add(region.len()));
        let hidden: Vec<_> = hidden.collect();
        // The table of descriptors is the back end's as well.
        let table_end = u64::from(size).saturating_mul(16).saturating_add(resources.descriptors);
        if hides(&hidden, &(resources.descriptors..table_end)) {
            return Err(RingError::NotInRam { index: resources.index });
        }
        let place = RingPlace {
            size,
            descriptors: resources.descriptors,
            available: start,
            used: start.saturating_add(ROOM / 2),
        };
        Ok(Self {
            queue: Virtqueue::new(resources, features, state)?,
            place,
            room,
            runs: false,
            available: Wrapping(0),
            used: Wrapping(0),
            heads: vec![0; size.into()],
            under_way: std::iter::repeat_with(|| None).take(size.into()).collect(),
            count: 0,
            hidden,
            waits: false,
            refusal,
            is_lost: false,
        })
    }

    /// How far it got on the driver's side.
    pub(super) fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Asks for a turn.
    pub(super) fn ring(&self) {
        self.queue.ring();
    }

    /// Whether the back end serves it.
    pub(super) fn runs(&self) -> bool {
        self.runs
    }

    /// Whether the back end has something of it.
    pub(super) fn is_busy(&self) -> bool {
        self.runs && self.count > 0
    }

    /// Empties the back end's rings, and says where they are. It may serve them from now on.
    pub(super) fn start(&mut self) -> RingPlace {
        // The room is there: it was made for it.
        let _ = self.room.write_slice(&[0; ROOM as usize], GuestAddress(self.place.available));
        (self.available, self.used, self.count) = (Wrapping(0), Wrapping(0), 0);
        self.under_way.fill_with(|| None);
        self.runs = true;
        self.place
    }

    /// Hands on what the driver has made available. Returns whether the back end wants to be told.
    pub(super) fn forward(&mut self) -> bool {
        let refusal = self.refusal;
        let refuse =
            |chain: &mut Chain| refusal.answer(&mut chain.readable, &mut chain.writable).map(Outcome::Done);
        if self.is_lost {
            self.queue.serve(refuse);
        }
        if !self.runs {
            return false;
        }
        let before = self.available;
        self.waits = false;
        let Self { queue, place, room, available, heads, under_way, count, hidden, waits, .. } = self;
        queue.serve(|chain| {
            if chain.readable.ranges().chain(chain.writable.ranges()).any(|part| hides(hidden, &part)) {
                *waits = *count > 0;
                return if *waits { Ok(Outcome::Later) } else { refuse(chain) };
            }
            let head = chain.head;
            begin(under_way, chain)?;
            let slot = available.0.checked_rem(place.size).unwrap_or(0);
            if let Some(known) = heads.get_mut(usize::from(slot)) {
                *known = head;
            }
            let element = u64::from(slot).saturating_mul(offset::AVAILABLE).saturating_add(offset::ELEMENTS);
            store(room, place.available.saturating_add(element), head)?;
            *available += 1;
            *count = count.saturating_add(1);
            Ok(Outcome::Started)
        });
        if self.available == before {
            return false;
        }
        let index = self.place.available.saturating_add(offset::INDEX);
        if store(&self.room, index, self.available.0).is_err() {
            return false;
        }
        // What the back end wants is read after it can see what is available.
        fence(Ordering::SeqCst);
        self.load(self.place.used.saturating_add(offset::FLAGS)) & NO_NOTIFY == 0
    }

    /// Takes back what the back end has used, and tells the driver.
    pub(super) fn collect(&mut self) -> Result<(), Lost> {
        if !self.runs {
            return Ok(());
        }
        let end = Wrapping(self.load(self.place.used.saturating_add(offset::INDEX)));
        if (end - self.used).0 > self.count {
            return Err(Lost::Ring("it used more than there was"));
        }
        let mut ended = Vec::new();
        let taken = self.take_used(end, &mut ended);
        // Also those before one that is wrong.
        if !ended.is_empty() {
            self.queue.complete(ended);
        }
        if self.waits && self.count == 0 {
            self.queue.ring();
        }
        taken
    }

    /// Takes back what the back end has used up to position `end`: the first descriptors, and how many bytes were written.
    fn take_used(&mut self, end: Wrapping<u16>, ended: &mut Vec<(u16, u32)>) -> Result<(), Lost> {
        while self.used != end {
            let slot = u64::from(self.used.0.checked_rem(self.place.size).unwrap_or(0));
            let element = slot.saturating_mul(offset::USED).saturating_add(offset::ELEMENTS);
            let [head, written] = self.element(self.place.used.saturating_add(element));
            let taken = usize::try_from(head).ok().and_then(|head| self.under_way.get_mut(head)?.take());
            let Some(UnderWay { answer, .. }) = taken else {
                return Err(Lost::Ring("it used what it did not have"));
            };
            note_written(&answer);
            self.used += 1;
            self.count = self.count.saturating_sub(1);
            let most = u32::try_from(answer.remaining()).unwrap_or(u32::MAX);
            ended.push((head as u16, written.min(most)));
        }
        Ok(())
    }

    /// The back end has stopped at position `base` of its available ring. Takes back what it used until then, and what it has
    /// not begun. What it began and did not use would be lost, and so is the back end then.
    pub(super) fn stop(&mut self, base: u16) -> Result<(), Lost> {
        self.collect()?;
        self.runs = false;
        let left = (self.available - Wrapping(base)).0;
        if left != self.count {
            return Err(Lost::Ring("it stopped before the end of what it had begun, or where it never was"));
        }
        let Self { available, place, heads, under_way, .. } = self;
        let places = (1..=left).map(|back| {
            let slot = (*available - Wrapping(back)).0.checked_rem(place.size).unwrap_or(0);
            usize::from(heads.get(usize::from(slot)).copied().unwrap_or_default())
        });
        // As many as are under way: so if each is there they are all, and otherwise none is forgotten.
        if places.clone().any(|head| under_way.get(head).is_none_or(Option::is_none)) {
            return Err(Lost::Ring("it used what it had not begun"));
        }
        under_way.fill_with(|| None);
        self.queue.take_again(left.into());
        Ok(())
    }

    /// The back end is lost: what it had is refused, and all that comes.
    pub(super) fn give_up(&mut self) {
        self.runs = false;
        self.is_lost = true;
        let refusal = self.refusal;
        if refusal == Refusal::None {
            self.queue.interrupt().needs_reset();
            return;
        }
        let mut ended = Vec::new();
        for (head, slot) in (0..).zip(&mut self.under_way) {
            if let Some(UnderWay { asked, answer }) = slot {
                note_written(answer);
                // Buffers in memory that is there can be written.
                ended.push((head, refusal.answer(asked, answer).unwrap_or(0)));
            }
            *slot = None;
        }
        self.count = 0;
        self.queue.complete(ended);
        self.queue.ring();
    }

    fn load(&self, address: u64) -> u16 {
        // What is there is the back end's to choose, and the room is there.
        self.room.load(GuestAddress(address), Ordering::Acquire).map(u16::from_le).unwrap_or_default()
    }

    /// An element of the used ring: the first descriptor, and how many bytes were written.
    fn element(&self, address: u64) -> [u32; 2] {
        let word = |offset: u64| {
            self.room
                .load(GuestAddress(address.saturating_add(offset)), Ordering::Relaxed)
                .map(u32::from_le)
                .unwrap_or_default()
        };
        [word(0), word(4)]
    }
}

/// Whether something lies in one of these ranges, if only in part.
fn hides(hidden: &[Range<u64>], part: &Range<u64>) -> bool {
    hidden.iter().any(|h| part.start < h.end && h.start < part.end)
}

/// Notes that the back end gets a request.
fn begin(under_way: &mut [Option<UnderWay>], chain: &mut Chain) -> Result<(), RingError> {
    let bad = |reason| RingError::Chain { head: chain.head, reason };
    let slot = under_way.get_mut(usize::from(chain.head)).ok_or(bad("is not in the table"))?;
    match slot {
        Some(_) => Err(bad("is made available while it is under way")),
        None => {
            *slot = Some(UnderWay { asked: chain.readable.take(), answer: chain.writable.take() });
            Ok(())
        }
    }
}

fn store(room: &GuestMemory, address: u64, value: u16) -> Result<(), RingError> {
    let stored = room.store(value.to_le(), GuestAddress(address), Ordering::Release);
    stored.map_err(|source| RingError::Memory { address, source })
}

/// Takes note that somebody wrote to all of `buffers` past `vm-memory`.
fn note_written(buffers: &Buffers) {
    let memory = buffers.memory();
    for range in buffers.ranges() {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        for piece in memory.get_slices(GuestAddress(range.start), length).flatten() {
            piece.bitmap().mark_dirty(0, piece.len());
        }
    }
}
