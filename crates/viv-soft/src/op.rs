//! One decoded instruction, ready to run.
#![allow(unsafe_code, reason = "address registers are slots of the register file that `lower` computed")]

use viv_arch::{Cr0, Exception, Segment, SegmentRegister, Vector};

use crate::cpu::{Cpu, Exec, Fault};

/// Slot of the register file that always reads as zero: an address has no base or no index.
pub const SLOT_ZERO: u8 = 16;
/// Slot of the register file that holds where the running block begins.
pub const SLOT_BLOCK: u8 = 17;

/// Type of a segment of data that may be written.
const WRITABLE_DATA: u32 = 2;

/// How an address becomes a linear one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AddressKind {
    /// 64-bit, no segment base.
    Flat,
    /// 64-bit, with the base of FS or GS.
    Based,
    /// In 64-bit mode with 32-bit address size, with the base of FS or GS if there is one.
    Narrow,
    /// In compatibility or protected mode, 32-bit.
    Segmented32,
    /// 16-bit.
    Segmented16,
}

impl AddressKind {
    /// The bits of an offset.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Flat | Self::Based => u64::MAX,
            Self::Narrow | Self::Segmented32 => 0xffff_ffff,
            Self::Segmented16 => 0xffff,
        }
    }
}

/// A handler: does what the instruction does.
pub type Handler = fn(&mut Cpu, &Op) -> Exec;

/// A decoded instruction. What the fields mean beyond their names is up to the handler.
#[derive(Clone, Copy)]
pub struct Op {
    /// What runs it.
    pub run: Handler,
    /// An immediate, a branch target relative to the block, or what else the handler needs.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: u64,
    /// Where the instruction ends, relative to where its block begins.
    pub end: u16,
    /// Its length.
    pub len: u8,
    /// First register operand, as byte offset in the register file.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Base register slot.
    pub base: u8,
    /// Index register slot.
    pub index: u8,
    /// Shift of the index.
    pub scale: u8,
    /// Segment of the memory operand, as [`SegmentRegister`]'s number.
    pub segment: u8,
    /// How its address becomes linear.
    pub address: AddressKind,
    /// Whether the handler leaves RIP where execution goes on. Otherwise it goes on after the instruction.
    pub sets_rip: bool,
    /// What else the handler needs.
    pub aux: u8,
}

impl Cpu {
    /// The offset that the memory operand names, before segmentation.
    #[inline(always)]
    pub fn effective(&self, op: &Op) -> u64 {
        debug_assert!(op.base <= SLOT_BLOCK && op.index <= SLOT_BLOCK);
        let slots = (&raw const self.exec).cast::<u64>();
        // SAFETY: slots 0 to 17 are the first fields of `ExecState`, all of them u64.
        let (base, index) = unsafe { (*slots.add(op.base as usize), *slots.add(op.index as usize)) };
        base.wrapping_add(index << op.scale).wrapping_add(op.disp)
    }

    /// The linear address of the memory operand, for an access of `size` bytes.
    #[inline(always)]
    pub fn linear(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Fault> {
        let address = self.effective(op);
        if op.address == AddressKind::Flat {
            return Ok(address);
        }
        self.linear_slow(op.address, op.segment, address, size, write)
    }

    #[inline(never)]
    pub fn linear_slow(
        &mut self,
        kind: AddressKind,
        segment: u8,
        address: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        match kind {
            AddressKind::Flat => Ok(address),
            AddressKind::Based => Ok(address.wrapping_add(self.segments[segment as usize].base)),
            AddressKind::Narrow => {
                let base = if segment >= SegmentRegister::Fs as u8 {
                    self.segments[segment as usize].base
                } else {
                    0
                };
                Ok((address & 0xffff_ffff).wrapping_add(base))
            }
            AddressKind::Segmented32 => self.segmented(segment, address & 0xffff_ffff, size, write),
            AddressKind::Segmented16 => self.segmented(segment, address & 0xffff, size, write),
        }
    }

    /// Applies a segment outside 64-bit mode: rights, limit, base.
    pub fn segmented(&mut self, number: u8, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
        let mut segment = self.segments[number as usize];
        if number == SegmentRegister::Cs as u8 && !self.cr0.contains(Cr0::PE) {
            // In real mode, code is data.
            segment.attributes = Segment::PRESENT | Segment::NON_SYSTEM | WRITABLE_DATA;
        }
        if !segment_allows(&segment, offset, size, write) {
            let vector = if number == SegmentRegister::Ss as u8 {
                Vector::StackFault
            } else {
                Vector::GeneralProtection
            };
            return self.raise(Exception::new(vector));
        }
        Ok(offset.wrapping_add(segment.base) & 0xffff_ffff)
    }
}

/// Whether an access is within a segment's limit and rights (SDM vol. 3, 5.3 and 5.4).
pub fn segment_allows(segment: &Segment, offset: u64, size: u64, write: bool) -> bool {
    if !segment.is_usable() || !segment.is_present() {
        return false;
    }
    let kind = segment.kind();
    if write && (segment.is_code() || kind & 2 == 0) {
        return false;
    }
    if !write && segment.is_code() && kind & 2 == 0 {
        return false;
    }
    let last = offset + (size - 1);
    if !segment.is_code() && kind & 4 != 0 {
        // Expand-down.
        let top = if segment.attributes & Segment::DEFAULT_BIG != 0 { 0xffff_ffff } else { 0xffff };
        return offset > u64::from(segment.limit) && last <= top;
    }
    last <= u64::from(segment.limit)
}
