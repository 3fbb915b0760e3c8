//! A machine of one processor in long mode, with handlers that record what happens.

pub mod layout;
mod platform;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::{
    Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, SegmentRegister, VcpuState, Vector, apic, msr,
    paging, xsave,
};
use viv_engine::time::ManualClock;
use viv_engine::{Engine, Exit, GuestMemory, Kick, Vcpu, Vm, VmParameters, memory};
use vm_memory::{Bytes, GuestAddress};

pub use layout::*;
pub use platform::{Access, Recorder};
pub use tables::{FULL, KERNEL, PageSize, PageTables};

/// The engine under test.
pub fn engine() -> impl Engine {
    viv_soft::SoftEngine
}

/// What the recording handler does after it has recorded an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stops the machine, with the registers as they were.
    Stop,
    /// Returns.
    Return,
    /// Ends the interrupt at the local APIC and returns.
    EndOfInterrupt,
    /// Goes on at this address, with registers and stack as they were.
    GoTo(u64),
}

impl Action {
    fn word(self) -> u64 {
        match self {
            Self::Stop => 0,
            Self::Return => 1,
            Self::EndOfInterrupt => 2,
            Self::GoTo(address) => address,
        }
    }
}

/// An event as its handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub vector: u8,
    /// 0 for vectors without one.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub cr2: u64,
    pub dr6: u64,
    /// Where the handler's own stack was.
    pub frame: u64,
}

impl Event {
    /// The parts that most tests are about.
    pub fn brief(&self) -> (u8, u64, u64) {
        (self.vector, self.error_code, self.rip)
    }

    pub fn has_flag(&self, flag: Rflags) -> bool {
        self.rflags & flag.bits() != 0
    }
}

const EVENT_SIZE: u64 = 80;
const MAX_EVENTS: u64 = 48;

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
        Self::with_memory(memory, clock)
    }

    fn with_memory(memory: GuestMemory, clock: Arc<ManualClock>) -> Self {
        let engine = engine();
        let parameters = ModelParameters { vcpus: 1, tsc_khz: engine.tsc_khz() };
        let vm = engine
            .create_vm(VmParameters {
                memory: memory.clone(),
                vcpus: 1,
                cpuid: CpuidTable::x86_64_v3(parameters),
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
        let mut page = vec![0; paging::PAGE_SIZE as usize];
        for at in (0..RAM_SIZE).step_by(page.len()) {
            self.memory.read_slice(&mut page, GuestAddress(at)).unwrap();
            other.memory.write_slice(&page, GuestAddress(at)).unwrap();
        }
        other
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
        self.code(HANDLER, &recording_handler);
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
            events: self.events(),
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

    fn events(&self) -> Vec<Event> {
        let count = self.read::<u64>(LOG).min(MAX_EVENTS);
        (0..count)
            .map(|n| {
                let word = |field: u64| self.read::<u64>(LOG + 16 + n * EVENT_SIZE + field * 8);
                Event {
                    vector: word(0) as u8,
                    error_code: word(1),
                    rip: word(2),
                    cs: word(3) as u16,
                    rflags: word(4),
                    rsp: word(5),
                    ss: word(6) as u16,
                    cr2: word(7),
                    dr6: word(8),
                    frame: word(9),
                }
            })
            .collect()
    }
}

/// Records the event on the stack (vector, error code, and what the processor pushed) and acts.
fn recording_handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut stop_label = a.create_label();
    let mut leave = a.create_label();
    let mut end = a.create_label();
    a.push(rax)?;
    a.push(rcx)?;
    a.push(rdx)?;
    a.mov(rcx, qword_ptr(LOG))?;
    a.inc(qword_ptr(LOG))?;
    a.cmp(rcx, MAX_EVENTS as i32)?;
    a.jae(stop_label)?;
    a.imul_3(rcx, rcx, EVENT_SIZE as i32)?;
    a.add(rcx, LOG as i32 + 16)?;
    for word in 0..7i32 {
        a.mov(rax, qword_ptr(rsp + (24 + word * 8)))?;
        a.mov(qword_ptr(rcx + word * 8), rax)?;
    }
    a.mov(rax, cr2)?;
    a.mov(qword_ptr(rcx + 56), rax)?;
    a.mov(rax, dr6)?;
    a.mov(qword_ptr(rcx + 64), rax)?;
    a.lea(rax, qword_ptr(rsp + 40))?;
    a.mov(qword_ptr(rcx + 72), rax)?;
    a.mov(rax, qword_ptr(rsp + 24))?;
    a.mov(rax, qword_ptr(rax * 8 + ACTIONS))?;
    a.test(rax, rax)?;
    a.jz(stop_label)?;
    a.cmp(rax, Action::Return.word() as i32)?;
    a.je(leave)?;
    a.cmp(rax, Action::EndOfInterrupt.word() as i32)?;
    a.je(end)?;
    a.mov(qword_ptr(rsp + 40), rax)?;
    a.jmp(leave)?;
    a.set_label(&mut end)?;
    a.mov(dword_ptr(APIC + u64::from(apic::reg::EOI) * 16), 0)?;
    a.set_label(&mut leave)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.add(rsp, 16)?;
    a.iretq()?;
    a.set_label(&mut stop_label)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    stop(a)
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

/// Kicks a vCPU that runs too long, so that a wrong guest fails its test instead of hanging it.
struct Watchdog {
    shared: Arc<WatchdogState>,
    thread: Option<JoinHandle<()>>,
}

struct WatchdogState {
    epoch: Instant,
    /// When the run started, in milliseconds since `epoch`, plus one; 0 while nothing runs.
    started: AtomicU64,
    fired: AtomicBool,
    ended: AtomicBool,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Watchdog {
    fn new(kicker: Arc<dyn Kick>) -> Self {
        let shared = Arc::new(WatchdogState {
            epoch: Instant::now(),
            started: AtomicU64::new(0),
            fired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let state = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !state.ended.load(Ordering::SeqCst) {
                let started = state.started.load(Ordering::SeqCst);
                let now = state.epoch.elapsed().as_millis() as u64;
                if started != 0 && now.saturating_sub(started) > PATIENCE.as_millis() as u64 {
                    state.fired.store(true, Ordering::SeqCst);
                    kicker.kick();
                }
                std::thread::park_timeout(Duration::from_millis(500));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    fn start(&self) {
        let now = self.shared.epoch.elapsed().as_millis() as u64;
        self.shared.started.store(now + 1, Ordering::SeqCst);
    }

    /// Says whether it had to step in.
    fn stop(&self) -> bool {
        self.shared.started.store(0, Ordering::SeqCst);
        self.shared.fired.load(Ordering::SeqCst)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
