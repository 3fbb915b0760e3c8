//! Groups: runs of instructions whose memory operands lie near each other, for which one lookup is enough.
//!
//! The operands have one base register, which stays as it is, and no index. The lookup is for all bytes from the first
//! to the last of them. If it fails, because they are not in one page or for any other reason, the run goes on in a copy
//! in which every operand is looked up by itself; so it does after an instruction that was left to the interpreter, for
//! then the address is lost.

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use super::asm::{Label, Mem};
use super::emit::{Cold, Emitter};
use super::regs::{ADDRESS, host};
use super::trace::{Item, Kind};

/// The most instructions of a group.
const MAX_GROUP: usize = 32;
/// The most bytes from the first to the last: the more, the likelier they are in two pages.
const MAX_SPAN: i32 = 512;

/// A group that begins with some instruction.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// Its last instruction, which has a memory operand.
    last: usize,
    base: Register,
    /// The lowest displacement.
    lowest: i32,
    /// Behind the highest byte.
    end: i32,
    /// Whether one writes.
    write: bool,
}

impl Emitter<'_> {
    /// Emits the group that begins with instruction `n`, if one does; gives its length.
    pub(super) fn group(&mut self, n: usize) -> Option<usize> {
        let items = &self.trace.items;
        let group = find(&items[n..], &mut self.tools.info)?;
        let last = n + group.last;
        let resume = self.asm.label();
        let copies: Vec<Label> = (n..=last).map(|_| self.asm.label()).collect();
        let first = &items[n];
        self.guard_flags(first.flags.before(first.live));
        let base = self.value(group.base.number() as u8, ADDRESS);
        self.asm.lea(ADDRESS, Mem::at(base, group.lowest));
        let flags_saved = self.flags_saved;
        self.lookup((group.end - group.lowest) as usize, group.write, copies[0]);
        for (k, item) in items.iter().enumerate().take(last + 1).skip(n) {
            self.after = Some(copies.get(k + 1 - n).copied().unwrap_or(resume));
            match (item.kind, operand(item)) {
                (Kind::Host(host), Some(operand)) => {
                    self.computation(k, item, host, Some(operand.disp - group.lowest));
                }
                _ => self.item(k, item),
            }
        }
        self.after = None;
        self.asm.bind(resume);
        let end_saved = self.flags_saved;
        self.cold.push(Cold::Copy { first: n, copies, flags_saved, end_saved, resume });
        Some(last + 1 - n)
    }

    /// Emits the copy of a group.
    pub(super) fn copy_of_group(
        &mut self,
        first: usize,
        copies: &[Label],
        flags_saved: bool,
        end_saved: bool,
        resume: Label,
    ) {
        self.flags_saved = flags_saved;
        for (k, label) in copies.iter().enumerate() {
            self.asm.bind(*label);
            let n = first + k;
            let item = &self.trace.items[n];
            self.mode = item.mode;
            self.item(n, item);
        }
        if end_saved {
            self.guard_flags(super::flags::ALL);
        } else {
            self.restore_flags();
        }
        self.asm.jump(resume);
    }
}

/// A memory operand that may be in a group.
#[derive(Debug, Clone, Copy)]
struct Operand {
    base: Register,
    disp: i32,
    size: i32,
    write: bool,
}

fn operand(item: &Item) -> Option<Operand> {
    let Kind::Host(host) = item.kind else { return None };
    let access = host.access?;
    let i = &item.instruction;
    let plain = i.memory_base().is_gpr64()
        && i.memory_index() == Register::None
        && !matches!(i.memory_segment(), Register::FS | Register::GS);
    plain.then(|| Operand {
        base: i.memory_base(),
        disp: i.memory_displacement64() as i32,
        size: access.size as i32,
        write: access.write,
    })
}

fn find(items: &[Item], info: &mut InstructionInfoFactory) -> Option<Group> {
    let first = operand(items.first()?)?;
    let mut group = Group {
        last: 0,
        base: first.base,
        lowest: first.disp,
        end: first.disp.checked_add(first.size)?,
        write: first.write,
    };
    let mut behind_branch = false;
    for (n, item) in items.iter().enumerate().take(MAX_GROUP) {
        if n > 0 {
            if let Some(next) = operand(item) {
                let lowest = group.lowest.min(next.disp);
                let end = group.end.max(next.disp.checked_add(next.size)?);
                // What is written only behind a branch may lie in a page that cannot be written.
                let new_write = next.write && !group.write;
                if next.base != group.base
                    || end.checked_sub(lowest).is_none_or(|span| span > MAX_SPAN)
                    || (new_write && behind_branch)
                {
                    break;
                }
                group = Group { last: n, lowest, end, write: group.write || next.write, ..group };
            } else if !leaves_address_alone(item) {
                break;
            }
        }
        behind_branch |= item.kind == Kind::Branch;
        if item.kind != Kind::Branch && writes(&item.instruction, group.base, info) {
            break;
        }
    }
    (group.last > 0).then_some(group)
}

/// Whether the code of an instruction without a memory operand keeps [`ADDRESS`].
fn leaves_address_alone(item: &Item) -> bool {
    let i = &item.instruction;
    let moved = (0..i.op_count())
        .filter(|&n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr())
        .filter(|&n| is_moved(i.op_register(n)))
        .count();
    match item.kind {
        Kind::Nothing | Kind::Branch => true,
        Kind::Host(host) => host.access.is_none() && moved <= 1,
        Kind::Lea => {
            i.memory_base().is_gpr64()
                && !is_moved(i.memory_base())
                && moved == 0
                && (i.memory_index() == Register::None || i.memory_index().is_gpr64())
        }
        _ => false,
    }
}

/// Whether a guest register is not in a host register.
fn is_moved(register: Register) -> bool {
    host(register.full_register().number() as u8).is_none()
}

fn writes(i: &Instruction, base: Register, info: &mut InstructionInfoFactory) -> bool {
    info.info(i).used_registers().iter().any(|used| {
        used.register().is_gpr()
            && used.register().full_register() == base
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    })
}
