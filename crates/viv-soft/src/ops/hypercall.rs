//! VMCALL and VMMCALL: what a guest asks its host for (Linux, Documentation/virt/kvm/x86/hypercalls.rst).

use viv_arch::Gpr;
use viv_arch::apic::DeliveryMode;

use crate::apic::{Audience, Message};
use crate::cpu::{Cpu, Exec};
use crate::op::Op;

/// KVM_HC_KICK_CPU: RCX is the APIC id of a vCPU that waits in HLT, or is about to.
const KICK_CPU: u64 = 5;
/// KVM_HC_SEND_IPI: RBX and RCX have a bit for each destination, from the APIC id in RDX upwards; RSI is the lower half of
/// the interrupt command register.
const SEND_IPI: u64 = 10;
/// KVM_HC_SCHED_YIELD: the vCPU with the APIC id in RBX should run before this one.
const SCHED_YIELD: u64 = 11;

/// KVM_ENOSYS: there is no such call.
const NO_SUCH_CALL: i64 = -1000;
/// KVM_EPERM: user mode has no calls.
const NOT_PERMITTED: i64 = -1;

/// VMCALL and VMMCALL: RAX is the call's number, then what comes of it.
pub fn hypercall(cpu: &mut Cpu, _: &Op) -> Exec {
    let wide = cpu.is_64bit();
    let argument = |register: Gpr| if wide { cpu.reg(register) } else { cpu.reg(register) & 0xffff_ffff };
    let (number, rbx, rcx, rdx, rsi) =
        (argument(Gpr::Rax), argument(Gpr::Rbx), argument(Gpr::Rcx), argument(Gpr::Rdx), argument(Gpr::Rsi));
    let result = match number {
        _ if cpu.cpl != 0 => NOT_PERMITTED,
        KICK_CPU => {
            cpu.shared.wake(rcx);
            0
        }
        SEND_IPI => {
            let bits = if wide { 64 } else { 32 };
            send_ipi(cpu, u128::from(rbx) | u128::from(rcx) << bits, rdx, rsi)
        }
        SCHED_YIELD => {
            std::thread::yield_now();
            0
        }
        _ => NO_SUCH_CALL,
    };
    cpu.put(Gpr::Rax as u8 * 8, result as u64);
    if !wide {
        cpu.exec.gpr[Gpr::Rax as usize] &= 0xffff_ffff;
    }
    Ok(())
}

/// Sends an interrupt to many; gives the number of those that exist.
fn send_ipi(cpu: &Cpu, destinations: u128, first: u64, icr: u64) -> i64 {
    let Some(mode @ (DeliveryMode::Fixed | DeliveryMode::Nmi)) = DeliveryMode::from_bits((icr >> 8) as u8)
    else {
        return NO_SUCH_CALL;
    };
    let mut sent = 0;
    let mut left = destinations;
    while left != 0 {
        let id = first.saturating_add(left.trailing_zeros().into());
        left &= left - 1;
        if id < cpu.shared.vcpus() as u64 {
            let audience = Audience::Physical(id as u32);
            cpu.shared.interconnect.deliver(&Message { mode, vector: icr as u8, level: false, audience });
            sent += 1;
        }
    }
    sent
}
