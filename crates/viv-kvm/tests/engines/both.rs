//! The two engines, side by side.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use viv_arch::state::RunState;
use viv_arch::{Segment, VcpuState, msr, xsave};
use viv_engine::time::ManualClock;
use viv_engine::{Engine, GuestMemory, memory};
use viv_kvm::KvmEngine;
use viv_soft::SoftEngine;

use crate::machine::*;

/// Says what a test leaves out, past the capture of its output.
fn not_tested(what: &str) {
    // Nobody is told if nobody reads it.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}

/// This host's KVM. Without one, whoever runs the tests is told what was not tested.
pub fn kvm() -> Option<&'static KvmEngine> {
    static KVM: OnceLock<Option<KvmEngine>> = OnceLock::new();
    KVM.get_or_init(|| match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(error) => {
            not_tested(&error.to_string());
            None
        }
    })
    .as_ref()
}

/// A machine on an engine.
pub fn machine(engine: &dyn Engine) -> Machine {
    machine_of(engine, 1)
}

/// A machine that can have so many processors, and has the first.
pub fn machine_of(engine: &dyn Engine, vcpus: u32) -> Machine {
    machine_with(engine, vcpus, None)
}

fn machine_with(engine: &dyn Engine, vcpus: u32, rom: Option<&GuestMemory>) -> Machine {
    let memory = memory::allocate(RAM_SIZE).unwrap();
    Machine::on_engine(engine, memory, rom.cloned(), vcpus, Arc::new(ManualClock::default()))
}

/// Whether guests' kernel mode runs on the processor. Otherwise says that `what` was not tested.
pub fn on_hardware(what: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let found = text.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    if !found {
        not_tested(&format!("{what}: /dev/kvm is not backed by hardware here"));
    }
    found
}

/// Runs the guest that `setup` prepares on both engines: they must come to the same, instruction for instruction. Gives
/// what they came to.
#[track_caller]
pub fn compare(setup: impl Fn(&mut Machine)) -> Option<Outcome> {
    let (soft, kvm) = run_both(None, setup)?;
    assert_eq!(soft.briefs(), kvm.briefs(), "events on soft and on kvm");
    assert_eq!(soft.events, kvm.events, "events on soft and on kvm");
    Some(kvm)
}

/// As [`compare`], for guests that interrupts reach some instructions sooner or later: their order counts.
#[track_caller]
pub fn compare_order(setup: impl Fn(&mut Machine)) {
    if let Some((soft, kvm)) = run_both(None, setup) {
        let vectors =
            [&soft, &kvm].map(|outcome| outcome.events.iter().map(|event| event.vector).collect::<Vec<_>>());
        assert_eq!(vectors[0], vectors[1], "interrupts on soft and on kvm");
    }
}

/// As [`compare`], for a machine with read-only memory.
#[track_caller]
pub fn compare_with_rom(start: u64, content: &[u8], setup: impl Fn(&mut Machine)) {
    let rom = memory::read_only(start, content).unwrap();
    if let Some((soft, kvm)) = run_both(Some(&rom), setup) {
        assert_eq!(soft.events, kvm.events, "events on soft and on kvm");
    }
}

#[track_caller]
fn run_both(rom: Option<&GuestMemory>, setup: impl Fn(&mut Machine)) -> Option<(Outcome, Outcome)> {
    let engines: [&dyn Engine; 2] = [&SoftEngine::default(), kvm()?];
    let [(soft, soft_machine), (kvm, kvm_machine)] = engines.map(|engine| {
        let mut machine = machine_with(engine, 1, rom);
        setup(&mut machine);
        (machine.run_to_stop(), machine)
    });
    let accesses =
        [&soft_machine, &kvm_machine].map(|machine| machine.platform.accesses.lock().unwrap().clone());
    assert_eq!(accesses[0], accesses[1], "device accesses on soft and on kvm");
    let ended = [&soft_machine, &kvm_machine].map(|machine| {
        let mut ended = machine.platform.ended.lock().unwrap().clone();
        // A vCPU that is stopped may say it again.
        ended.dedup();
        ended
    });
    assert_eq!(ended[0], ended[1], "ends of interrupts on soft and on kvm");
    assert_same(&soft.state, &kvm.state);
    for at in [DATA, USER_DATA] {
        assert!(
            soft_machine.read_bytes(at, 0x4000) == kvm_machine.read_bytes(at, 0x4000),
            "memory at {at:#x}"
        );
    }
    Some((soft, kvm))
}

/// A state less what time changes, and what processors are free to do in their own ways.
pub fn comparable(state: &VcpuState) -> VcpuState {
    let mut state = VcpuState { tsc: 0, apic: Vec::new(), ..state.clone() };
    // Hosts have some of them only.
    state.msrs.retain(|entry| matches!(entry.0, msr::IA32_STAR..=msr::IA32_TSC_AUX | msr::IA32_SYSENTER_CS));
    // Of a segment that cannot be used, nothing counts but that.
    for segment in state.segments.iter_mut().filter(|segment| !segment.is_usable()) {
        *segment = Segment { attributes: Segment::UNUSABLE, ..Segment::default() };
    }
    // Which components are in their initial state, a processor finds out when it likes; what the area then holds of them
    // is left over.
    let present = state.xsave[xsave::XSTATE_BV];
    if u64::from(present) & xsave::SSE == 0 {
        state.xsave[xsave::XMM0..xsave::XSTATE_BV].fill(0);
    }
    if u64::from(present) & xsave::AVX == 0 {
        state.xsave[xsave::AVX_OFFSET..].fill(0);
    }
    let (header, mask) = (xsave::XSTATE_BV..xsave::HEADER_END, xsave::MXCSR_MASK..xsave::MXCSR_MASK + 4);
    state.xsave[header].fill(0);
    state.xsave[mask].fill(0);
    // A guest that has stopped itself may have gone on to the HLT behind.
    (state.rip, state.run_state) = (0, RunState::Running);
    state
}

/// Compares two states part by part, so that a difference can be seen.
#[track_caller]
pub fn assert_same(left: &VcpuState, right: &VcpuState) {
    let (left, right) = (comparable(left), comparable(right));
    assert_eq!((left.gpr, left.rflags), (right.gpr, right.rflags), "general registers");
    assert_eq!(left.segments, right.segments, "segment registers");
    assert_eq!((left.cr0, left.cr2, left.cr3, left.cr4), (right.cr0, right.cr2, right.cr3, right.cr4));
    assert_eq!((left.debug, &left.msrs), (right.debug, &right.msrs), "debug registers, MSRs");
    let differ: Vec<_> =
        (left.xsave.iter().zip(&right.xsave).enumerate()).filter(|(_, (a, b))| a != b).collect();
    assert!(differ.is_empty(), "XSAVE area: {differ:?}");
    assert_eq!(left, right);
}
