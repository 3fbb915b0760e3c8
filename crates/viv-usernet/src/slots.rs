//! A table whose entries are named by numbers that are not used again soon.

/// The name of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    index: u32,
    /// How often the place was used before, 24 bits of it.
    generation: u32,
}

const GENERATION: u32 = 0x00FF_FFFF;

impl Id {
    /// As a number of 56 bits.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From [`Id::bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION }
    }
}

/// A table of at most so many entries.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slots<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), limit }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len().saturating_sub(self.free.len())
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Adds what `make` gives for the new name, unless the table is full or it gives nothing.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Id) -> Option<T>) -> Option<Id> {
        if self.is_full() {
            return None;
        }
        let index = match self.free.last() {
            Some(&index) => index,
            None => u32::try_from(self.entries.len()).ok()?,
        };
        let generation = self.entries.get(index as usize).map_or(0, |entry| entry.0);
        let id = Id { index, generation };
        let value = make(id)?;
        match self.entries.get_mut(index as usize) {
            Some(entry) => {
                self.free.pop();
                entry.1 = Some(value);
            }
            None => self.entries.push((generation, Some(value))),
        }
        Some(id)
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.entries.get_mut(id.index as usize) {
            Some((generation, value)) if *generation == id.generation => value.as_mut(),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        let entry = self.entries.get_mut(id.index as usize).filter(|entry| entry.0 == id.generation)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1) & GENERATION;
        self.free.push(id.index);
        Some(value)
    }

    /// All entries with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, (generation, value))| {
            let id = Id { index: u32::try_from(index).ok()?, generation: *generation };
            Some((id, value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_good_for_one_entry() {
        let mut slots = Slots::new(2);
        let first = slots.insert_with(|_| Some('a')).unwrap();
        let second = slots.insert_with(|id| (id != first).then_some('b')).unwrap();
        assert!(slots.is_full());
        assert_eq!(slots.insert_with(|_| Some('c')), None);
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.insert_with(|_| None), None, "nothing was made");
        let third = slots.insert_with(|_| Some('d')).unwrap();
        assert_ne!(first, third);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(Id::from_bits(third.bits())), Some(&mut 'd'));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(third, &'d'), (second, &'b')]);
    }
}
