//! Segment registers and descriptor tables (SDM vol. 3, chapters 3 and 5).

use viv_arch::{Exception, Segment, SegmentRegister, Vector};

use crate::cpu::{Cpu, Exec, Fault, Shadow};
use crate::op::Op;
use crate::ops::virtual86::v86_segment;
use crate::ram::Int;

/// Bit of a descriptor: the segment was accessed.
const ACCESSED: u64 = 1 << 40;
/// Attributes of a segment in real mode: data that may be written.
const REAL_DATA: u32 = 0x93;

impl Cpu {
    /// Reads a descriptor from the GDT or LDT: where it is, and its eight bytes. Outside the table: `vector`
    /// with the selector.
    pub fn descriptor(&mut self, selector: u16, vector: Vector) -> Result<(u64, u64), Fault> {
        let code = u32::from(selector & !3);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.is_usable() && self.ldtr.is_present() {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            return self.raise(Exception::with_code(vector, code));
        };
        let offset = u64::from(selector & !7);
        if offset + 7 > limit {
            return self.raise(Exception::with_code(vector, code));
        }
        let address = self.within_table(base, offset);
        Ok((address, self.load_system(address)?))
    }

    /// The linear address `offset` bytes into what a system register points to: it wraps at 4 GiB outside long mode.
    pub fn within_table(&self, base: u64, offset: u64) -> u64 {
        let address = base.wrapping_add(offset);
        if self.long_mode() { address } else { address & 0xffff_ffff }
    }

    /// Sets a descriptor's accessed bit if it is not set.
    pub fn mark_accessed(&mut self, address: u64, descriptor: u64) -> Exec {
        if descriptor & ACCESSED == 0 {
            let address = self.within_table(address, 5);
            self.store_system::<u8>(address, ((descriptor | ACCESSED) >> 40) as u8)?;
        }
        Ok(())
    }

    /// Segment register `number` with `selector` loaded in real mode or virtual-8086 mode. Real mode changes neither limit
    /// nor attributes, so that what protected mode left there stays in force ("big real mode"), but makes a segment of
    /// one that was null.
    pub fn real_segment(&self, number: u8, selector: u16) -> Segment {
        if self.is_v86() {
            return v86_segment(selector);
        }
        let old = self.segments[number as usize];
        let (attributes, limit) = if old.is_usable() && old.is_present() {
            (old.attributes, old.limit)
        } else {
            (REAL_DATA, 0xffff)
        };
        Segment { selector, attributes, limit, base: u64::from(selector) << 4 }
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do.
    pub fn load_segment(&mut self, number: u8, selector: u16) -> Exec {
        if self.has_real_segments() {
            self.segments[number as usize] = self.real_segment(number, selector);
            return Ok(());
        }
        let is_stack = number == SegmentRegister::Ss as u8;
        if selector & !3 == 0 {
            if is_stack && !(self.is_64bit() && self.cpl < 3 && selector & 3 == u16::from(self.cpl)) {
                return self.gp0();
            }
            self.segments[number as usize] = null_segment(selector, self.cpl);
            return Ok(());
        }
        let code = u32::from(selector & !3);
        let (address, descriptor) = self.descriptor(selector, Vector::GeneralProtection)?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        let (rpl, dpl) = ((selector & 3) as u8, segment.dpl());
        let fits = if is_stack {
            rpl == self.cpl && dpl == self.cpl && !segment.is_code() && segment.kind() & 2 != 0
        } else {
            let readable = !segment.is_code() || segment.kind() & 2 != 0;
            let conforming = segment.is_code() && segment.kind() & 4 != 0;
            readable && (conforming || (rpl <= dpl && self.cpl <= dpl))
        };
        if !segment.is_code_or_data() || !fits {
            return self.raise(Exception::gp(code));
        }
        if !segment.is_present() {
            let vector = if is_stack { Vector::StackFault } else { Vector::SegmentNotPresent };
            return self.raise(Exception::with_code(vector, code));
        }
        self.mark_accessed(address, descriptor)?;
        segment.attributes |= 1;
        self.segments[number as usize] = segment;
        Ok(())
    }

    /// Reads a system descriptor of 16 bytes (long mode) or 8.
    pub fn system_segment(&mut self, selector: u16) -> Result<(u64, Segment), Fault> {
        let code = u32::from(selector & !3);
        if selector & 4 != 0 {
            return self.raise(Exception::gp(code));
        }
        let (address, descriptor) = self.descriptor(selector, Vector::GeneralProtection)?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        if segment.is_code_or_data() {
            return self.raise(Exception::gp(code));
        }
        if self.long_mode() {
            if u64::from(selector & !7) + 15 > u64::from(self.gdtr.limit) {
                return self.raise(Exception::gp(code));
            }
            segment.base |= u64::from(self.load_system::<u32>(address.wrapping_add(8))?) << 32;
        }
        Ok((address, segment))
    }
}

/// A segment register after a null selector was loaded.
pub fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment { selector, attributes: Segment::UNUSABLE | (u32::from(dpl) << 5), limit: 0, base: 0 }
}

/// MOV to a segment register (`dst`) from a register (`src`).
pub fn mov_to_segment_r(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.get::<u16>(op.src);
    to_segment(cpu, op, selector)
}

pub fn mov_to_segment_m(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, 2, false)?;
    let selector = cpu.load::<u16>(address)?;
    to_segment(cpu, op, selector)
}

fn to_segment(cpu: &mut Cpu, op: &Op, selector: u16) -> Exec {
    cpu.load_segment(op.dst, selector)?;
    if op.dst == SegmentRegister::Ss as u8 {
        cpu.shadow = Shadow::Everything;
        cpu.attend();
    }
    Ok(())
}

/// MOV from a segment register (`src`) to a register.
pub fn mov_from_segment_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.segments[op.src as usize].selector;
    cpu.put(op.dst, T::from_u64(u64::from(selector)));
    Ok(())
}

pub fn mov_from_segment_m(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, 2, true)?;
    let selector = cpu.segments[op.src as usize].selector;
    cpu.store(address, selector)
}

/// LDS, LES, LFS, LGS, LSS: `aux` is the segment register.
pub fn load_far_pointer<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE + 2, false)?;
    let offset = cpu.load::<T>(address)?;
    let selector = cpu.load::<u16>(address.wrapping_add(T::SIZE))?;
    cpu.load_segment(op.aux, selector)?;
    cpu.put(op.dst, offset);
    Ok(())
}

/// LGDT, and LIDT with `aux` 1; `imm` is the size of the base in bytes, of which three are loaded if `src` is 1.
pub fn load_table(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let address = cpu.linear(op, 2 + op.imm, false)?;
    let limit = cpu.load::<u16>(address)?;
    let mut bytes = [0; 8];
    cpu.read_bytes(address.wrapping_add(2), &mut bytes[..op.imm as usize])?;
    if op.src == 1 {
        bytes[3] = 0;
    }
    let base = u64::from_le_bytes(bytes);
    if cpu.is_64bit() && !viv_arch::paging::is_canonical(base) {
        return cpu.gp0();
    }
    let table = viv_arch::DescriptorTable { base, limit };
    if op.aux == 1 {
        cpu.idtr = table;
    } else {
        cpu.gdtr = table;
    }
    Ok(())
}

/// SGDT, and SIDT with `aux` 1; `imm` is the size of the base in bytes.
pub fn store_table(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_umip()?;
    let address = cpu.linear(op, 2 + op.imm, true)?;
    let table = if op.aux == 1 { cpu.idtr } else { cpu.gdtr };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.write_bytes(address, &bytes[..2 + op.imm as usize])
}

/// The selector operand of LLDT, LTR, LAR and the like: in a register, or in memory if `aux` bit 7 is set.
fn selector_operand(cpu: &mut Cpu, op: &Op) -> Result<u16, Fault> {
    if op.aux & 0x80 == 0 {
        return Ok(cpu.get(op.src));
    }
    let address = cpu.linear(op, 2, false)?;
    cpu.load(address)
}

pub fn lldt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    cpu.require_cpl0()?;
    let selector = selector_operand(cpu, op)?;
    if selector & !3 == 0 {
        cpu.ldtr = null_segment(selector, 0);
        return Ok(());
    }
    let (_, segment) = cpu.system_segment(selector)?;
    let code = u32::from(selector & !3);
    if segment.kind() != 2 {
        return cpu.raise(Exception::gp(code));
    }
    if !segment.is_present() {
        return cpu.raise(Exception::with_code(Vector::SegmentNotPresent, code));
    }
    cpu.ldtr = segment;
    Ok(())
}

pub fn ltr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    cpu.require_cpl0()?;
    let selector = selector_operand(cpu, op)?;
    if selector & !3 == 0 {
        return cpu.gp0();
    }
    let (address, mut segment) = cpu.system_segment(selector)?;
    let code = u32::from(selector & !3);
    let available = segment.kind() == 9 || (segment.kind() == 1 && !cpu.long_mode());
    if !available {
        return cpu.raise(Exception::gp(code));
    }
    if !segment.is_present() {
        return cpu.raise(Exception::with_code(Vector::SegmentNotPresent, code));
    }
    segment.attributes |= 2;
    let rights = cpu.within_table(address, 5);
    cpu.store_system::<u8>(rights, segment.attributes as u8)?;
    cpu.tr = segment;
    Ok(())
}

/// SLDT (`imm` 0) and STR (`imm` 1) to a register.
pub fn store_selector_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    cpu.check_umip()?;
    let selector = if op.imm == 0 { cpu.ldtr.selector } else { cpu.tr.selector };
    cpu.put(op.dst, T::from_u64(u64::from(selector)));
    Ok(())
}

pub fn store_selector_m(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    cpu.check_umip()?;
    let selector = if op.imm == 0 { cpu.ldtr.selector } else { cpu.tr.selector };
    let address = cpu.linear(op, 2, true)?;
    cpu.store(address, selector)
}

/// Looks up a descriptor for LAR, LSL, VERR and VERW, which clear ZF instead of faulting.
fn inspect(cpu: &mut Cpu, selector: u16) -> Result<Option<Segment>, Fault> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, u64::from(cpu.gdtr.limit))
    } else {
        (cpu.ldtr.base, if cpu.ldtr.is_usable() { u64::from(cpu.ldtr.limit) } else { 0 })
    };
    let offset = u64::from(selector & !7);
    if offset + 7 > limit {
        return Ok(None);
    }
    let address = cpu.within_table(base, offset);
    let descriptor = cpu.load_system(address)?;
    Ok(Some(Segment::from_descriptor(selector, descriptor)))
}

/// Whether LAR, LSL, VERR or VERW may look at `segment`.
fn is_visible(cpu: &Cpu, segment: &Segment) -> bool {
    let conforming = segment.is_code() && segment.kind() & 4 != 0;
    let privilege = cpu.cpl.max((segment.selector & 3) as u8);
    conforming || segment.dpl() >= privilege
}

/// Sets or clears ZF.
pub fn set_zf(cpu: &mut Cpu, zf: bool) {
    cpu.exec.rflags = (cpu.exec.rflags & !0x40) | (u64::from(zf) << 6);
}

/// LAR.
pub fn lar<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let selector = selector_operand(cpu, op)?;
    let long = cpu.long_mode();
    let found = inspect(cpu, selector)?.filter(|segment| {
        let kind_fits = segment.is_code_or_data()
            || match segment.kind() {
                2 | 9 | 11 | 12 => true,
                1 | 3 | 4 | 5 => !long,
                _ => false,
            };
        kind_fits && is_visible(cpu, segment)
    });
    if let Some(segment) = found {
        cpu.put(op.dst, T::from_u64(u64::from(segment.attributes & 0xf0ff) << 8));
    }
    set_zf(cpu, found.is_some());
    Ok(())
}

/// LSL.
pub fn lsl<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let selector = selector_operand(cpu, op)?;
    let long = cpu.long_mode();
    let found = inspect(cpu, selector)?.filter(|segment| {
        let kind_fits = segment.is_code_or_data()
            || match segment.kind() {
                2 | 9 | 11 => true,
                1 | 3 => !long,
                _ => false,
            };
        kind_fits && is_visible(cpu, segment)
    });
    if let Some(segment) = found {
        cpu.put(op.dst, T::from_u64(u64::from(segment.limit)));
    }
    set_zf(cpu, found.is_some());
    Ok(())
}

/// VERR (`imm` 0) and VERW (`imm` 1).
pub fn verify(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let selector = selector_operand(cpu, op)?;
    let found = inspect(cpu, selector)?.is_some_and(|segment| {
        let right = if op.imm == 0 {
            !segment.is_code() || segment.kind() & 2 != 0
        } else {
            !segment.is_code() && segment.kind() & 2 != 0
        };
        segment.is_code_or_data() && right && is_visible(cpu, &segment)
    });
    set_zf(cpu, found);
    Ok(())
}

impl Cpu {
    /// Outside 64-bit mode, fails with #GP(0) if RIP is beyond CS's limit.
    pub fn check_code_start(&mut self) -> Exec {
        let limit = self.segments[SegmentRegister::Cs as usize].limit;
        if !self.is_64bit() && self.exec.rip > u64::from(limit) { self.gp0() } else { Ok(()) }
    }

    /// Whether the whole block at RIP is within CS's limit. Fails with #GP(0) unless its first instruction is.
    pub fn check_code_limit(&mut self, ops: &[Op]) -> Result<bool, Fault> {
        let limit = self.segments[SegmentRegister::Cs as usize].limit;
        let rip = self.exec.rip;
        let fits = |op: &Op| rip.wrapping_add(u64::from(op.end)).wrapping_sub(1) <= u64::from(limit);
        if limit == u32::MAX || ops.last().is_none_or(fits) {
            return Ok(true);
        }
        if ops.first().is_some_and(fits) { Ok(false) } else { self.gp0() }
    }

    /// Fails with #UD in real mode and virtual-8086 mode.
    pub fn require_protected(&mut self) -> Exec {
        if self.has_real_segments() { self.ud() } else { Ok(()) }
    }

    /// Fails with #GP(0) where UMIP keeps user mode from system registers.
    pub fn check_umip(&mut self) -> Exec {
        if self.cpl > 0 && self.cr4.contains(viv_arch::Cr4::UMIP) { self.gp0() } else { Ok(()) }
    }
}
