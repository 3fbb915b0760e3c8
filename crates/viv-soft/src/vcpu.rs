//! The vCPU: the loop that finds blocks, runs them, and looks for events between them.
#![allow(unsafe_code, reason = "a running block is walked by pointer")]

use std::sync::Arc;

use viv_arch::state::{PendingEvents, RunState};
use viv_arch::{Rflags, SegmentRegister, VcpuState, Vector, msr, xsave};
use viv_engine::{DebugControl, EngineError, Exit, Kick, Platform, Translations, Vcpu};

use crate::apic::{ApicAddress, LocalApic};
use crate::block::{BlockCache, BlockId};
use crate::cpu::{Bitness, Bounce, Cpu, Fault, Pending, Shadow};
use crate::debug::{DebugRegisters, Guards};
use crate::decode::{DecodeError, decode};
use crate::hostexec::{ExecState, FpuState};
use crate::msr::Msrs;
use crate::ops::host::HostCode;
use crate::options::Tier;
use crate::region::CpuRegion;
use crate::steal::StealClock;
use crate::tlb::{Fetched, Tlb};
use crate::translate::Frame;
use crate::tsc::GuestTsc;
use crate::vm::Shared;

use translated::Translated;

#[cfg(any(test, feature = "testing"))]
mod single;
mod step;
mod translated;

const JUMP_CACHE_SIZE: usize = 16384;

/// Where a linear address led to lately.
#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    /// The TLB's generation that it holds for. With a global page it holds until translations of such pages change.
    generation: u64,
    global: bool,
    /// Width and privilege that it holds for.
    key: u8,
    block: BlockId,
}

/// A vCPU of the software engine.
pub struct SoftVcpu {
    cpu: CpuRegion,
    blocks: BlockCache,
    jumps: Box<[Jump; JUMP_CACHE_SIZE]>,
    translated: Translated,
}

// SAFETY: the one pointer in `Cpu` that is not `Send` by itself, `op_end`, is only meaningful while `run` is on the
// stack, and points into the vCPU's own blocks.
unsafe impl Send for SoftVcpu {}

/// What is to be done after events were looked at.
enum Next {
    /// Run blocks.
    Run,
    /// Run one instruction and look again.
    Step,
    /// Look again.
    Look,
    /// Return from [`Vcpu::run`].
    Exit(Exit),
}

impl SoftVcpu {
    /// vCPU `index` after power-on.
    pub fn new(
        index: u32,
        shared: Arc<Shared>,
        address: Arc<ApicAddress>,
        platform: Arc<dyn Platform>,
    ) -> Result<Self, EngineError> {
        let physical_bits = shared.cpuid.physical_bits();
        let apic = LocalApic::new(index, shared.timebase.khz(), physical_bits, address);
        let host = HostCode::new().map_err(|error| EngineError::Host {
            action: "map memory for generated code",
            source: std::io::Error::other(error),
        })?;
        let reset = VcpuState::reset();
        let inbox = Arc::clone(shared.inbox(index));
        let make = |tables| Cpu {
            exec: ExecState::default(),
            frame: Frame::default(),
            op_end: std::ptr::null(),
            tlb: Tlb::new(tables),
            ram: Arc::clone(&shared.ram),
            segments: reset.segments,
            ldtr: reset.ldtr,
            tr: reset.tr,
            gdtr: reset.gdtr,
            idtr: reset.idtr,
            cr0: reset.cr0,
            cr2: 0,
            cr3: 0,
            cr4: reset.cr4,
            xcr0: reset.xcr0,
            efer: reset.efer,
            msrs: Msrs::reset(),
            debug: DebugRegisters::default(),
            guards: Guards::default(),
            cpl: 0,
            bitness: Bitness::Bits16,
            pending: None,
            shadow: Shadow::None,
            stepping: false,
            halted: false,
            woken: false,
            nmi_blocked: false,
            nmi_pending: false,
            wait_for_sipi: false,
            accepted: None,
            apic,
            tsc: shared.tsc.get(),
            steal: StealClock::default(),
            armed: None,
            host,
            platform,
            shared,
            index,
            bounce: Box::new(Bounce([0; 1024])),
            retired: 0,
            counts: Translations::default(),
            torturer: None,
            pdptes: None,
            address_lines: u64::MAX,
            physical_bits,
        };
        let mut cpu = CpuRegion::new(inbox.attention_byte(), make)
            .map_err(|source| EngineError::Host { action: "map memory for a vCPU", source })?;
        let jump = Jump { linear: 0, generation: 0, global: false, key: 0, block: 0 };
        let translated = Translated::new(&mut cpu)?;
        let jumps = Box::new([jump; JUMP_CACHE_SIZE]);
        let mut vcpu = Self { cpu, blocks: BlockCache::default(), jumps, translated };
        let run_state = if index == 0 { RunState::Running } else { RunState::WaitForSipi };
        vcpu.load_state(&VcpuState { run_state, ..reset }, vcpu.cpu.tsc)?;
        Ok(vcpu)
    }

    /// The block at RIP.
    #[inline]
    fn find(&mut self) -> Result<BlockId, Fault> {
        let cpu = &mut *self.cpu;
        let linear = cpu.code_address();
        let key = u8::from(cpu.cpl == 3) << 2 | cpu.bitness as u8;
        let slot = (linear ^ (linear >> 13)) as usize & (JUMP_CACHE_SIZE - 1);
        let jump = self.jumps[slot];
        let holds = if jump.global {
            jump.generation >= cpu.tlb.global_generation()
        } else {
            jump.generation == cpu.tlb.generation()
        };
        if jump.linear == linear && jump.key == key && holds && self.blocks.get(jump.block).is_current() {
            return Ok(jump.block);
        }
        let (block, global) = self.find_slow(linear)?;
        // Making room may have moved the generation.
        let generation = self.cpu.tlb.generation();
        self.jumps[slot] = Jump { linear, generation, global, key, block };
        Ok(block)
    }

    /// The block at `linear`, and whether it lies in a global page.
    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, linear: u64) -> Result<(BlockId, bool), Fault> {
        let cpu = &mut *self.cpu;
        cpu.check_code_start()?;
        let Fetched { phys, global } = cpu.translate_fetch(linear)?;
        if let Some(id) = self.blocks.find(phys, cpu.bitness) {
            let Some(second) = self.blocks.get(id).second.as_ref().map(|second| second.phys) else {
                return Ok((id, global));
            };
            if cpu.translate_fetch(cpu.next_code_page(linear))?.phys == second {
                return Ok((id, false));
            }
            // The block will be replaced, and remembered jumps may lead to the one that was.
            cpu.tlb.next_generation();
        }
        if self.blocks.is_full(self.translated.instructions()) {
            self.drop_code();
        }
        let block = match decode(&mut self.cpu, linear, phys, &mut self.blocks.room) {
            Ok(block) => block,
            Err(DecodeError::Fault) => return Err(Fault),
            Err(DecodeError::Full(_)) => {
                self.drop_code();
                match decode(&mut self.cpu, linear, phys, &mut self.blocks.room) {
                    Ok(block) => block,
                    Err(DecodeError::Fault) => return Err(Fault),
                    Err(DecodeError::Full(error)) => {
                        self.cpu.pending = Some(Pending::Unsupported(error.to_string()));
                        return Err(Fault);
                    }
                }
            }
        };
        self.cpu.counts.blocks += 1;
        let global = global && block.second.is_none();
        Ok((self.blocks.insert(phys, self.cpu.bitness, block), global))
    }

    /// Drops everything decoded.
    pub(crate) fn drop_code(&mut self) {
        self.blocks.clear();
        self.translated.clear();
        self.cpu.host.clear();
        // Blocks are numbered afresh, so no remembered jump may be taken.
        self.cpu.tlb.next_generation();
    }

    /// Runs a block, or its first instruction only.
    #[inline]
    fn execute(&mut self, id: BlockId, single: bool) -> Result<(), Fault> {
        let cpu = &mut *self.cpu;
        let block = self.blocks.get(id);
        let guards = block.guards();
        let is_cut = single || (!cpu.is_64bit() && !cpu.check_code_limit(&block.ops[guards..])?);
        let range = block.ops.as_ptr_range();
        // SAFETY: a block has one instruction at least, behind its guard if it has one.
        cpu.op_end = if is_cut { unsafe { range.start.add(guards + 1) } } else { range.end };
        // SAFETY: as above. Whoever runs single instructions has looked at breakpoints.
        let first = if single { unsafe { range.start.add(guards) } } else { range.start };
        let mut at = first;
        loop {
            // SAFETY: `at` is inside the block, which stays as it is while it runs: nothing that handlers do
            // reaches the block cache.
            let op = unsafe { &*at };
            if (op.run)(cpu, op).is_err() {
                cpu.stop_at(op);
                return Err(Fault);
            }
            // SAFETY: at most one past the end.
            at = unsafe { at.add(1) };
            if at >= cpu.op_end {
                break;
            }
        }
        // SAFETY: one instruction was run, so there is one before `at`.
        let last = unsafe { &*at.sub(1) };
        // SAFETY: both are within the block.
        cpu.retired += unsafe { at.offset_from(first) } as u64;
        if !last.sets_rip {
            cpu.exec.rip = cpu.next_rip(last);
        }
        Ok(())
    }

    /// Deals with what is pending after a fault, RIP being right.
    fn resolve(&mut self) -> Option<Exit> {
        let cpu = &mut *self.cpu;
        match cpu.pending.take()? {
            Pending::Exception(exception) | Pending::InNewTask(exception) => {
                match cpu.deliver_exception(exception) {
                    Ok(()) => None,
                    Err(Fault) => self.resolve(),
                }
            }
            Pending::Restart => {
                // Its breakpoint has been dealt with; handlers see RF set.
                cpu.exec.rflags |= Rflags::RF.bits();
                None
            }
            Pending::TripleFault => Some(Exit::TripleFault),
            Pending::Debug(stop) => Some(Exit::Debug(stop)),
            Pending::Unsupported(what) => {
                let text = format!("{what} (at RIP {:#x}, CR3 {:#x})", cpu.exec.rip, cpu.cr3);
                Some(Exit::Unsupported(text))
            }
        }
    }

    /// Runs blocks, and looks for events between them, until something ends it.
    fn run_blocks(&mut self) -> Exit {
        let inbox = Arc::clone(self.cpu.shared.inbox(self.cpu.index));
        loop {
            if inbox.attention() {
                self.translated.forget_edge();
                match self.events() {
                    Next::Run => {}
                    Next::Look => continue,
                    Next::Step => {
                        if let Some(exit) = self.step() {
                            return exit;
                        }
                        continue;
                    }
                    Next::Exit(exit) => return exit,
                }
            }
            let result = self.find().and_then(|id| self.advance(id));
            if result.is_err() {
                self.translated.forget_edge();
                if let Some(exit) = self.resolve() {
                    return exit;
                }
            }
        }
    }

    /// Looks at what has come in since the last time, and at what waits.
    #[cold]
    #[inline(never)]
    fn events(&mut self) -> Next {
        let cpu = &mut *self.cpu;
        let taken = cpu.shared.inbox(cpu.index).take();
        if taken.flush_tlb {
            let round = cpu.shared.flush_round(cpu.index);
            cpu.address_lines = cpu.shared.address_lines();
            cpu.tlb.flush_all();
            cpu.shared.flushed(cpu.index, round);
        }
        if taken.init {
            self.init();
        }
        let cpu = &mut *self.cpu;
        if !taken.init {
            cpu.apic.accept_all(taken.edge, taken.level);
            cpu.nmi_pending |= taken.nmi;
        }
        if let Some(vector) = taken.sipi
            && cpu.wait_for_sipi
        {
            start_up(cpu, vector);
        }
        cpu.woken |= taken.wake;
        if taken.timer {
            cpu.publish_steal_time();
            cpu.armed = None;
            cpu.apic.timer_tick(cpu.tsc.now());
            cpu.arm_timer();
        }
        if let Some(next) = self.deliver_hits() {
            if taken.kick {
                // A saved state has no room for a trap that is due.
                self.cpu.shared.inbox(self.cpu.index).kick();
            }
            return next;
        }
        let cpu = &mut *self.cpu;
        if let Some(stop) = cpu.debug.outside.take_stop() {
            if taken.kick {
                cpu.shared.inbox(cpu.index).kick();
            }
            cpu.attend();
            return Next::Exit(Exit::Debug(stop));
        }
        if taken.kick {
            // What else there was is still to be looked at when it runs again.
            cpu.attend();
            return Next::Exit(Exit::Kicked);
        }
        if cpu.wait_for_sipi {
            cpu.shared.inbox(cpu.index).wait(None);
            return Next::Look;
        }
        if let Some(event) = cpu.accepted.take() {
            return self.deliver(|cpu| step::deliver_accepted(cpu, event));
        }
        if cpu.shadow != Shadow::None {
            cpu.attend();
            return Next::Step;
        }
        let is_stepping = cpu.debug.outside.is_stepping();
        let takes_interrupts = cpu.halted || !is_stepping;
        if cpu.nmi_pending && !cpu.nmi_blocked && takes_interrupts {
            cpu.nmi_pending = false;
            cpu.nmi_blocked = true;
            return self.deliver(|cpu| cpu.deliver_interrupt(Vector::Nmi as u8));
        }
        let waits = has_interrupt(cpu);
        cpu.frame.interrupt_waits = u8::from(waits);
        if waits
            && takes_interrupts
            && cpu.flag(Rflags::IF)
            && let Some(vector) = next_interrupt(cpu)
        {
            return self.deliver(|cpu| cpu.deliver_interrupt(vector));
        }
        if cpu.halted {
            if std::mem::take(&mut cpu.woken) {
                cpu.halted = false;
                cpu.attend();
            } else {
                self.halt();
            }
            return Next::Look;
        }
        let stepping = cpu.flags() & (Rflags::TF | Rflags::RF).bits() != 0;
        if stepping || is_stepping || cpu.debug.has_instruction_breakpoint() {
            cpu.attend();
            return Next::Step;
        }
        Next::Run
    }

    fn deliver(&mut self, event: impl Fn(&mut Cpu) -> Result<(), Fault>) -> Next {
        // TF and RF of what was interrupted are gone, but a breakpoint may be at the handler.
        self.cpu.attend();
        self.cpu.debug.outside.note_step();
        self.cpu.halted = false;
        if event(&mut self.cpu).is_err()
            && let Some(exit) = self.resolve()
        {
            return Next::Exit(exit);
        }
        Next::Look
    }

    /// Waits for an event, the timer included.
    fn halt(&mut self) {
        let cpu = &mut *self.cpu;
        let deadline = cpu.apic.next_deadline().and_then(|deadline| cpu.tsc.instant_of(deadline));
        // This thread keeps the time while it sleeps.
        cpu.shared.alarm.set(cpu.index as usize, None);
        cpu.stop_steal_clock();
        cpu.shared.inbox(cpu.index).wait(deadline);
        cpu.start_steal_clock();
        cpu.apic.timer_tick(cpu.tsc.now());
        cpu.armed = None;
        cpu.arm_timer();
        cpu.attend();
    }

    /// INIT: registers as after power-on, waiting for a start-up IPI.
    fn init(&mut self) {
        let cpu = &mut *self.cpu;
        let (tsc, msrs) = (cpu.tsc, cpu.msrs.clone());
        let fpu = cpu.exec.fpu.clone();
        cpu.apic.init();
        let (base, page) = (cpu.apic.base(), cpu.apic.save(tsc.now()));
        let state = VcpuState {
            run_state: if cpu.index == 0 { RunState::Running } else { RunState::WaitForSipi },
            msrs: vec![(msr::IA32_APIC_BASE, base)],
            apic: page,
            ..VcpuState::reset()
        };
        // The state is one of our own making.
        let _ = self.load_state(&state, tsc);
        let cpu = &mut *self.cpu;
        (cpu.msrs, cpu.exec.fpu) = (msrs, fpu);
    }

    /// Takes over a state but for its TSC, which is to be this one.
    fn load_state(&mut self, state: &VcpuState, tsc: GuestTsc) -> Result<(), EngineError> {
        let bad = |text: String| EngineError::BadState(text);
        let fpu = FpuState::from_xsave(&with_header(&state.xsave)).map_err(|error| bad(error.to_string()))?;
        let cpu = &mut *self.cpu;
        let find = |number: u32| state.msrs.iter().find(|(n, _)| *n == number).map(|&(_, value)| value);
        let default_base = viv_arch::apic::DEFAULT_BASE
            | viv_arch::apic::BASE_ENABLE
            | if cpu.index == 0 { viv_arch::apic::BASE_BSP } else { 0 };
        let base = find(msr::IA32_APIC_BASE).unwrap_or(default_base);
        cpu.apic.load(&state.apic, base, state.tsc).map_err(|error| bad(error.to_string()))?;
        if state.apic.is_empty() && cpu.index == 0 {
            // Where there is no firmware to do it, the 8259 is wired through.
            cpu.apic.set_virtual_wire();
        }
        if let Some(deadline) = find(msr::IA32_TSC_DEADLINE) {
            cpu.apic.set_tsc_deadline(deadline, state.tsc);
        }
        cpu.apic.set_cr8(state.cr8);
        cpu.exec.gpr = state.gpr;
        cpu.exec.rip = state.rip;
        cpu.exec.rflags = state.rflags.bits() | Rflags::RESERVED_1.bits();
        cpu.exec.fpu = fpu;
        cpu.segments = state.segments;
        cpu.cpl = state.segments[SegmentRegister::Ss as usize].dpl();
        (cpu.ldtr, cpu.tr, cpu.gdtr, cpu.idtr) = (state.ldtr, state.tr, state.gdtr, state.idtr);
        (cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        cpu.pdptes = state.pdptes;
        cpu.xcr0 = state.xcr0 & xsave::SUPPORTED | xsave::X87;
        cpu.efer = state.efer;
        cpu.msrs = Msrs::reset();
        for &(number, value) in &state.msrs {
            if !matches!(number, msr::IA32_APIC_BASE | msr::IA32_TSC_DEADLINE)
                && !cpu.msrs.restore(number, value)
            {
                return Err(bad(format!("MSR {number:#x} is not known")));
            }
        }
        cpu.debug.load(state.debug);
        cpu.tsc = tsc;
        cpu.pending = None;
        cpu.nmi_pending = state.pending.nmi;
        cpu.nmi_blocked = state.pending.nmi_blocked;
        // Debug exceptions that MOV SS holds back do not travel.
        cpu.shadow = if state.pending.interrupt_shadow { Shadow::Interrupts } else { Shadow::None };
        cpu.accepted = state.pending.accepted;
        cpu.halted = state.run_state == RunState::Halted;
        cpu.woken = state.woken;
        cpu.steal = StealClock::default();
        cpu.frame.pauses = cpu.shared.patience();
        cpu.wait_for_sipi = state.run_state == RunState::WaitForSipi;
        // They were for the state that it had.
        cpu.shared.inbox(cpu.index).forget_start_up();
        cpu.tlb.flush_all();
        cpu.update_mode();
        cpu.armed = None;
        cpu.arm_timer();
        cpu.publish_system_time();
        cpu.attend();
        Ok(())
    }
}

/// The XSAVE area with its legacy region marked as present: a state after reset may come without a header.
fn with_header(area: &[u8]) -> Vec<u8> {
    let mut area = area.to_vec();
    if let Some(header) = area.get_mut(xsave::XSTATE_BV..xsave::XSTATE_BV + 8)
        && header == [0; 8]
    {
        header.copy_from_slice(&(xsave::X87 | xsave::SSE).to_le_bytes());
    }
    area
}

/// A start-up IPI (SDM vol. 3, 9.4.3).
fn start_up(cpu: &mut Cpu, vector: u8) {
    let code = &mut cpu.segments[SegmentRegister::Cs as usize];
    code.selector = u16::from(vector) << 8;
    code.base = u64::from(vector) << 12;
    cpu.exec.rip = 0;
    cpu.wait_for_sipi = false;
    cpu.update_mode();
}

/// Whether there is an interrupt to take as soon as IF is set.
fn has_interrupt(cpu: &Cpu) -> bool {
    cpu.apic.pending().is_some() || (cpu.shared.inbox(cpu.index).extint() && cpu.apic.accepts_extint())
}

/// The vector of the interrupt to take now, acknowledged.
fn next_interrupt(cpu: &mut Cpu) -> Option<u8> {
    if cpu.apic.pending().is_some() {
        return Some(cpu.apic.acknowledge());
    }
    if cpu.shared.inbox(cpu.index).extint() && cpu.apic.accepts_extint() {
        return cpu.platform.acknowledge_extint();
    }
    None
}

impl Vcpu for SoftVcpu {
    fn run(&mut self) -> Result<Exit, EngineError> {
        self.cpu.shared.set_running(self.cpu.index, true);
        self.cpu.start_steal_clock();
        let exit = self.run_blocks();
        self.cpu.stop_steal_clock();
        self.cpu.shared.set_running(self.cpu.index, false);
        Ok(exit)
    }

    fn save(&mut self) -> Result<VcpuState, EngineError> {
        let cpu = &mut *self.cpu;
        // What is on its way belongs to the APIC's state; the rest stays in the inbox of this vCPU.
        let inbox = Arc::clone(cpu.shared.inbox(cpu.index));
        let taken = inbox.take();
        cpu.apic.accept_all(taken.edge, taken.level);
        cpu.nmi_pending |= taken.nmi;
        cpu.woken |= taken.wake;
        if taken.kick {
            inbox.kick();
        }
        if taken.init {
            inbox.post_init();
        }
        if let Some(vector) = taken.sipi {
            inbox.post_sipi(vector);
        }
        cpu.attend();
        let tsc = cpu.tsc.now();
        let mut area = vec![0; xsave::AREA_SIZE];
        cpu.exec.fpu.to_xsave(&mut area);
        let deadline = cpu.apic.tsc_deadline();
        let apic = cpu.apic.save(tsc);
        let mut msrs = cpu.msrs.save();
        msrs.push((msr::IA32_APIC_BASE, cpu.apic.base()));
        if deadline != 0 {
            msrs.push((msr::IA32_TSC_DEADLINE, deadline));
        }
        msrs.sort_unstable();
        let [a0, a1, a2, a3] = cpu.debug.addresses();
        Ok(VcpuState {
            gpr: cpu.exec.gpr,
            rip: cpu.exec.rip,
            rflags: Rflags::from_bits_retain(cpu.exec.rflags),
            segments: cpu.segments,
            ldtr: cpu.ldtr,
            tr: cpu.tr,
            gdtr: cpu.gdtr,
            idtr: cpu.idtr,
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            cr8: cpu.apic.cr8(),
            xcr0: cpu.xcr0,
            debug: [a0, a1, a2, a3, cpu.debug.dr6, cpu.debug.dr7()],
            efer: cpu.efer,
            msrs,
            xsave: area,
            apic,
            tsc,
            pending: PendingEvents {
                nmi: cpu.nmi_pending,
                nmi_blocked: cpu.nmi_blocked,
                interrupt_shadow: cpu.shadow != Shadow::None,
                accepted: cpu.accepted,
            },
            run_state: if cpu.wait_for_sipi {
                RunState::WaitForSipi
            } else if cpu.halted {
                RunState::Halted
            } else {
                RunState::Running
            },
            pdptes: cpu.present_pdptes(),
            woken: cpu.woken,
        })
    }

    fn load(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        let adjust = state.msrs.iter().find(|(number, _)| *number == msr::IA32_TSC_ADJUST);
        let tsc = self.cpu.shared.tsc.restore(state.tsc, adjust.map_or(0, |&(_, value)| value));
        self.load_state(state, tsc)
    }

    fn set_debug(&mut self, control: &DebugControl) -> Result<(), EngineError> {
        let Cpu { debug, guards, tlb, .. } = &mut *self.cpu;
        debug.outside.set(control);
        // Watched pages are kept out of it.
        tlb.flush_all();
        // A step needs no guards, and debuggers step away from breakpoints that they then set again.
        if !control.single_step && guards.cover(&debug.outside) {
            self.drop_code();
        }
        self.cpu.attend();
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(self.cpu.shared.inbox(self.cpu.index)) as Arc<dyn Kick>
    }

    fn instructions(&self) -> Option<u64> {
        // Translated code does not count.
        (self.cpu.shared.options.tier == Tier::Interpret).then_some(self.cpu.retired)
    }

    fn translations(&self) -> Option<Translations> {
        let cpu = &self.cpu;
        let counts = Translations { lookups: cpu.frame.lookups, ..cpu.counts };
        Some(self.translated.counts()? + counts)
    }
}
