//! Memory operands: where they are, and how an access is checked.
//!
//! In the code that usually runs an operand stays what it was, but for names: it is relative to the window, and its
//! address is cut to 32 bits, so that it cannot leave it. Before it, or before several of them ([`extents`]
//! (super::extents)), the linear address is compared with the window's tag. If that fails, the same instructions run in
//! a copy in which every access is looked up in the TLB ([`retreat`](super::retreat)), and what is not there either is
//! left to the interpreter.

use iced_x86::{Instruction, Register};
use viv_arch::paging;

use super::asm::{Label, Mem, NO_BASE, RSP, Reg, alu, condition};
use super::emit::Emitter;
use super::flags::Flags;
use super::frame;
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH, host, slot};

/// What an address is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A guest register.
    Register(u8),
    /// The page of the code.
    Page,
    /// Nothing.
    Zero,
}

impl Base {
    /// What the host has it in. `Err`: where it is kept.
    fn host(self) -> Result<Reg, Mem> {
        match self {
            Self::Register(guest) => host(guest).ok_or(slot(guest)),
            Self::Page => Err(frame::PAGE),
            Self::Zero => Ok(NO_BASE),
        }
    }
}

/// A memory operand of the guest.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// A base, an index register with the shift of it, and a displacement.
    Plain { base: Base, index: Option<(u8, u8)>, disp: i32 },
    /// Anything else that an instruction can name.
    Other(&'a Instruction),
}

/// What an access needs.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub size: usize,
    pub write: bool,
    /// The flags that are needed after the check.
    pub flags: Flags,
}

/// Where the host finds an operand.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub mem: Mem,
    /// What must be in [`ADDRESS`] for it.
    pub address: Content,
}

/// What is in [`ADDRESS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing of use.
    Nothing,
    /// What the address is relative to, or its index register.
    Base(Base),
    /// The page that the operand is in.
    Page,
    /// All of the address.
    Whole,
}

impl<'a> Operand<'a> {
    /// The memory operand of an instruction in a trace that begins `start` behind its page's first byte.
    pub fn of(i: &'a Instruction, start: usize) -> Self {
        let (base, index) = (i.memory_base(), i.memory_index());
        if base == Register::RIP && !matches!(i.memory_segment(), Register::FS | Register::GS) {
            let disp = i.memory_displacement64().wrapping_add(start as u64);
            return match i32::try_from(disp as i64) {
                Ok(disp) => Self::Plain { base: Base::Page, index: None, disp },
                Err(_) => Self::Other(i),
            };
        }
        let is_zero = base == Register::None && (index != Register::None || i.memory_displ_size() == 8);
        let plain = (base.is_gpr64() || is_zero)
            && (index == Register::None || index.is_gpr64())
            && !matches!(i.memory_segment(), Register::FS | Register::GS);
        let disp = i.memory_displacement64();
        let is_far = index == Register::None && is_zero && i32::try_from(disp as i64).is_err();
        if !plain || is_far {
            return Self::Other(i);
        }
        let shift = i.memory_index_scale().trailing_zeros() as u8;
        let index = (index != Register::None).then(|| (index.number() as u8, shift));
        let base = if is_zero { Base::Zero } else { Base::Register(base.number() as u8) };
        Self::Plain { base, index, disp: disp as i32 }
    }

    /// What is at a distance from a guest register.
    pub const fn at(base: u8, disp: i32) -> Self {
        Self::Plain { base: Base::Register(base), index: None, disp }
    }
}

impl Emitter<'_> {
    /// Where the host is to find the operand of an access. `low`: only the eight registers that every encoding has can be
    /// part of it.
    pub fn place(&self, operand: Operand<'_>, covered: bool, low: bool) -> Place {
        if self.in_retreat {
            return Place { mem: Mem::at(ADDRESS, 0), address: Content::Whole };
        }
        let whole = Place { mem: Mem::in_window(ADDRESS, 0), address: Content::Whole };
        let Operand::Plain { base, index, disp } = operand else { return whole };
        if is_static(base, index) && !covered && !low {
            let offset = disp & paging::PAGE_OFFSET as i32;
            return Place { mem: Mem::in_window(ADDRESS, offset), address: Content::Page };
        }
        let usable = |base: Base| base.host().ok().filter(|&register| !low || register < 8);
        let loads = covered && !low;
        let index = index.map(|(index, shift)| (Base::Register(index), shift));
        let (base, index, address) = match (usable(base), index.map(|(index, shift)| (usable(index), shift)))
        {
            (Some(base), None) => (base, None, Content::Nothing),
            (Some(base), Some((Some(index), shift))) => (base, Some((index, shift)), Content::Nothing),
            (None, None) if loads => (ADDRESS, None, Content::Base(base)),
            (None, Some((Some(index), shift))) if loads => {
                (ADDRESS, Some((index, shift)), Content::Base(base))
            }
            (Some(base), Some((None, shift))) if loads => {
                let index = index.map_or(Base::Register(0), |(index, _)| index);
                (base, Some((ADDRESS, shift)), Content::Base(index))
            }
            _ => return whole,
        };
        Place { mem: Mem { index, ..Mem::in_window(base, disp) }, address }
    }

    /// Makes sure that instruction `n` may access the operand, and that it is at `place`, or goes to where that is
    /// not taken for granted. `covered`: it is known that it may. Flags other than needed are lost, unless it is.
    pub fn reach(&mut self, n: usize, operand: Operand<'_>, place: Place, need: Need, covered: bool) {
        if self.in_retreat {
            self.guard_flags(need.flags);
            let miss = self.miss(n, self.after);
            self.linear(operand, Some((need.size, miss)));
            self.look_up(need.size, need.write, miss);
            return;
        }
        if covered {
            match place.address {
                Content::Nothing | Content::Page => {}
                Content::Base(base) if self.held == Some(base) => {}
                Content::Base(base) => {
                    self.load_base(base);
                    self.held = Some(base).filter(|_| self.is_unchecked);
                }
                Content::Whole => {
                    self.linear(operand, None);
                    self.held = None;
                }
            }
            return;
        }
        self.guard_flags(need.flags);
        let retreat = self.retreat(n);
        if place.address == Content::Page
            && let Operand::Plain { base, disp, .. } = operand
        {
            return self.check_page(base, disp, need, retreat);
        }
        self.linear(operand, Some((need.size, retreat)));
        self.check(need.size, need.write, place.address == Content::Whole, retreat);
    }

    /// Goes to `retreat` unless `size` bytes at the linear address in [`ADDRESS`] may be accessed in the window. Flags are
    /// lost, and the address unless it is to be kept.
    pub fn check(&mut self, size: usize, write: bool, keep: bool, retreat: Label) {
        let tag = Mem::indexed(RSP, SCRATCH, 3, frame::window_tag(self.mode.view(), write));
        let limit = (paging::PAGE_SIZE as usize - size) as i32;
        self.asm.copy_32(SCRATCH, ADDRESS);
        self.asm.shift_right(SCRATCH, 12);
        let difference = if keep {
            self.asm.load(SCRATCH, tag);
            self.asm.alu(alu::XOR, SCRATCH, ADDRESS);
            SCRATCH
        } else {
            self.asm.alu_load(alu::XOR, ADDRESS, tag);
            ADDRESS
        };
        self.asm.alu_immediate(true, alu::CMP, difference, limit);
        self.asm.jump_if(condition::ABOVE, retreat);
    }

    /// Puts the address of the page that the operand is in into [`ADDRESS`], or goes to `retreat` unless what is needed
    /// there may be accessed in the window. Flags are lost.
    fn check_page(&mut self, base: Base, disp: i32, need: Need, retreat: Label) {
        let offset = disp & paging::PAGE_OFFSET as i32;
        if offset as usize + need.size > paging::PAGE_SIZE as usize {
            self.asm.jump(retreat);
            return;
        }
        let page = disp - offset;
        let tags = frame::window_tag(self.mode.view(), need.write);
        let tag = if base == Base::Zero {
            self.asm.immediate(ADDRESS, i64::from(page) as u64);
            Mem::at(RSP, tags + 8 * (page as u32 >> 12) as i32)
        } else {
            self.load_base(base);
            self.asm.lea(ADDRESS, Mem::at(ADDRESS, page));
            self.asm.copy_32(SCRATCH, ADDRESS);
            self.asm.shift_right(SCRATCH, 12);
            Mem::indexed(RSP, SCRATCH, 3, tags)
        };
        self.asm.alu_load(alu::CMP, ADDRESS, tag);
        self.asm.jump_if(condition::NOT_EQUAL, retreat);
    }

    /// What an address is relative to; in [`ADDRESS`], if the host has no register for it.
    fn load_base(&mut self, base: Base) -> Reg {
        base.host().unwrap_or_else(|home| {
            self.asm.load(ADDRESS, home);
            ADDRESS
        })
    }

    /// Turns the linear address in [`ADDRESS`] into the host's by the TLB, or goes to `miss`. Flags are lost.
    pub(super) fn look_up(&mut self, size: usize, write: bool, miss: Label) {
        self.asm.immediate(SCRATCH, paging::PAGE_SIZE - size as u64);
        self.asm.call_to(self.thunks.lookup[self.mode.view() as usize][usize::from(write)]);
        self.asm.jump_if(condition::CARRY, miss);
    }

    /// The linear address of an operand into [`ADDRESS`]; with a `limit`, to the place there if so many bytes are not in their
    /// segment. Flags stay unless that is looked at; [`SCRATCH`] is lost.
    pub(super) fn linear(&mut self, operand: Operand<'_>, limit: Option<(usize, Label)>) {
        match operand {
            Operand::Plain { base, index, disp } => {
                let base = self.load_base(base);
                let index = index.map(|(index, shift)| (self.value(index, SCRATCH), shift));
                self.sum(ADDRESS, Mem { base, index, disp, window: false });
            }
            Operand::Other(i) => {
                self.offset(i, ADDRESS);
                let number = match i.memory_segment() {
                    Register::FS => 4,
                    Register::GS => 5,
                    _ => return,
                };
                // Segments without a base end where a page does.
                if let Some((size, beyond)) = limit
                    && self.mode.is_narrow()
                    && may_wrap(i, size)
                {
                    self.asm.alu_immediate(false, alu::CMP, ADDRESS, -(size as i32));
                    self.asm.jump_if(condition::ABOVE, beyond);
                }
                self.asm.load(SCRATCH, frame::segment_base(number));
                self.lea_word(ADDRESS, Mem::indexed(ADDRESS, SCRATCH, 0, 0));
            }
        }
    }

    fn sum(&mut self, to: Reg, mem: Mem) {
        if mem.index.is_some() || mem.disp != 0 || mem.base == NO_BASE {
            self.lea_word(to, mem);
        } else if self.mode.is_narrow() {
            self.asm.copy_32(to, mem.base);
        } else {
            self.asm.copy(to, mem.base);
        }
    }

    /// The bytes of an address on the stack.
    pub(super) fn word(&self) -> i32 {
        self.mode.word() as i32
    }

    /// Loads a register, stores it, or computes an address into it, with as many bits as addresses have.
    pub(super) fn load_word(&mut self, to: Reg, from: Mem) {
        self.asm.rm(!self.mode.is_narrow(), &[0x8b], to, from);
    }

    pub(super) fn store_word(&mut self, to: Mem, from: Reg) {
        self.asm.rm(!self.mode.is_narrow(), &[0x89], from, to);
    }

    pub(super) fn lea_word(&mut self, to: Reg, mem: Mem) {
        self.asm.rm(!self.mode.is_narrow(), &[0x8d], to, mem);
    }

    /// Loads the value of a guest register that an address or a branch needs; gives the register that holds it.
    pub fn value(&mut self, guest: u8, scratch: u8) -> u8 {
        host(guest).unwrap_or_else(|| {
            self.asm.load(scratch, slot(guest));
            scratch
        })
    }

    /// The offset that the memory operand names into `to`, which is no guest register's unless nothing else of it
    /// is needed. Flags stay.
    pub fn offset(&mut self, i: &Instruction, to: u8) {
        if i.is_ip_rel_memory_operand() {
            let offset = i.memory_displacement64().wrapping_add(self.trace.start as u64);
            self.asm.load(ADDRESS, frame::PAGE);
            if let Ok(offset) = i32::try_from(offset as i64) {
                self.asm.lea(to, Mem::at(ADDRESS, offset));
            } else {
                self.asm.immediate(SCRATCH, offset);
                self.asm.lea(to, Mem::indexed(ADDRESS, SCRATCH, 0, 0));
            }
            if i.memory_base() == Register::EIP {
                self.asm.copy_32(to, to);
            }
            return;
        }
        let narrow = is_narrow(i) || self.mode.is_narrow();
        let disp = i.memory_displacement64() as i32;
        let number = |register: Register| register.full_register().number() as u8;
        let base = (i.memory_base() != Register::None).then(|| number(i.memory_base()));
        let index = (i.memory_index() != Register::None).then(|| number(i.memory_index()));
        let shift = i.memory_index_scale().trailing_zeros() as u8;
        let base = base.map(|guest| self.value(guest, ADDRESS));
        let index = index.map(|guest| self.value(guest, SCRATCH));
        match (base, index) {
            (Some(base), index) => {
                let mem = Mem { base, index: index.map(|index| (index, shift)), disp, window: false };
                if narrow { self.asm.lea_32(to, mem) } else { self.sum(to, mem) }
            }
            (None, Some(index)) => {
                self.asm.immediate(ADDRESS, 0);
                let mem = Mem::indexed(ADDRESS, index, shift, disp);
                if narrow { self.asm.lea_32(to, mem) } else { self.asm.lea(to, mem) }
            }
            (None, None) if narrow => self.asm.immediate(to, u64::from(disp as u32)),
            (None, None) => self.asm.immediate(to, disp as i64 as u64),
        }
    }
}

/// The top of the stack, and what is below and above it.
pub const fn stack(disp: i32) -> Operand<'static> {
    Operand::at(4, disp)
}

/// The same in the window.
pub const fn stack_in_window(disp: i32) -> Mem {
    Mem::in_window(GUEST_RSP, disp)
}

/// Whether it is known at which distance from the base an operand is, and the base is at the beginning of a page.
fn is_static(base: Base, index: Option<(u8, u8)>) -> bool {
    index.is_none() && !matches!(base, Base::Register(_))
}

/// Whether an operand of `size` bytes may begin so high that it ends beyond 32 bits.
fn may_wrap(i: &Instruction, size: usize) -> bool {
    let constant = i.memory_base() == Register::None && i.memory_index() == Register::None;
    !constant || i.memory_displacement32().checked_add(size as u32 - 1).is_none()
}

/// Whether the address is cut to 32 bits.
fn is_narrow(i: &Instruction) -> bool {
    let register = if i.memory_base() == Register::None { i.memory_index() } else { i.memory_base() };
    if register == Register::None { i.memory_displ_size() == 4 } else { register.size() == 4 }
}
