//! Lists of what is mapped, so that a change of address space costs what it changes.

/// What a [`Lists`] knows of a thing: whether its mapping is global, and the lists that it is on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks(u8);

const GLOBAL: u8 = 1;
const ON_LISTS: [u8; 2] = [2, 4];

/// What a thing was taken off.
#[derive(Debug, Clone, Copy)]
pub struct Off {
    on_list: u8,
    all: bool,
}

impl Marks {
    /// Notes it; says whether the thing is not mapped any more.
    pub fn take(&mut self, off: Off) -> bool {
        self.0 &= !off.on_list;
        off.all || self.0 & GLOBAL == 0
    }
}

/// The things whose mappings are not global, and those whose are. One whose mapping has become the other kind may be on
/// both; its marks decide.
#[derive(Debug)]
pub struct Lists<T>([Vec<T>; 2]);

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self([Vec::new(), Vec::new()])
    }
}

impl<T: Copy> Lists<T> {
    /// Notes that a thing is mapped.
    pub fn add(&mut self, thing: T, global: bool, marks: &mut Marks) {
        marks.0 = marks.0 & !GLOBAL | u8::from(global);
        let on_list = ON_LISTS[usize::from(global)];
        if marks.0 & on_list == 0 {
            marks.0 |= on_list;
            self.0[usize::from(global)].push(thing);
        }
    }

    /// Takes off what is not global, or all; `visit` has to tell the marks of each.
    pub fn clear(&mut self, all: bool, mut visit: impl FnMut(T, Off)) {
        for (list, on_list) in self.0.iter_mut().zip(ON_LISTS).take(1 + usize::from(all)) {
            for thing in list.drain(..) {
                visit(thing, Off { on_list, all });
            }
        }
    }

    /// Takes off things that are gone.
    pub fn retain(&mut self, stays: impl Fn(T) -> bool) {
        for list in &mut self.0 {
            list.retain(|&thing| stays(thing));
        }
    }

    /// All things, some of them twice.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        self.0.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Things {
        lists: Lists<usize>,
        marks: [Marks; 3],
    }

    impl Things {
        fn add(&mut self, thing: usize, global: bool) {
            self.lists.add(thing, global, &mut self.marks[thing]);
        }

        fn clear(&mut self, all: bool) -> Vec<usize> {
            let mut gone = Vec::new();
            self.lists.clear(all, |thing, off| {
                if self.marks[thing].take(off) {
                    gone.push(thing);
                }
            });
            gone
        }
    }

    #[test]
    fn global_things_stay() {
        let mut things = Things::default();
        things.add(0, false);
        things.add(1, true);
        assert_eq!(things.clear(false), [0]);
        assert!(things.clear(false).is_empty());
        assert_eq!(things.clear(true), [1]);
        assert!(things.clear(true).is_empty());
    }

    #[test]
    fn what_it_was_mapped_as_last_decides() {
        let mut things = Things::default();
        things.add(0, false);
        things.add(0, true);
        things.add(1, true);
        things.add(1, false);
        assert_eq!(things.clear(false), [1]);
        assert_eq!(things.clear(true), [0, 1]);
    }

    #[test]
    fn lists_do_not_grow_with_changes() {
        let mut things = Things::default();
        for _ in 0..100 {
            things.add(0, true);
            things.add(0, false);
            things.add(0, true);
            things.clear(false);
        }
        things.add(0, false);
        assert_eq!(things.lists.iter().count(), 2);
        things.lists.retain(|thing| thing != 0);
        assert_eq!(things.lists.iter().count(), 0);
    }
}
