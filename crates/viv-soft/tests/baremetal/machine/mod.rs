//! A machine of one processor in long mode, with handlers that record what happens.

mod handler;
pub mod layout;
mod platform;
mod protected;
mod real;
mod tables;
mod watchdog;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::{
    Cr0, Cr4, DescriptorTable, Efer, Gpr, Segment, SegmentRegister, VcpuState, Vector, apic, msr, paging,
    xsave,
};
use viv_engine::time::ManualClock;
use viv_engine::{Engine, Exit, GuestMemory, Vcpu, Vm, VmParameters, memory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

pub use handler::{Action, Event};
pub use layout::*;
pub use platform::{Access, Recorder};
pub use protected::{INTERRUPT_16, INTERRUPT_32, TRAP_16, TRAP_32};
pub use real::{REAL_CODE, REAL_STACK_TOP};
pub use tables::{FULL, KERNEL, PageSize, PageTables};
use watchdog::Watchdog;

/// The engine under test.
pub fn engine() -> impl Engine {
    engine_with(&std::env::var("VIV_ENGINE_OPT").unwrap_or_default())
}

/// The same with options, between which there is white space.
fn engine_with(options: &str) -> impl Engine + use<> {
    let options = viv_soft::Options::parse(options.split_whitespace()).unwrap();
    viv_soft::SoftEngine::with_options(options).unwrap()
}

/// What a run came to.
pub struct Outcome {
    /// Why it ended: `Kicked` also when the guest stopped itself.
    pub exit: Exit,
    /// Whether the guest stopped itself.
    pub stopped: bool,
    pub events: Vec<Event>,
    pub state: VcpuState,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}, stopped: {}, at {:#x}", self.exit, self.stopped, self.state.rip)?;
        writeln!(f, "registers: {:x?}", self.state.gpr)?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event:x?}"))
    }
}

impl Outcome {
    pub fn gpr(&self, register: Gpr) -> u64 {
        self.state.gpr[register as usize]
    }

    /// Vectors, error codes and RIPs of the events, without the call by which user code stops.
    pub fn briefs(&self) -> Vec<(u8, u64, u64)> {
        self.events.iter().filter(|event| event.vector != VECTOR_STOP).map(Event::brief).collect()
    }
}

/// Assembles code for an address.
pub type Build<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Assembles `build`'s code for `address`.
pub fn assemble(bits: u32, address: u64, build: Build<'_>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    build(&mut assembler).unwrap();
    assembler.assemble(address).unwrap()
}

/// Stops the machine from privilege level 0.
pub fn stop(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(u32::from(PORT_STOP), al)?;
    a.hlt()
}

/// Stops the machine from any privilege level, through a handler.
pub fn stop_user(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.int(u32::from(VECTOR_STOP))
}

/// The machine.
pub struct Machine {
    pub memory: GuestMemory,
    pub vm: Arc<dyn Vm>,
    pub vcpu: Box<dyn Vcpu>,
    pub platform: Arc<Recorder>,
    pub clock: Arc<ManualClock>,
    pub tables: PageTables,
    /// The state that [`Machine::run`] starts from.
    pub state: VcpuState,
    watchdog: Watchdog,
}

impl Machine {
    /// A machine about to run at [`CODE`], privilege level 0, interrupts off.
    pub fn new() -> Self {
        let memory = memory::allocate(RAM_SIZE).unwrap();
        let clock = Arc::new(ManualClock::default());
        Self::on_engine(&engine(), memory, None, 1, clock)
    }

    /// The same with more processors, of which only the first is run.
    pub fn with_processors(vcpus: u32) -> Self {
        let memory = memory::allocate(RAM_SIZE).unwrap();
        Self::on_engine(&engine(), memory, None, vcpus, Arc::new(ManualClock::default()))
    }

    /// The same on an engine with options.
    pub fn with_options(options: &str) -> Self {
        let memory = memory::allocate(RAM_SIZE).unwrap();
        Self::on_engine(&engine_with(options), memory, None, 1, Arc::new(ManualClock::default()))
    }

    /// The same on any engine, with read-only memory if there is to be any, and the first of so many processors.
    pub fn on_engine(
        engine: &dyn Engine,
        memory: GuestMemory,
        rom: Option<GuestMemory>,
        vcpus: u32,
        clock: Arc<ManualClock>,
    ) -> Self {
        let parameters = ModelParameters { vcpus, tsc_khz: engine.tsc_khz() };
        let vm = engine
            .create_vm(VmParameters {
                memory: memory.clone(),
                rom,
                vcpus,
                cpuid: engine.offered(&CpuidTable::x86_64_v3(parameters)),
                clock: clock.clone(),
            })
            .unwrap();
        let platform = Arc::new(Recorder::default());
        let vcpu = vm.create_vcpu(0, platform.clone()).unwrap();
        assert!(platform.kicker.set(vcpu.kicker()).is_ok());
        let watchdog = Watchdog::new(vcpu.kicker());
        let mut machine = Self {
            tables: PageTables::new(memory.clone()),
            memory,
            vm,
            vcpu,
            platform,
            clock,
            state: initial_state(),
            watchdog,
        };
        machine.fill_tables();
        machine.write_handlers();
        machine
    }

    /// A second machine with a copy of this one's memory.
    pub fn copy(&self) -> Self {
        let other = Self::new();
        self.copy_memory(&other);
        other
    }

    /// Gives another machine a copy of this one's memory.
    pub fn copy_memory(&self, other: &Self) {
        let mut page = vec![0; paging::PAGE_SIZE as usize];
        for region in self.memory.iter() {
            let start = region.start_addr().0;
            for at in (start..start + region.len()).step_by(page.len()) {
                self.memory.read_slice(&mut page, GuestAddress(at)).unwrap();
                other.memory.write_slice(&page, GuestAddress(at)).unwrap();
            }
        }
    }

    fn fill_tables(&mut self) {
        for page in (0..FREE).step_by(paging::PAGE_SIZE as usize) {
            let user = (USER_CODE..USER_STACK_TOP).contains(&page);
            self.tables.map(page, page, PageSize::Size4K, if user { FULL } else { KERNEL });
        }
        self.tables.map(APIC, apic::DEFAULT_BASE, PageSize::Size4K, KERNEL);
        self.tables.map(MMIO, MMIO_PHYS, PageSize::Size4K, FULL);
        let descriptors = [
            Segment::code64(selector::CODE64, 0),
            Segment::data(selector::DATA, 0),
            Segment::code32(selector::USER_CODE32, 3),
            Segment::data(selector::USER_DATA, 3),
            Segment::code64(selector::USER_CODE64, 3),
            tss(),
            Segment::code32(selector::CODE32, 0),
        ];
        for segment in descriptors {
            self.set_descriptor(segment.selector, segment.to_descriptor());
        }
        self.write(TSS + 4, RSP0_TOP);
        self.write(TSS + 0x24, IST1_TOP);
        // No I/O permission map.
        self.write(TSS + 0x66, 0x68u16);
        for vector in 0..=255 {
            let dpl = if vector >= 32 || matches!(vector, 3 | 4) { 3 } else { 0 };
            self.set_gate(vector, STUBS + u64::from(vector) * STUB_SIZE, 0xe, dpl, 0);
        }
    }

    /// Writes a GDT entry.
    pub fn set_descriptor(&self, selector: u16, descriptor: u64) {
        self.write(GDT + u64::from(selector & !7), descriptor);
    }

    /// Writes an IDT entry; `kind` is 0xe for an interrupt gate, 0xf for a trap gate.
    pub fn set_gate(&self, vector: u8, offset: u64, kind: u64, dpl: u64, ist: u64) {
        let low = (offset & 0xffff)
            | u64::from(selector::CODE64) << 16
            | ist << 32
            | (kind | dpl << 5 | 0x80) << 40
            | (offset >> 16 & 0xffff) << 48;
        let at = IDT + u64::from(vector) * 16;
        self.write(at, low);
        self.write(at + 8, offset >> 32);
    }

    /// Lets a vector's events go to code of the test's own.
    pub fn set_handler(&mut self, vector: u8, address: u64, build: Build<'_>) {
        self.code(address, build);
        self.set_gate(vector, address, 0xe, 3, 0);
    }

    fn write_handlers(&mut self) {
        for vector in 0..=255u8 {
            let pushes = Vector::from_number(vector).is_some_and(Vector::has_error_code);
            let address = STUBS + u64::from(vector) * STUB_SIZE;
            self.code(address, &|a| {
                if !pushes {
                    a.push(0)?;
                }
                a.push(i32::from(vector))?;
                a.jmp(HANDLER)
            });
        }
        self.code(HANDLER, &handler::recording_handler);
    }

    /// Says what happens after an event.
    pub fn on(&self, vector: u8, action: Action) {
        self.write(ACTIONS + u64::from(vector) * 8, action.word());
    }

    /// Writes 64-bit code; gives the address after it.
    pub fn code(&mut self, address: u64, build: Build<'_>) -> u64 {
        self.code_of(64, address, build)
    }

    /// Writes code of the given width.
    pub fn code_of(&mut self, bits: u32, address: u64, build: Build<'_>) -> u64 {
        let bytes = assemble(bits, address, build);
        self.write_bytes(address, &bytes);
        address + bytes.len() as u64
    }

    pub fn write_bytes(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn read_bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub fn write<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    pub fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    /// Lets [`Machine::run`] start in user mode at [`USER_CODE`].
    pub fn start_in_user_mode(&mut self) {
        self.state.rip = USER_CODE;
        self.state.gpr[Gpr::Rsp as usize] = USER_STACK_TOP;
        self.set_code_segment(Segment::code64(selector::USER_CODE64, 3));
        self.state.segments[SegmentRegister::Ss as usize] = Segment::data(selector::USER_DATA, 3);
    }

    /// The state that a new machine starts from.
    pub fn fresh_state() -> VcpuState {
        initial_state()
    }

    pub fn set_code_segment(&mut self, segment: Segment) {
        self.state.segments[SegmentRegister::Cs as usize] = segment;
    }

    pub fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.state.gpr[register as usize] = value;
    }

    pub fn set_msr(&mut self, number: u32, value: u64) {
        self.state.msrs.retain(|&(n, _)| n != number);
        self.state.msrs.push((number, value));
        self.state.msrs.sort_unstable();
    }

    /// Runs from [`Machine::state`] until the guest stops, is kicked, or shuts down.
    pub fn run(&mut self) -> Outcome {
        self.vcpu.load(&self.state).unwrap();
        self.resume()
    }

    /// Goes on from where the last run ended.
    pub fn resume(&mut self) -> Outcome {
        self.write(LOG, 0u64);
        self.platform.stopped.store(false, Ordering::SeqCst);
        self.watchdog.start();
        let exit = self.vcpu.run().unwrap();
        let timed_out = self.watchdog.stop();
        let state = self.vcpu.save().unwrap();
        let outcome = Outcome {
            exit,
            stopped: self.platform.stopped.load(Ordering::SeqCst),
            events: handler::events(&self.memory),
            state,
        };
        assert!(!timed_out, "the guest does not end: {outcome:?}");
        outcome
    }

    /// Runs a guest that stops itself.
    #[track_caller]
    pub fn run_to_stop(&mut self) -> Outcome {
        let outcome = self.run();
        assert!(outcome.stopped && outcome.exit == Exit::Kicked, "it did not stop: {outcome:?}");
        outcome
    }
}

fn tss() -> Segment {
    Segment { selector: selector::TSS, attributes: 0x8b, limit: 0x67, base: TSS }
}

fn initial_state() -> VcpuState {
    let mut state = VcpuState::reset();
    state.rip = CODE;
    state.gpr = [0; 16];
    state.gpr[Gpr::Rsp as usize] = STACK_TOP;
    let data = Segment::data(selector::DATA, 0);
    state.segments = [data; 6];
    state.segments[SegmentRegister::Cs as usize] = Segment::code64(selector::CODE64, 0);
    state.tr = tss();
    state.ldtr = Segment { selector: 0, attributes: Segment::UNUSABLE, limit: 0, base: 0 };
    state.gdtr = DescriptorTable { base: GDT, limit: 0xfff };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
    state.cr3 = TABLES;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE | Cr4::FSGSBASE | Cr4::DE;
    state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    state.xcr0 = xsave::SUPPORTED;
    let star = u64::from(selector::USER_CODE32 & !3) << 48 | u64::from(selector::CODE64) << 32;
    state.msrs = vec![(msr::IA32_SYSENTER_CS, u64::from(selector::CODE64)), (msr::IA32_STAR, star)];
    state
}
