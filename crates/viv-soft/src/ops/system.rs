//! System instructions: control and debug registers, TLB, CPUID, MSRs, time, HLT and interrupt flags.

use viv_arch::{Cr0, Cr4, Efer, Gpr, Rflags, SegmentRegister, paging, xsave};

use crate::cpu::{Cpu, Exec, Shadow};
use crate::debug::{DR6_BD, DR7_GD};
use crate::op::Op;
use crate::ops::virtual86::InterruptFlag;
use crate::ram::Int;

const RAX: u8 = 0;
const RCX: u8 = Gpr::Rcx as u8 * 8;
const RDX: u8 = Gpr::Rdx as u8 * 8;
const RBX: u8 = Gpr::Rbx as u8 * 8;

/// CR0 bits that can be set.
const CR0_VALID: Cr0 = Cr0::from_bits_truncate(0xe005_003f);
/// CR4 bits that can be set: what the CPUID model offers.
const CR4_VALID: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::PCIDE)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);
/// Bit of a value loaded into CR3: the TLB need not be emptied.
const CR3_NO_FLUSH: u64 = 1 << 63;
const CR3_PCID: u64 = 0xfff;

impl Cpu {
    /// The low half of EDX:EAX and the like.
    fn edx_eax(&self) -> u64 {
        u64::from(self.get::<u32>(RDX)) << 32 | u64::from(self.get::<u32>(RAX))
    }

    fn put_edx_eax(&mut self, value: u64) {
        self.put(RAX, value as u32);
        self.put(RDX, (value >> 32) as u32);
    }

    fn write_cr0(&mut self, value: u64) -> Exec {
        // Bits of the lower half that are not defined are ignored; ET is always one.
        let new = (Cr0::from_bits_truncate(value) & CR0_VALID) | Cr0::ET;
        let bad = value >> 32 != 0
            || (new.contains(Cr0::PG) && !new.contains(Cr0::PE))
            || (new.contains(Cr0::NW) && !new.contains(Cr0::CD))
            || (!new.contains(Cr0::PG) && self.is_64bit());
        if bad {
            return self.gp0();
        }
        let old = self.cr0;
        let mut efer = self.efer;
        if new.contains(Cr0::PG) && !old.contains(Cr0::PG) && self.efer.contains(Efer::LME) {
            if !self.cr4.contains(Cr4::PAE) || self.segments[1].attributes & viv_arch::Segment::LONG != 0 {
                return self.gp0();
            }
            efer |= Efer::LMA;
        }
        if !new.contains(Cr0::PG) && old.contains(Cr0::PG) {
            if self.cr4.contains(Cr4::PCIDE) {
                return self.gp0();
            }
            efer -= Efer::LMA;
        }
        if (old ^ new).intersects(Cr0::CD | Cr0::NW | Cr0::PG) {
            self.load_pdptes(new, self.cr3, self.cr4, efer.contains(Efer::LMA))?;
        }
        self.efer = efer;
        self.cr0 = new;
        if (old ^ new).intersects(Cr0::PG | Cr0::WP | Cr0::PE) {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// Loads CR3 as MOV does.
    pub fn write_cr3(&mut self, value: u64) -> Exec {
        let identifies = self.cr4.contains(Cr4::PCIDE);
        let flush = !identifies || value & CR3_NO_FLUSH == 0;
        let value = if identifies { value & !CR3_NO_FLUSH } else { value };
        if self.long_mode() && value & self.beyond_physical() != 0 {
            return self.gp0();
        }
        self.load_pdptes(self.cr0, value, self.cr4, self.long_mode())?;
        let pcid = |cr3: u64| if identifies { (cr3 & CR3_PCID) as u16 } else { 0 };
        let (from, to) = (pcid(self.cr3), pcid(value));
        self.cr3 = value;
        let ram = &*self.ram;
        self.tlb.change_space(from, to, flush, |frame| ram.is_plain(frame));
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Exec {
        let new = Cr4::from_bits_retain(value);
        if !CR4_VALID.contains(new) || (self.long_mode() && !new.contains(Cr4::PAE)) {
            return self.gp0();
        }
        if new.contains(Cr4::PCIDE)
            && !self.cr4.contains(Cr4::PCIDE)
            && (!self.long_mode() || self.cr3 & 0xfff != 0)
        {
            return self.gp0();
        }
        if (self.cr4 ^ new).intersects(Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP) {
            self.load_pdptes(self.cr0, self.cr3, new, self.long_mode())?;
        }
        self.cr4 = new;
        self.tlb.flush_all();
        self.update_mmu_mode();
        Ok(())
    }

    /// Fails with #UD where SSE cannot be used, with #NM where it is not loaded.
    pub fn check_sse(&mut self) -> Exec {
        if self.cr0.contains(Cr0::EM) || !self.cr4.contains(Cr4::OSFXSR) {
            return self.ud();
        }
        self.check_task_switched()
    }

    /// Fails with #UD where AVX cannot be used, with #NM where it is not loaded.
    pub fn check_avx(&mut self) -> Exec {
        let state = xsave::SSE | xsave::AVX;
        if !self.cr4.contains(Cr4::OSXSAVE)
            || self.xcr0 & state != state
            || !self.cr0.contains(Cr0::PE)
            || self.flag(Rflags::VM)
        {
            return self.ud();
        }
        self.check_task_switched()
    }

    /// Fails with #NM after a task switch.
    pub fn check_task_switched(&mut self) -> Exec {
        if self.cr0.contains(Cr0::TS) {
            return self.raise(viv_arch::Exception::new(viv_arch::Vector::DeviceNotAvailable));
        }
        Ok(())
    }
}

/// MOV from a control register, `src` its number.
pub fn mov_from_control<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let value = match op.src {
        0 => cpu.cr0.bits(),
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4.bits(),
        8 => cpu.apic.cr8(),
        _ => return cpu.ud(),
    };
    cpu.put(op.dst, T::from_u64(value));
    Ok(())
}

/// MOV to a control register, `dst` its number.
pub fn mov_to_control<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let value = cpu.get::<T>(op.src).to_u64();
    match op.dst {
        0 => cpu.write_cr0(value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => cpu.write_cr3(value),
        4 => cpu.write_cr4(value),
        8 if value < 16 => {
            cpu.apic.set_cr8(value);
            cpu.attend();
            Ok(())
        }
        8 => cpu.gp0(),
        _ => cpu.ud(),
    }
}

fn debug_register(cpu: &mut Cpu, number: u8) -> Result<u8, crate::cpu::Fault> {
    let number = if matches!(number, 4 | 5) {
        if cpu.cr4.contains(Cr4::DE) {
            return cpu.ud();
        }
        number + 2
    } else {
        number
    };
    cpu.require_cpl0()?;
    if cpu.debug.dr7() & DR7_GD != 0 {
        let exception = cpu.debug_exception(DR6_BD);
        return cpu.raise(exception);
    }
    Ok(number)
}

pub fn mov_from_debug<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = match debug_register(cpu, op.src)? {
        n @ 0..=3 => cpu.debug.addresses()[n as usize],
        6 => cpu.debug.dr6,
        7 => cpu.debug.dr7(),
        _ => return cpu.ud(),
    };
    cpu.put(op.dst, T::from_u64(value));
    Ok(())
}

pub fn mov_to_debug<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let number = debug_register(cpu, op.dst)?;
    let value = cpu.get::<T>(op.src).to_u64();
    match number {
        0..=3 => cpu.debug.addresses_mut()[number as usize] = value,
        6 | 7 if value >> 32 != 0 => return cpu.gp0(),
        6 => cpu.debug.set_dr6(value),
        7 => cpu.debug.set_dr7(value),
        _ => return cpu.ud(),
    }
    // Watched pages are kept out of the TLB.
    cpu.tlb.flush_all();
    cpu.attend();
    Ok(())
}

pub fn clts(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.require_cpl0()?;
    cpu.cr0 -= Cr0::TS;
    Ok(())
}

/// LMSW from a register or, with `aux` 1, memory.
pub fn lmsw(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let value = if op.aux == 1 {
        let address = cpu.linear(op, 2, false)?;
        cpu.load::<u16>(address)?
    } else {
        cpu.get::<u16>(op.src)
    };
    // PE can be set but not cleared.
    let old = cpu.cr0.bits();
    cpu.write_cr0((old & !0xe) | u64::from(value & 0xf))
}

pub fn smsw_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_umip()?;
    let value = cpu.cr0.bits();
    cpu.put(op.dst, T::from_u64(value));
    Ok(())
}

pub fn smsw_m(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_umip()?;
    let address = cpu.linear(op, 2, true)?;
    let value = cpu.cr0.bits() as u16;
    cpu.store(address, value)
}

pub fn hlt(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.require_cpl0()?;
    cpu.halted = true;
    cpu.attend();
    Ok(())
}

pub fn cli(cpu: &mut Cpu, _: &Op) -> Exec {
    let flag = match cpu.interrupt_flag()? {
        InterruptFlag::Real => Rflags::IF,
        InterruptFlag::Virtual => Rflags::VIF,
    };
    cpu.exec.rflags &= !flag.bits();
    Ok(())
}

pub fn sti(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.interrupt_flag()? == InterruptFlag::Virtual {
        cpu.check_virtual_flags(Rflags::IF.bits())?;
        cpu.exec.rflags |= Rflags::VIF.bits();
    } else if !cpu.flag(Rflags::IF) {
        cpu.exec.rflags |= Rflags::IF.bits();
        cpu.shadow = Shadow::Interrupts;
        cpu.attend();
    }
    Ok(())
}

/// CLAC, and STAC with `aux` 1.
pub fn change_ac(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.cpl != 0 {
        return cpu.ud();
    }
    if op.aux == 1 {
        cpu.exec.rflags |= Rflags::AC.bits();
    } else {
        cpu.exec.rflags &= !Rflags::AC.bits();
    }
    cpu.update_mmu_mode();
    Ok(())
}

pub fn invlpg(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let offset = cpu.effective(op);
    let address = match op.address {
        crate::op::AddressKind::Flat => offset,
        // INVLPG checks no segment.
        crate::op::AddressKind::Segmented32 | crate::op::AddressKind::Segmented16 => {
            offset.wrapping_add(cpu.segments[op.segment as usize].base) & 0xffff_ffff
        }
        kind => cpu.linear_slow(kind, op.segment, offset, 1, false)?,
    };
    cpu.tlb.flush_page(address);
    Ok(())
}

/// INVPCID. Of an address space that is not in use all is forgotten where one page is to be.
pub fn invpcid<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_cpl0()?;
    let kind = cpu.get::<T>(op.dst).to_u64();
    let address = cpu.linear(op, 16, false)?;
    let pcid = cpu.load::<u64>(address)?;
    let linear = cpu.load::<u64>(address.wrapping_add(8))?;
    if kind > 3 || (kind < 2 && pcid >> 12 != 0) || (kind == 0 && !paging::is_canonical(linear)) {
        return cpu.gp0();
    }
    let present = if cpu.cr4.contains(Cr4::PCIDE) { cpu.cr3 & CR3_PCID } else { 0 };
    match kind {
        0 if pcid == present => cpu.tlb.flush_page(linear),
        1 if pcid == present => cpu.tlb.flush_non_global(),
        0 | 1 => cpu.tlb.flush_space(pcid as u16),
        2 => cpu.tlb.flush_all(),
        _ => {
            cpu.tlb.flush_spaces();
            cpu.tlb.flush_non_global();
        }
    }
    Ok(())
}

/// WBINVD and INVD: caches are coherent here.
pub fn write_back(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.require_cpl0()
}

/// CLFLUSH, CLFLUSHOPT, CLWB: checked as a read of a byte.
pub fn flush_line(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, 1, false)?;
    cpu.load::<u8>(address)?;
    Ok(())
}

pub fn cpuid(cpu: &mut Cpu, _: &Op) -> Exec {
    let function = cpu.get::<u32>(RAX);
    let index = cpu.get::<u32>(RCX);
    let mut leaf = cpu.shared.cpuid.get(function, index);
    match function {
        1 => {
            leaf.ebx |= (cpu.index & 0xff) << 24;
            if cpu.cr4.contains(Cr4::OSXSAVE) {
                leaf.ecx |= 1 << 27;
            }
            if !cpu.apic.is_enabled() {
                leaf.edx &= !(1 << 9);
            }
        }
        0xb => leaf.edx = cpu.index,
        0xd if index == 0 && cpu.xcr0 & xsave::AVX == 0 => leaf.ebx = xsave::HEADER_END as u32,
        _ => {}
    }
    cpu.put(RAX, leaf.eax);
    cpu.put(RBX, leaf.ebx);
    cpu.put(RCX, leaf.ecx);
    cpu.put(RDX, leaf.edx);
    Ok(())
}

fn check_tsc(cpu: &mut Cpu) -> Exec {
    if cpu.cr4.contains(Cr4::TSD) { cpu.require_cpl0() } else { Ok(()) }
}

pub fn rdtsc(cpu: &mut Cpu, _: &Op) -> Exec {
    check_tsc(cpu)?;
    let tsc = cpu.tsc.now();
    cpu.put_edx_eax(tsc);
    Ok(())
}

pub fn rdtscp(cpu: &mut Cpu, _: &Op) -> Exec {
    check_tsc(cpu)?;
    let tsc = cpu.tsc.now();
    cpu.put_edx_eax(tsc);
    let aux = cpu.msrs.tsc_aux;
    cpu.put(RCX, aux as u32);
    Ok(())
}

pub fn rdpid(cpu: &mut Cpu, op: &Op) -> Exec {
    let aux = cpu.msrs.tsc_aux;
    cpu.put(op.dst, u64::from(aux as u32));
    Ok(())
}

/// RDPMC: there are no counters.
pub fn rdpmc(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.gp0()
}

pub fn rdmsr(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.require_cpl0()?;
    let number = cpu.get::<u32>(RCX);
    let value = cpu.read_msr(number)?;
    cpu.put_edx_eax(value);
    Ok(())
}

pub fn wrmsr(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.require_cpl0()?;
    let number = cpu.get::<u32>(RCX);
    let value = cpu.edx_eax();
    cpu.write_msr(number, value)
}

pub fn swapgs(cpu: &mut Cpu, _: &Op) -> Exec {
    if !cpu.is_64bit() {
        return cpu.ud();
    }
    cpu.require_cpl0()?;
    let gs = &mut cpu.segments[SegmentRegister::Gs as usize];
    std::mem::swap(&mut gs.base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}

pub fn xgetbv(cpu: &mut Cpu, _: &Op) -> Exec {
    if !cpu.cr4.contains(Cr4::OSXSAVE) {
        return cpu.ud();
    }
    let value = match cpu.get::<u32>(RCX) {
        0 => cpu.xcr0,
        1 => cpu.xcr0 & cpu.components_in_use(),
        _ => return cpu.gp0(),
    };
    cpu.put_edx_eax(value);
    Ok(())
}

pub fn xsetbv(cpu: &mut Cpu, _: &Op) -> Exec {
    if !cpu.cr4.contains(Cr4::OSXSAVE) {
        return cpu.ud();
    }
    cpu.require_cpl0()?;
    let value = cpu.edx_eax();
    let bad = cpu.get::<u32>(RCX) != 0
        || value & !xsave::SUPPORTED != 0
        || value & xsave::X87 == 0
        || (value & xsave::AVX != 0 && value & xsave::SSE == 0);
    if bad {
        return cpu.gp0();
    }
    cpu.xcr0 = value;
    Ok(())
}

/// RDFSBASE and RDGSBASE (`src` is the segment).
pub fn read_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.cr4.contains(Cr4::FSGSBASE) || !cpu.is_64bit() {
        return cpu.ud();
    }
    let base = cpu.segments[op.src as usize].base;
    cpu.put(op.dst, T::from_u64(base));
    Ok(())
}

/// WRFSBASE and WRGSBASE (`src` is the segment).
pub fn write_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.cr4.contains(Cr4::FSGSBASE) || !cpu.is_64bit() {
        return cpu.ud();
    }
    let base = cpu.get::<T>(op.dst).to_u64();
    if !paging::is_canonical(base) {
        return cpu.gp0();
    }
    cpu.segments[op.src as usize].base = base;
    Ok(())
}

/// PAUSE. Now and then it lets another thread of the host run, for the lock's holder may be waiting for this core.
pub fn pause(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.frame.pauses -= 1;
    if cpu.frame.pauses < 0 {
        cpu.frame.pauses = cpu.shared.patience();
        std::thread::yield_now();
    }
    Ok(())
}

pub fn undefined(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.ud()
}
