//! A user program on the engine, with every register chosen: what [`NativeCpu`] is compared with.
//!
//! A bare vCPU in user mode with page tables of its own. Instructions take the whole way that a guest's take: fetch
//! through the page tables, decoding, lowering, the TLB, the handler. [`Machine::step`] interprets one of them, and its
//! exception is not delivered; [`Machine::run`] enters the vCPU's own loop, and the first exception, delivered to a
//! handler that stops the machine, ends it.
//!
//! [`NativeCpu`]: super::NativeCpu

use std::sync::{Arc, OnceLock};

use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::paging::PAGE_SIZE;
use viv_arch::{
    Cr0, Cr4, DescriptorTable, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, VcpuState, Vector,
    xsave,
};
use viv_engine::time::HostClock;
use viv_engine::{Engine, Exit, Kick, Platform, Vcpu, VmParameters};

use super::space::AddressSpace;
use super::watchdog::Watchdog;
use super::{DATA, Mode};
use crate::cpu::Pending;
use crate::hostexec::{ExecState, FpuState};
use crate::ops::segment::null_segment;
use crate::options::{Options, Tier};
use crate::vcpu::SoftVcpu;
use crate::vm::{SoftEngine, SoftVm};

/// RAM of the bare machine.
const RAM: u64 = 1 << 20;
/// Where its page tables start.
const ROOT: u64 = 0x1000;

/// Linear memory of the supervisor: a page of descriptors with the TSS, the IDT, handlers, the stack.
const SYSTEM: u64 = 0xffff_fe00_0000_0000;
const GDT: u64 = SYSTEM;
const TSS: u64 = SYSTEM + 0x800;
const IDT: u64 = SYSTEM + PAGE_SIZE;
const HANDLERS: u64 = SYSTEM + 2 * PAGE_SIZE;
const STACK_TOP: u64 = SYSTEM + SYSTEM_SIZE;
const SYSTEM_SIZE: u64 = 4 * PAGE_SIZE;
/// Bytes between two handlers.
const HANDLER_SIZE: u64 = 8;

/// Selectors as Linux has them.
const KERNEL_CODE: u16 = 0x10;
const CODE64: u16 = 0x33;
const CODE32: u16 = 0x23;
const USER_DATA: u16 = 0x2b;

/// Where FS and GS have their bases.
pub const SEGMENT_BASES: [u64; 2] = [DATA.start + 0x1000, DATA.start + 0x1ff0];

/// The port by which handlers stop the machine.
const STOP: u8 = 0xf4;

/// A user program's processor, with memory at chosen addresses.
pub struct Machine {
    vcpu: SoftVcpu,
    space: AddressSpace,
    /// What the vCPU has beside the state of an instruction.
    system: VcpuState,
    /// The vCPU is not in that state.
    is_stale: bool,
    watchdog: Watchdog,
}

/// Nothing but the port that stops the machine.
#[derive(Default)]
struct Stopper {
    kick: OnceLock<Arc<dyn Kick>>,
}

impl Platform for Stopper {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, port: u16, _: &[u8]) {
        if port == u16::from(STOP)
            && let Some(kick) = self.kick.get()
        {
            kick.kick();
        }
    }
    fn memory_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn memory_write(&self, _: u64, _: &[u8]) {}
    fn acknowledge_extint(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _: u8) {}
}

impl Machine {
    /// A user program without memory, on the interpreter.
    ///
    /// # Panics
    /// If the host has no memory for it.
    #[must_use]
    pub fn interpreter(mode: Mode) -> Self {
        Self::new(mode, Options::with_tier(Tier::Interpret))
    }

    /// A user program without memory.
    ///
    /// # Panics
    /// If the host has no memory for it.
    #[must_use]
    pub fn new(mode: Mode, options: Options) -> Self {
        let mut space = AddressSpace::new(RAM, ROOT);
        let tsc_khz = SoftEngine::default().tsc_khz();
        let parameters = VmParameters {
            memory: space.memory().clone(),
            rom: None,
            vcpus: 1,
            cpuid: CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz }),
            clock: Arc::new(HostClock::stopped_at(0)),
        };
        let vm = SoftVm::new(parameters, options, None).expect("the host has threads");
        let platform = Arc::new(Stopper::default());
        let vcpu = vm.vcpu(0, Arc::clone(&platform) as Arc<dyn Platform>).expect("the host has memory");
        platform.kick.get_or_init(|| vcpu.kicker());
        write_system(&mut space);
        let watchdog = Watchdog::new(vcpu.kicker());
        Self { vcpu, space, system: user_state(mode), is_stale: true, watchdog }
    }

    /// Its memory.
    pub fn space(&mut self) -> &mut AddressSpace {
        &mut self.space
    }

    /// Interprets the one instruction at `state.rip`.
    ///
    /// # Errors
    /// Why it did not complete. `state` is then as the instruction left it.
    pub fn step(&mut self, state: &mut ExecState) -> Result<(), Pending> {
        let alignment = Rflags::from_bits_retain(state.rflags) & Rflags::AC;
        if self.space.take_changed() || self.is_stale || alignment != self.system.rflags & Rflags::AC {
            self.system.rflags.set(Rflags::AC, !alignment.is_empty());
            self.vcpu.load(&self.system).expect("the state is a user program's");
            self.is_stale = false;
        }
        self.vcpu.execute_single(state)
    }

    /// Runs from `state.rip` to the first exception, which is returned; `state` is as it found it, RF as it was. HLT,
    /// which a user program must not execute, is a way to end it.
    ///
    /// # Errors
    /// What else ended it, or that nothing did.
    pub fn run(&mut self, state: &mut ExecState) -> Result<Exception, String> {
        let mut area = vec![0; xsave::AREA_SIZE];
        state.fpu.to_xsave(&mut area);
        let start = VcpuState {
            gpr: state.gpr,
            rip: state.rip,
            rflags: Rflags::from_bits_retain(state.rflags),
            xsave: area,
            ..self.system.clone()
        };
        self.vcpu.load(&start).map_err(|error| error.to_string())?;
        self.is_stale = true;
        self.watchdog.start();
        let exit = self.vcpu.run().map_err(|error| error.to_string())?;
        if self.watchdog.stop() {
            return Err("it does not end".to_owned());
        }
        let end = self.vcpu.save().map_err(|error| error.to_string())?;
        let handler = end.rip.wrapping_sub(HANDLERS);
        if exit != Exit::Kicked || handler >= 256 * HANDLER_SIZE {
            return Err(format!("it ends with {exit:?} at {:#x}", end.rip));
        }
        let Some(vector) = Vector::from_number((handler / HANDLER_SIZE) as u8) else {
            return Err(format!("it ends with vector {}", handler / HANDLER_SIZE));
        };
        let mut frame = [0; 48];
        self.space.read(STACK_TOP - 48, &mut frame);
        let word = |n: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&frame[8 * n..8 * n + 8]);
            u64::from_le_bytes(bytes)
        };
        state.gpr = end.gpr;
        state.gpr[Gpr::Rsp as usize] = word(4);
        state.rip = word(1);
        state.rflags = word(3) & !Rflags::RF.bits() | state.rflags & Rflags::RF.bits();
        state.fpu = FpuState::from_xsave(&end.xsave).map_err(|error| error.to_string())?;
        Ok(Exception {
            vector,
            error_code: if vector.has_error_code() { word(0) as u32 } else { 0 },
            address: if vector == Vector::PageFault { end.cr2 } else { 0 },
        })
    }
}

/// Writes descriptors, gates and handlers.
fn write_system(space: &mut AddressSpace) {
    space.map_supervisor(SYSTEM, SYSTEM_SIZE);
    let segments = [
        Segment::code64(KERNEL_CODE, 0),
        Segment::code64(CODE64, 3),
        Segment::code32(CODE32, 3),
        Segment::data(USER_DATA, 3),
    ];
    for segment in segments {
        space.write(GDT + u64::from(segment.selector & !7), &segment.to_descriptor().to_le_bytes());
    }
    space.write(TSS + 4, &STACK_TOP.to_le_bytes());
    for vector in 0..256 {
        let handler = HANDLERS + vector * HANDLER_SIZE;
        let gate =
            handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        space.write(IDT + vector * 16, &gate.to_le_bytes());
        space.write(IDT + vector * 16 + 8, &(handler >> 32).to_le_bytes());
        // out STOP, al; hlt
        space.write(handler, &[0xe6, STOP, 0xf4]);
    }
}

/// The state of a user program under a kernel like Linux, whatever its registers are.
fn user_state(mode: Mode) -> VcpuState {
    let mut state = VcpuState {
        cr0: Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG,
        cr3: ROOT,
        cr4: Cr4::PAE
            | Cr4::PGE
            | Cr4::OSFXSR
            | Cr4::OSXMMEXCPT
            | Cr4::UMIP
            | Cr4::FSGSBASE
            | Cr4::OSXSAVE
            | Cr4::SMEP
            | Cr4::SMAP,
        efer: Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE,
        xcr0: xsave::SUPPORTED,
        gdtr: DescriptorTable { base: GDT, limit: 0x3f },
        idtr: DescriptorTable { base: IDT, limit: 0xfff },
        ldtr: null_segment(0, 0),
        // A TSS without a map of ports.
        tr: Segment { limit: 0x66, base: TSS, ..VcpuState::reset().tr },
        ..VcpuState::reset()
    };
    state.segments = [null_segment(0, 3); 6];
    let mut set = |register: SegmentRegister, segment| state.segments[register as usize] = segment;
    set(SegmentRegister::Ss, Segment::data(USER_DATA, 3));
    let wide = mode == Mode::Bits64;
    set(SegmentRegister::Cs, if wide { Segment::code64(CODE64, 3) } else { Segment::code32(CODE32, 3) });
    let data = if wide { null_segment(0, 3) } else { Segment::data(USER_DATA, 3) };
    set(SegmentRegister::Ds, data);
    set(SegmentRegister::Es, data);
    set(SegmentRegister::Fs, Segment { base: SEGMENT_BASES[0], ..data });
    set(SegmentRegister::Gs, Segment { base: SEGMENT_BASES[1], ..data });
    state
}
