//! One machine, from its start to its end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::state::RunState;
use viv_arch::{Rflags, VcpuState, msr};
use viv_engine::time::HostClock;
use viv_engine::{Engine, Exit, GuestMemory, Platform, Vcpu, Vm, VmParameters};
use vm_memory::{Bytes, GuestAddress};

use super::REFERENCE;
use super::layout::{MAPPED, PLAY, PLAY_SIZE, STOP, SYSTEM, SYSTEM_SIZE};
use super::platform::{Access, Recorder};
use super::ram::GuardedRam;
use super::shrink::PADDING;
use super::world::World;
use crate::hostexec::ExecState;
use crate::inbox::Inbox;
use crate::options::{Options, Tier};
use crate::vcpu::SoftVcpu;
use crate::vm::{SoftEngine, SoftVm};

/// How long a machine may run on the interpreter: hundreds of times as long as nearly all of them do.
const PATIENCE: Duration = Duration::from_millis(1000);
/// And elsewhere: code that writes to its own page all the time makes translated code slow.
const MORE_PATIENCE: Duration = Duration::from_secs(20);

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It stopped itself.
    Stopped,
    /// It halted, with nothing that could wake it.
    Halted,
    TripleFault,
    Unsupported(String),
    /// It would have gone on.
    Endless,
}

/// Everything that came of a run.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    pub state: VcpuState,
    pub ram: Vec<u8>,
    pub accesses: Vec<Access>,
    /// What is wrong whatever another engine makes of the same world.
    pub wrong: Option<&'static str>,
}

/// Runs machines, one after the other.
pub struct Runner {
    ram: GuardedRam,
    monitor: Monitor,
}

impl Default for Runner {
    fn default() -> Self {
        Self { ram: GuardedRam::default(), monitor: Monitor::new() }
    }
}

impl Runner {
    /// Runs the machine of a world on an engine with these options.
    pub fn run(&mut self, world: &World, options: Options) -> Outcome {
        self.run_by(world, options, |vcpu, _| vcpu.run().expect("it runs"))
    }

    /// The last `count` instructions of a world's random code, by the interpreter: registers before each, and its bytes
    /// as they are then, if it is in the code pages where these are mapped first. What was shrunk away is left out.
    pub fn last_steps(&mut self, world: &World, count: usize) -> VecDeque<(ExecState, [u8; 15])> {
        let mut steps = VecDeque::new();
        self.run_by(world, REFERENCE, |vcpu, memory| {
            vcpu.run_watched(|state| {
                let mut bytes = [0; 15];
                let offset = state.rip.wrapping_sub(MAPPED);
                if offset < PLAY_SIZE {
                    let _ = memory.read_slice(&mut bytes, GuestAddress(PLAY + offset));
                }
                // The handler is the same every time.
                if state.rip < SYSTEM && bytes[0] != PADDING {
                    steps.push_back((state.clone(), bytes));
                    if steps.len() > count {
                        steps.pop_front();
                    }
                }
            })
        });
        steps
    }

    fn run_by(
        &mut self,
        world: &World,
        options: Options,
        run: impl FnOnce(&mut SoftVcpu, &GuestMemory) -> Exit,
    ) -> Outcome {
        let memory = self.ram.memory();
        let (system, play) = world.image.bytes.split_at(SYSTEM_SIZE as usize);
        memory.write_slice(system, GuestAddress(0)).expect("it is RAM");
        memory.write_slice(play, GuestAddress(PLAY)).expect("it is RAM");
        let tsc_khz = SoftEngine::default().tsc_khz();
        let parameters = VmParameters {
            memory: memory.clone(),
            rom: None,
            vcpus: 1,
            cpuid: CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz }),
            clock: Arc::new(HostClock::stopped_at(0)),
        };
        let vm = Arc::new(SoftVm::new(parameters, options, None).expect("the host has threads"));
        let platform = Arc::new(Recorder::default());
        let mut vcpu = vm.vcpu(0, Arc::clone(&platform) as Arc<dyn Platform>).expect("the host has memory");
        platform.machine.get_or_init(|| (Arc::downgrade(&vm), vcpu.kicker()));
        vm.take_dirty_pages().expect("it can be told");
        vcpu.load(&world.state).expect("the state is one");
        let patience = if options.tier == Tier::Interpret { PATIENCE } else { MORE_PATIENCE };
        self.monitor.watch(Arc::clone(vm.inbox()), Instant::now() + patience);
        let exit = run(&mut vcpu, &memory);
        let kicked = self.monitor.stop();
        let mut state = vcpu.save().expect("it is at rest");
        let end = match exit {
            Exit::TripleFault => End::TripleFault,
            Exit::Debug(stop) => End::Unsupported(format!("no debugger asked for {stop:?}")),
            Exit::Unsupported(what) => End::Unsupported(what),
            Exit::Kicked if platform.stopped.load(Ordering::SeqCst) => End::Stopped,
            Exit::Kicked if kicked == Kicked::Halted => End::Halted,
            Exit::Kicked => End::Endless,
        };
        normalize(&mut state, &end);
        let ram = self.ram.contents();
        let dirty = vm.take_dirty_pages().expect("it can be told");
        let is_recorded =
            |page: usize| dirty.binary_search(&(super::ram::physical(page << 12) >> 12)).is_ok();
        let mut pages = ram.chunks(0x1000).zip(world.image.bytes.chunks(0x1000)).enumerate();
        let wrong = if !self.ram.is_sound() {
            Some("memory around the guest's RAM was written")
        } else if pages.any(|(page, (now, before))| now != before && !is_recorded(page)) {
            Some("a page was written and not recorded as such")
        } else {
            None
        };
        Outcome { end, state, ram, accesses: platform.take(), wrong }
    }
}

/// Takes out of the state what does not follow from the world.
fn normalize(state: &mut VcpuState, end: &End) {
    state.tsc = 0;
    state.msrs.retain(|&(number, _)| !matches!(number, msr::IA32_TSC | msr::IA32_TSC_ADJUST));
    if state.rip.wrapping_sub(SYSTEM + STOP) < 0x40 {
        // Whether the instruction behind the last one has been executed is the engine's affair.
        state.rip = SYSTEM + STOP;
        state.run_state = RunState::Running;
    }
    if *end != End::Stopped {
        // They may be dead where it faulted or halted.
        state.rflags.remove(Rflags::ARITHMETIC);
    }
}

/// Why the monitor kicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kicked {
    Not,
    Halted,
    Late,
}

/// A thread that kicks a vCPU that sleeps, which nothing would wake, or that runs too long.
struct Monitor {
    shared: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Watched {
    vcpu: Mutex<Option<(Arc<Inbox>, Instant)>>,
    kicked: AtomicU64,
    ended: AtomicBool,
}

impl Monitor {
    fn new() -> Self {
        let shared = Arc::new(Watched::default());
        let watched = Arc::clone(&shared);
        Self { shared, thread: Some(thread::spawn(move || watched.run())) }
    }

    fn watch(&self, inbox: Arc<Inbox>, until: Instant) {
        self.shared.kicked.store(0, Ordering::SeqCst);
        *self.shared.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = Some((inbox, until));
    }

    fn stop(&self) -> Kicked {
        *self.shared.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match self.shared.kicked.load(Ordering::SeqCst) {
            0 => Kicked::Not,
            1 => Kicked::Halted,
            _ => Kicked::Late,
        }
    }
}

impl Watched {
    fn run(&self) {
        use viv_engine::Kick;
        while !self.ended.load(Ordering::SeqCst) {
            if let Some((inbox, until)) = &*self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
                && self.kicked.load(Ordering::SeqCst) == 0
            {
                if inbox.is_asleep() {
                    self.kicked.store(1, Ordering::SeqCst);
                    inbox.kick();
                } else if Instant::now() > *until {
                    self.kicked.store(2, Ordering::SeqCst);
                    inbox.kick();
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
