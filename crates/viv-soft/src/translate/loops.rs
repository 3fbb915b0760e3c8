//! Loops: a trace that branches back to its own head, and whose addresses move by constants.
//!
//! What such a loop reaches in its next rounds is known at the head. So all of it is checked there at once, several rounds run
//! without further checks, and events are looked for behind the last. If the check fails, one round runs as it would in
//! any trace, and the head is tried again.

use iced_x86::InstructionInfoFactory;

use super::asm::{Label, alu, condition};
use super::emit::{Cold, Emitter};
use super::extents::{Registers, access};
use super::regs::ADDRESS;
use super::trace::{Item, Kind};

/// The most rounds without a check.
const MAX_ROUNDS: usize = 8;
/// The most instructions of all of them.
const MAX_INSTRUCTIONS: usize = 128;
/// The most bytes that the same registers reach in them: less than a page, so that there are two pages at the most.
const MAX_SPAN: i32 = 512;

/// Rounds of a loop that run without checks behind its head.
pub struct Rounds {
    /// The instructions of a round.
    pub length: usize,
    count: usize,
    reaches: Vec<Reach>,
}

/// What the rounds reach by way of the same registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    registers: Registers,
    /// The lowest displacement from what they are at the head, and what is behind the highest byte.
    lowest: i32,
    end: i32,
    write: bool,
    /// By how much a round moves the registers.
    stride: i32,
}

impl Rounds {
    /// Those of a trace that begins `start` behind its page's first byte, if it is a loop of which everything is known.
    pub fn of(items: &[Item], start: usize, info: &mut InstructionInfoFactory) -> Option<Self> {
        let last = items.iter().take(MAX_INSTRUCTIONS / 2).position(is_back)?;
        let round = &items[..=last];
        let mut reaches: Vec<Reach> = Vec::new();
        let mut behind_branch = false;
        for (n, item) in round.iter().enumerate() {
            match item.kind {
                Kind::Host(host) if host.access.is_some() => {
                    let reach = Reach::of(n, item, start, round, info)?;
                    match reaches.iter_mut().find(|known| known.can_join(reach)) {
                        // What is written only behind a branch may lie in a page that cannot be written.
                        Some(known) if reach.write && !known.write && behind_branch => return None,
                        Some(known) => *known = known.join(reach),
                        None if reach.write && behind_branch => return None,
                        None => reaches.push(reach),
                    }
                }
                Kind::Nothing | Kind::Host(_) | Kind::Lea => {}
                Kind::Jump if n == last => {}
                Kind::Branch => behind_branch = true,
                _ => return None,
            }
        }
        if reaches.is_empty() {
            return None;
        }
        let most = MAX_ROUNDS.min(MAX_INSTRUCTIONS / round.len());
        let count = reaches.iter().map(Reach::rounds).min()?.min(most);
        if count < 2 {
            return None;
        }
        for reach in &mut reaches {
            reach.extend(count)?;
        }
        Some(Self { length: round.len(), count, reaches })
    }
}

/// Whether it goes back to the trace's head.
pub fn is_back(item: &Item) -> bool {
    matches!(item.kind, Kind::Branch | Kind::Jump) && item.instruction.near_branch_target() == 0
}

impl Reach {
    /// That of instruction `n` in the first round.
    fn of(
        n: usize,
        item: &Item,
        start: usize,
        round: &[Item],
        info: &mut InstructionInfoFactory,
    ) -> Option<Self> {
        let access = access(item, start)?;
        let mut moved = |items: &[Item]| {
            items.iter().try_fold(0i32, |sum, item| sum.checked_add(access.registers.change(item, info)?))
        };
        let (before, stride) = (moved(&round[..n])?, moved(round)?);
        let lowest = access.disp.checked_add(before)?;
        let end = lowest.checked_add(access.size)?;
        Some(Self { registers: access.registers, lowest, end, write: access.write, stride })
    }

    /// Whether the other one has the same registers, and what does not move is not further than one check reaches.
    fn can_join(&self, other: Self) -> bool {
        self.registers == other.registers && (self.stride != 0 || self.join(other).rounds() > 0)
    }

    fn join(self, other: Self) -> Self {
        let (lowest, end) = (self.lowest.min(other.lowest), self.end.max(other.end));
        Self { lowest, end, write: self.write | other.write, ..self }
    }

    /// How many rounds do not reach too far; 0 if not even one does.
    fn rounds(&self) -> usize {
        match i64::from(MAX_SPAN) - (i64::from(self.end) - i64::from(self.lowest)) {
            ..0 => 0,
            _ if self.stride == 0 => MAX_ROUNDS,
            rest => (rest / i64::from(self.stride).abs()) as usize + 1,
        }
    }

    /// So many rounds instead of one.
    fn extend(&mut self, rounds: usize) -> Option<()> {
        let further = self.stride * (rounds as i32 - 1);
        self.lowest = self.lowest.checked_add(further.min(0))?;
        self.end = self.end.checked_add(further.max(0))?;
        Some(())
    }

    fn size(&self) -> usize {
        (self.end - self.lowest) as usize
    }
}

impl Emitter<'_> {
    /// Emits the rounds without checks; behind them is where a round with checks is to be.
    pub(super) fn rounds(&mut self, rounds: &Rounds) {
        let Rounds { length, count, ref reaches } = *rounds;
        let trace = self.trace;
        let checked = self.asm.label();
        self.guard_flags(trace.live_in());
        for &reach in reaches {
            let label = self.asm.label();
            self.linear(reach.registers.operand(reach.lowest), None);
            self.check(reach.size(), reach.write, false, label);
            let resume = self.asm.here();
            self.cold.push(Cold::TwoPages { label, reach, checked, resume });
        }
        let saved = self.flags_saved;
        // What must be interpreted goes on in the round with checks, so that nothing is forgotten here.
        self.afters = (1..length).map(|_| self.asm.label()).collect();
        self.is_unchecked = true;
        let out = self.asm.label();
        let back = &trace.items[length - 1];
        for round in 1..=count {
            for (n, item) in trace.items[..length - 1].iter().enumerate() {
                self.after = self.afters[n];
                if item.kind == Kind::Lea {
                    self.held = None;
                }
                self.item(n, item);
            }
            if round == count {
                self.item(length - 1, back);
            } else if back.kind == Kind::Branch {
                self.restore_flags();
                let condition = Self::condition(&back.instruction);
                self.asm.jump_if(condition ^ 1, out);
            }
        }
        (self.is_unchecked, self.held) = (false, None);
        if back.kind == Kind::Branch {
            self.asm.bind(out);
            self.edge(back.instruction.next_ip(), back.live);
        }
        self.asm.bind(checked);
        self.flags_saved = saved;
    }

    /// Where what is reached may be in two pages, which are checked one by one.
    pub(super) fn two_pages(&mut self, reach: Reach, checked: Label, resume: Label) {
        self.mode = self.trace.items[0].mode;
        self.linear(reach.registers.operand(reach.lowest), None);
        self.check(1, reach.write, false, checked);
        self.linear(reach.registers.operand(reach.end - 1), None);
        // The window's first page is not behind its last one.
        self.asm.alu_immediate(false, alu::CMP, ADDRESS, reach.size() as i32);
        self.asm.jump_if(condition::CARRY, checked);
        self.check(1, reach.write, false, checked);
        self.asm.jump(resume);
    }
}
