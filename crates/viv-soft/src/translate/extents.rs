//! Extents: accesses of a trace that lie near each other, for which one check is enough.
//!
//! They have the same base register and the same index, or are relative to the code, or to nothing. Where the registers
//! change by what is known (PUSH, POP, ADD of a constant), that is counted in. The check is before the first of them, for all bytes from the lowest to the highest; that holds
//! to the last, for pages of the window are mapped between runs of translated code alone. Where flags are needed there,
//! the check is further ahead, where none are, if there is such a place.

use iced_x86::{ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use viv_arch::paging;

use super::operand::{Base, Operand};
use super::system::System;
use super::trace::{Item, Kind, Trace};

/// The most instructions from the first to the last.
const MAX_LENGTH: usize = 64;
/// How far before the first of them flags are looked for that a check may destroy.
const MAX_AHEAD: usize = 16;
/// The most bytes from the first to the last: the more, the likelier they are in two pages.
const MAX_SPAN: i32 = 256;

/// Accesses that are checked together.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The instruction before which the check is, and the last one that has such an access.
    pub first: usize,
    pub last: usize,
    /// The guest registers.
    pub registers: Registers,
    /// The lowest displacement from what they are before the first instruction.
    pub lowest: i32,
    /// Behind the highest byte.
    pub end: i32,
    /// Whether one writes.
    pub write: bool,
}

/// The registers of an address: base, and index with the shift of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    base: Base,
    index: Option<(u8, u8)>,
}

impl Registers {
    const fn only(base: u8) -> Self {
        Self { base: Base::Register(base), index: None }
    }

    /// What is `disp` behind where they point to.
    pub const fn operand(self, disp: i32) -> Operand<'static> {
        Operand::Plain { base: self.base, index: self.index, disp }
    }

    /// By how much an instruction moves the address. `None`: nobody knows.
    pub fn change(self, item: &Item, info: &mut InstructionInfoFactory) -> Option<i32> {
        let base = match self.base {
            Base::Register(base) => change(item, base, info)?,
            Base::Page | Base::Zero => 0,
        };
        match self.index {
            None => Some(base),
            Some((index, shift)) => {
                let index = change(item, index, info)?;
                base.checked_add(index.checked_mul(1 << shift)?)
            }
        }
    }
}

/// The extents of a trace, in order, and which instructions' accesses they cover.
#[derive(Debug, Default)]
pub struct Extents {
    all: Vec<Extent>,
    covered: Vec<bool>,
}

impl Extents {
    /// Finds the extents of a trace.
    pub fn find(&mut self, trace: &Trace, info: &mut InstructionInfoFactory) {
        let items = &*trace.items;
        self.all.clear();
        self.covered.clear();
        self.covered.resize(items.len(), false);
        for first in 0..items.len() {
            if self.covered[first] {
                continue;
            }
            if let Some(extent) = self.begin(first, trace, info) {
                self.all.push(extent);
            }
        }
        self.all.sort_by_key(|extent| extent.first);
    }

    /// Whether the access of instruction `n` is checked with others.
    pub fn covers(&self, n: usize) -> bool {
        self.covered[n]
    }

    /// Those that begin with instruction `n`.
    pub fn beginning_at(&self, n: usize) -> &[Extent] {
        let from = self.all.partition_point(|extent| extent.first < n);
        let count = self.all[from..].iter().take_while(|extent| extent.first == n).count();
        &self.all[from..from + count]
    }

    /// The last instruction of those that overlap each other, of which one contains instruction `n`.
    pub fn end_of(&self, n: usize) -> usize {
        let mut last = n;
        for extent in &self.all {
            if extent.first <= last {
                last = last.max(extent.last);
            }
        }
        last
    }

    fn begin(&mut self, first: usize, trace: &Trace, info: &mut InstructionInfoFactory) -> Option<Extent> {
        let items = &*trace.items;
        let access = access(&items[first], trace.start)?;
        let end = access.disp.checked_add(access.size)?;
        let mut extent = Extent {
            first,
            last: first,
            registers: access.registers,
            lowest: access.disp,
            end,
            write: access.write,
        };
        if let [Item { kind: Kind::Leave, .. }, Item { kind: Kind::Return, .. }, ..] = items[first..] {
            // What RET takes is behind what LEAVE takes.
            self.covered[first..=first + 1].fill(true);
            return Some(Extent { last: first + 1, end: 2 * access.size, ..extent });
        }
        let mut moved = extent.registers.change(&items[first], info)?;
        let mut behind_branch = false;
        for (n, item) in items.iter().enumerate().skip(first + 1).take(MAX_LENGTH - 1) {
            if item.kind == Kind::Interpret {
                break;
            }
            if let Some(next) = self::access(item, trace.start)
                && next.registers == extent.registers
                && !self.covered[n]
                && let Some(joined) = extent.join(n, next, moved, behind_branch)
            {
                extent = joined;
                self.covered[n] = true;
            }
            behind_branch |= item.kind == Kind::Branch;
            match extent.registers.change(item, info).and_then(|change| moved.checked_add(change)) {
                Some(sum) if sum.abs() <= MAX_SPAN => moved = sum,
                _ => break,
            }
        }
        let ahead = extent.ahead_of_flags(items, info);
        if extent.last == first && ahead.is_none() {
            return None;
        }
        self.covered[first] = true;
        Some(ahead.unwrap_or(extent))
    }
}

impl Extent {
    /// With the check where it destroys no flags that are needed. `None`: there is no such place ahead of this one, or it
    /// is one.
    fn ahead_of_flags(self, items: &[Item], info: &mut InstructionInfoFactory) -> Option<Self> {
        let needed = |item: &Item| item.flags.before(item.live) != 0;
        if !needed(&items[self.first]) {
            return None;
        }
        let mut moved = 0i32;
        for (n, item) in items[..self.first].iter().enumerate().rev().take(MAX_AHEAD) {
            if !matches!(item.kind, Kind::Nothing | Kind::Host(_) | Kind::Lea) {
                return None;
            }
            moved = moved.checked_add(self.registers.change(item, info)?)?;
            if !needed(item) {
                let (lowest, end) = (self.lowest.checked_add(moved)?, self.end.checked_add(moved)?);
                return Some(Self { first: n, lowest, end, ..self });
            }
        }
        None
    }

    /// With another access, where the register has moved by `moved`.
    fn join(self, n: usize, access: Access, moved: i32, behind_branch: bool) -> Option<Self> {
        let start = access.disp.checked_add(moved)?;
        let lowest = self.lowest.min(start);
        let end = self.end.max(start.checked_add(access.size)?);
        let is_near = match self.registers {
            // In one page.
            Registers { base: Base::Page | Base::Zero, index: None } => {
                (lowest ^ (end - 1)) & !(paging::PAGE_OFFSET as i32) == 0
            }
            _ => end.checked_sub(lowest)? <= MAX_SPAN,
        };
        // What is written only behind a branch may lie in a page that cannot be written, unless it is the stack.
        let is_stack = self.registers.base == Base::Register(RSP);
        if !is_near || (access.write && !self.write && behind_branch && !is_stack) {
            return None;
        }
        Some(Self { last: n, lowest, end, write: self.write || access.write, ..self })
    }
}

/// An access that may be in an extent.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub registers: Registers,
    pub disp: i32,
    pub size: i32,
    pub write: bool,
}

const RSP: u8 = 4;
const RBP: u8 = 5;

/// That of an instruction, if it has one alone, in a trace that begins `start` behind its page's first byte.
pub fn access(item: &Item, start: usize) -> Option<Access> {
    let i = &item.instruction;
    let word = item.mode.word() as i32;
    let stack =
        |base, disp, write| Some(Access { registers: Registers::only(base), disp, size: word, write });
    match item.kind {
        Kind::Host(host) => {
            let access = host.access?;
            let Operand::Plain { base, index, disp } = Operand::of(i, start) else { return None };
            let registers = Registers { base, index };
            Some(Access { registers, disp, size: access.size as i32, write: access.write })
        }
        Kind::Push if i.op0_kind() != OpKind::Memory => stack(RSP, -word, true),
        Kind::Call | Kind::System(System::PushFlags) => stack(RSP, -word, true),
        Kind::Pop | Kind::Return => stack(RSP, 0, false),
        Kind::Leave => stack(RBP, 0, false),
        _ => None,
    }
}

/// By how much an instruction moves a guest register. `None`: nobody knows.
fn change(item: &Item, base: u8, info: &mut InstructionInfoFactory) -> Option<i32> {
    let i = &item.instruction;
    let word = item.mode.word();
    match item.kind {
        Kind::Push | Kind::System(System::PushFlags) if base == RSP => Some(-(word as i32)),
        Kind::Pop if full(i.op0_register()) == base => None,
        Kind::Pop if base == RSP => Some(word as i32),
        Kind::Lea if full(i.op0_register()) == base => match Operand::of(i, 0) {
            Operand::Plain { base: Base::Register(from), index: None, disp }
                if from == base && i.op0_register().size() == word =>
            {
                Some(disp)
            }
            _ => None,
        },
        Kind::Nothing
        | Kind::Branch
        | Kind::Push
        | Kind::System(System::PushFlags)
        | Kind::Pop
        | Kind::Lea => Some(0),
        Kind::Host(_) => computed_change(i, base, word, info),
        _ => None,
    }
}

fn computed_change(i: &Instruction, base: u8, word: usize, info: &mut InstructionInfoFactory) -> Option<i32> {
    let to_base = i.op_count() > 0
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr()
        && i.op0_register().size() == word
        && full(i.op0_register()) == base;
    let constant = || (i.op_count() == 2).then(|| i32::try_from(i.try_immediate(1).ok()? as i64).ok())?;
    match i.mnemonic() {
        Mnemonic::Add if to_base => constant(),
        Mnemonic::Sub if to_base => constant()?.checked_neg(),
        Mnemonic::Inc if to_base => Some(1),
        Mnemonic::Dec if to_base => Some(-1),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt => Some(0),
        Mnemonic::Imul if i.op_count() == 1 => (!writes(i, base, info)).then_some(0),
        // What has a condition is CMOVcc or SETcc.
        mnemonic if writes_nothing_else(mnemonic) || i.condition_code() != ConditionCode::None => {
            let written = i.op0_kind() == OpKind::Register
                && i.op0_register().is_gpr()
                && full(i.op0_register()) == base;
            (!written).then_some(0)
        }
        _ => (!writes(i, base, info)).then_some(0),
    }
}

/// Frequent instructions that write their first operand alone.
fn writes_nothing_else(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movsx
            | Mnemonic::Movsxd
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Movaps
            | Mnemonic::Movups
            | Mnemonic::Movdqa
            | Mnemonic::Movdqu
            | Mnemonic::Movsd
            | Mnemonic::Movss
            | Mnemonic::Movd
            | Mnemonic::Movq
            | Mnemonic::Movhps
            | Mnemonic::Pxor
            | Mnemonic::Punpcklqdq
            | Mnemonic::Xorps
            | Mnemonic::Imul
            | Mnemonic::Neg
            | Mnemonic::Not
            | Mnemonic::Adc
            | Mnemonic::Sbb
            | Mnemonic::Inc
            | Mnemonic::Dec
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Bsf
            | Mnemonic::Bsr
            | Mnemonic::Bts
            | Mnemonic::Btr
    )
}

fn full(register: Register) -> u8 {
    register.full_register().number() as u8
}

fn writes(i: &Instruction, base: u8, info: &mut InstructionInfoFactory) -> bool {
    info.info(i).used_registers().iter().any(|used| {
        used.register().is_gpr()
            && full(used.register()) == base
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    })
}
