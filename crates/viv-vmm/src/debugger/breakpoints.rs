//! What the debugger wants to stop at, and which of a vCPU's breakpoints each takes.

use gdbstub::target::ext::breakpoints::WatchKind;
use viv_engine::debug::{BREAKPOINTS, Breakpoint, Condition, DebugControl, Length};

/// Why a place is one to stop at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A breakpoint that elsewhere would be written into memory.
    Software,
    /// One that is not.
    Hardware,
    /// Bytes that are watched. Reads alone cannot be: a stop may be for a write, too.
    Watch(WatchKind),
}

/// A place to stop at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: u64,
    /// Bytes that are watched; of no meaning otherwise.
    pub(super) length: u64,
    pub(super) kind: Kind,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Breakpoints(Vec<Place>);

impl Breakpoints {
    /// Adds one, if there are breakpoints enough for it.
    pub(super) fn add(&mut self, place: Place) -> bool {
        self.0.push(place);
        let fits = self.slots().is_some();
        if !fits {
            self.0.pop();
        }
        fits
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&mut self, place: Place) -> bool {
        let at = self.0.iter().position(|&known| known == place);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// Whether it is there.
    pub(super) fn contains(&self, place: Place) -> bool {
        self.0.contains(&place)
    }

    /// What a vCPU is to be told.
    pub(super) fn control(&self, single_step: bool) -> DebugControl {
        let breakpoints = self.slots().unwrap_or_default().map(|slot| slot.map(|(breakpoint, _)| breakpoint));
        DebugControl { single_step, breakpoints }
    }

    /// What breakpoint `n` of a vCPU is for.
    pub(super) fn place(&self, n: usize) -> Option<Place> {
        self.slots()?.get(n).copied().flatten().map(|(_, place)| place)
    }

    /// Which breakpoints they take, each with what it is for; `None` if there are too few.
    fn slots(&self) -> Option<[Option<(Breakpoint, Place)>; BREAKPOINTS]> {
        let mut slots = [None; BREAKPOINTS];
        let mut free = slots.iter_mut();
        let mut taken: Vec<Breakpoint> = Vec::new();
        for place in &self.0 {
            for breakpoint in pieces(place).take(BREAKPOINTS + 1) {
                // An address can have several breakpoints for instructions, which are one here.
                if breakpoint.condition == Condition::Execute && taken.contains(&breakpoint) {
                    continue;
                }
                *free.next()? = Some((breakpoint, *place));
                taken.push(breakpoint);
            }
        }
        Some(slots)
    }
}

/// A place as breakpoints, whose lengths are powers of two at a multiple of each.
fn pieces(place: &Place) -> impl Iterator<Item = Breakpoint> {
    let Place { address, length, kind } = *place;
    let mut at = address;
    let mut left = if matches!(kind, Kind::Watch(_)) { length } else { 1 };
    std::iter::from_fn(move || {
        let fits = |length: &Length| at.is_multiple_of(length.bytes()) && length.bytes() <= left;
        let length = [Length::Eight, Length::Four, Length::Two, Length::One].into_iter().find(fits)?;
        let condition = match kind {
            Kind::Software | Kind::Hardware => Condition::Execute,
            Kind::Watch(WatchKind::Write) => Condition::Write(length),
            Kind::Watch(WatchKind::Read | WatchKind::ReadWrite) => Condition::Access(length),
        };
        let breakpoint = Breakpoint { address: at, condition };
        at = at.wrapping_add(length.bytes());
        left -= length.bytes();
        Some(breakpoint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: u64, length: u64, kind: Kind) -> Place {
        Place { address, length, kind }
    }

    #[test]
    fn what_is_watched_is_cut_at_multiples() {
        let watched = |address, length| {
            let place = place(address, length, Kind::Watch(WatchKind::Write));
            pieces(&place).map(|piece| (piece.address, piece.condition)).collect::<Vec<_>>()
        };
        assert_eq!(watched(0x1008, 8), [(0x1008, Condition::Write(Length::Eight))]);
        assert_eq!(
            watched(0x1003, 7),
            [
                (0x1003, Condition::Write(Length::One)),
                (0x1004, Condition::Write(Length::Four)),
                (0x1008, Condition::Write(Length::Two)),
            ]
        );
        assert_eq!(watched(0x1000, 0), []);
        assert_eq!(
            watched(u64::MAX, 2),
            [(u64::MAX, Condition::Write(Length::One)), (0, Condition::Write(Length::One))]
        );
    }

    #[test]
    fn there_are_no_more_than_the_processor_has() {
        let mut all = Breakpoints::default();
        assert!(all.add(place(0x1000, 1, Kind::Software)));
        assert!(all.add(place(0x1000, 1, Kind::Hardware)), "they are one");
        assert!(!all.add(place(0, u64::MAX, Kind::Watch(WatchKind::Read))));
        assert!(all.add(place(0x2001, 7, Kind::Watch(WatchKind::ReadWrite))));
        assert!(!all.add(place(0x3000, 1, Kind::Software)));
        assert_eq!(all.place(3), Some(place(0x2001, 7, Kind::Watch(WatchKind::ReadWrite))));
        assert!(all.remove(place(0x1000, 1, Kind::Software)));
        assert!(!all.remove(place(0x1000, 1, Kind::Software)));
        assert!(all.control(false).breakpoints.iter().all(Option::is_some), "the other is still there");
        assert!(all.remove(place(0x1000, 1, Kind::Hardware)));
        assert!(all.add(place(0x3000, 1, Kind::Software)));
    }
}
