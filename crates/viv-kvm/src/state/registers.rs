//! General, segment, control and debug registers.

use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use viv_arch::state::AcceptedEvent;
use viv_arch::{Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, VcpuState, Vector, xsave};
use viv_engine::EngineError;

use crate::error;

/// Reads them into `state`; gives IA32_APIC_BASE.
pub(super) fn save(vcpu: &VcpuFd, state: &mut VcpuState) -> Result<u64, EngineError> {
    let regs = vcpu.get_regs().map_err(error::host("read a vCPU's general registers"))?;
    let sregs = vcpu.get_sregs().map_err(error::host("read a vCPU's system registers"))?;
    let xcrs = vcpu.get_xcrs().map_err(error::host("read a vCPU's XCR0"))?;
    let debug = vcpu.get_debug_regs().map_err(error::host("read a vCPU's debug registers"))?;
    state.gpr = general(&regs);
    state.rip = regs.rip;
    state.rflags = Rflags::from_bits_retain(regs.rflags);
    state.segments = [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs].map(segment);
    state.ldtr = segment(sregs.ldt);
    state.tr = segment(sregs.tr);
    state.gdtr = DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit };
    state.idtr = DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit };
    state.cr0 = Cr0::from_bits_retain(sregs.cr0);
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = Cr4::from_bits_retain(sregs.cr4);
    state.cr8 = sregs.cr8;
    state.efer = Efer::from_bits_retain(sregs.efer);
    state.xcr0 = xcrs.xcrs.iter().find(|xcr| xcr.xcr == 0).map_or(xsave::X87, |xcr| xcr.value);
    let [a0, a1, a2, a3] = debug.db;
    state.debug = [a0, a1, a2, a3, debug.dr6, debug.dr7];
    Ok(sregs.apic_base)
}

/// Writes them.
pub(super) fn load(vcpu: &VcpuFd, state: &VcpuState, base: u64) -> Result<(), EngineError> {
    let [es, cs, ss, ds, fs, gs] = state.segments.map(kvm_form);
    let sregs = kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: kvm_form(state.tr),
        ldt: kvm_form(state.ldtr),
        gdt: kvm_dtable { base: state.gdtr.base, limit: state.gdtr.limit, ..kvm_dtable::default() },
        idt: kvm_dtable { base: state.idtr.base, limit: state.idtr.limit, ..kvm_dtable::default() },
        cr0: state.cr0.bits(),
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        cr8: state.cr8,
        efer: state.efer.bits(),
        apic_base: base,
        interrupt_bitmap: [0; 4],
    };
    let refused = |what: &str| EngineError::BadState(format!("KVM does not take its {what}"));
    vcpu.set_sregs(&sregs).map_err(|_| refused("system registers"))?;
    vcpu.set_regs(&kvm_general(state)).map_err(|_| refused("general registers"))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0 | xsave::X87, ..kvm_xcr::default() };
    vcpu.set_xcrs(&xcrs).map_err(|_| refused("XCR0"))?;
    let [a0, a1, a2, a3, dr6, dr7] = state.debug;
    let debug = kvm_debugregs { db: [a0, a1, a2, a3], dr6, dr7, ..kvm_debugregs::default() };
    vcpu.set_debug_regs(&debug).map_err(|_| refused("debug registers"))
}

fn general(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

fn kvm_general(state: &VcpuState) -> kvm_regs {
    let gpr = |register: Gpr| state.gpr[register as usize];
    kvm_regs {
        rax: gpr(Gpr::Rax),
        rbx: gpr(Gpr::Rbx),
        rcx: gpr(Gpr::Rcx),
        rdx: gpr(Gpr::Rdx),
        rsi: gpr(Gpr::Rsi),
        rdi: gpr(Gpr::Rdi),
        rsp: gpr(Gpr::Rsp),
        rbp: gpr(Gpr::Rbp),
        r8: gpr(Gpr::R8),
        r9: gpr(Gpr::R9),
        r10: gpr(Gpr::R10),
        r11: gpr(Gpr::R11),
        r12: gpr(Gpr::R12),
        r13: gpr(Gpr::R13),
        r14: gpr(Gpr::R14),
        r15: gpr(Gpr::R15),
        rip: state.rip,
        rflags: rflags(state),
    }
}

/// RFLAGS as the handler of an accepted event is to see it: faults push RF (SDM vol. 3, 19.3.1.1), which KVM sets when it
/// raises an exception, not when it goes on with one.
fn rflags(state: &VcpuState) -> u64 {
    let is_fault = matches!(state.pending.accepted, Some(AcceptedEvent::Exception(exception))
        if !matches!(exception.vector, Vector::Debug | Vector::Breakpoint | Vector::Overflow));
    let resume = if is_fault { Rflags::RF } else { Rflags::empty() };
    (state.rflags | Rflags::RESERVED_1 | resume).bits()
}

/// The bits of [`Segment::attributes`] that KVM has as numbers of their own.
mod shift {
    pub(super) const S: u32 = 4;
    pub(super) const DPL: u32 = 5;
    pub(super) const P: u32 = 7;
    pub(super) const AVL: u32 = 12;
    pub(super) const L: u32 = 13;
    pub(super) const DB: u32 = 14;
    pub(super) const G: u32 = 15;
    pub(super) const UNUSABLE: u32 = 16;
}

fn segment(from: kvm_segment) -> Segment {
    // One that is not present cannot be used, which not every KVM says.
    let unusable = from.unusable | (from.present ^ 1);
    let attributes = u32::from(from.type_)
        | u32::from(from.s) << shift::S
        | u32::from(from.dpl) << shift::DPL
        | u32::from(from.present) << shift::P
        | u32::from(from.avl) << shift::AVL
        | u32::from(from.l) << shift::L
        | u32::from(from.db) << shift::DB
        | u32::from(from.g) << shift::G
        | u32::from(unusable) << shift::UNUSABLE;
    Segment { selector: from.selector, attributes, limit: from.limit, base: from.base }
}

fn kvm_form(from: Segment) -> kvm_segment {
    let bits = |shift: u32, mask: u32| ((from.attributes >> shift) & mask) as u8;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: bits(0, 0xf),
        present: bits(shift::P, 1),
        dpl: bits(shift::DPL, 3),
        db: bits(shift::DB, 1),
        s: bits(shift::S, 1),
        l: bits(shift::L, 1),
        g: bits(shift::G, 1),
        avl: bits(shift::AVL, 1),
        unusable: bits(shift::UNUSABLE, 1),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_back_as_they_were() {
        let unusable = Segment { selector: 0, attributes: Segment::UNUSABLE, limit: 0, base: 0 };
        let tss = Segment { selector: 0x30, attributes: 0x8b, limit: 0x67, base: 0x3000 };
        let flat = Segment::code32(0x1b, 3);
        for one in [unusable, tss, flat, Segment::code64(8, 0), Segment::data(0x23, 3)] {
            assert_eq!(segment(kvm_form(one)), one);
        }
    }
}
