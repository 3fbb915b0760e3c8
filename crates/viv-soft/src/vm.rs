//! The engine and its virtual machine: what the vCPUs share.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use viv_arch::CpuidTable;
use viv_engine::{
    A20Target, Clock, Engine, EngineError, EngineKind, ExtIntTarget, GuestMemory, Msi, MsiTarget, Platform,
    Vcpu, Vm, VmParameters, memory,
};

use vm_memory::GuestMemoryBackend;

use crate::alarm::Alarm;
use crate::apic::{ApicAddress, Interconnect, Message};
use crate::inbox::Inbox;
use crate::options::Options;
use crate::perf_map::PerfMap;
use crate::ram::Ram;
use crate::tsc::{CommonTsc, Timebase, host_tsc_khz};
use crate::vcpu::SoftVcpu;

/// The software engine.
#[derive(Debug, Default)]
pub struct SoftEngine {
    options: Options,
    perf_map: Option<Arc<PerfMap>>,
}

impl SoftEngine {
    /// An engine that runs guest code as these options say. All that it reads and writes of the host's files is read and
    /// opened here.
    ///
    /// # Errors
    /// When a file that the options ask for cannot be written.
    pub fn with_options(options: Options) -> Result<Self, EngineError> {
        host_cores();
        let perf_map = options
            .perf_map
            .then(PerfMap::create)
            .transpose()
            .map_err(|source| EngineError::Host { action: "write /tmp/perf-PID.map", source })?;
        Ok(Self { options, perf_map: perf_map.map(Arc::new) })
    }
}

/// How many cores the host has for this process, as it was when this was first asked.
fn host_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

impl Engine for SoftEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Soft
    }

    fn tsc_khz(&self) -> u32 {
        host_tsc_khz()
    }

    fn create_vm(&self, parameters: VmParameters) -> Result<Arc<dyn Vm>, EngineError> {
        Ok(Arc::new(SoftVm::new(parameters, self.options, self.perf_map.clone())?))
    }
}

/// What all vCPUs of a machine share.
pub struct Shared {
    /// How guest code is to be run.
    pub options: Options,
    /// Where translated code is named, if it is.
    pub perf_map: Option<Arc<PerfMap>>,
    pub ram: Arc<Ram>,
    /// Whether address line 20 is held low.
    a20_closed: AtomicBool,
    inboxes: Box<[Arc<Inbox>]>,
    /// Moves when code that was decoded has been written.
    code_writes: Arc<AtomicU64>,
    progress: Box<[Progress]>,
    pub interconnect: Interconnect,
    pub alarm: Alarm,
    pub cpuid: CpuidTable,
    pub clock: Arc<dyn Clock>,
    pub timebase: Timebase,
    /// How many cores the host has for this process.
    cores: usize,
    /// What keeps the vCPUs' TSCs in step. They start at 0.
    pub tsc: CommonTsc,
}

impl Shared {
    /// The inbox of vCPU `index`.
    #[inline]
    pub fn inbox(&self, index: u32) -> &Arc<Inbox> {
        &self.inboxes[index as usize]
    }

    /// Moves when code that was decoded has been written, by whomever.
    #[inline]
    pub fn code_writes(&self) -> u64 {
        self.code_writes.load(Ordering::Acquire)
    }

    /// The bits of a guest-physical address that reach memory.
    pub fn address_lines(&self) -> u64 {
        if self.a20_closed.load(Ordering::Acquire) { !(1 << 20) } else { u64::MAX }
    }

    /// Wakes the vCPU with this APIC id, if there is one.
    pub fn wake(&self, id: u64) {
        if let Some(inbox) = usize::try_from(id).ok().and_then(|index| self.inboxes.get(index)) {
            inbox.post_wake();
        }
    }

    /// How often a vCPU may PAUSE before its thread lets others run. Whoever has the lock that it spins for waits for a
    /// core if there are more vCPUs than cores, and is unlikely to otherwise.
    pub fn patience(&self) -> i32 {
        match self.vcpus() {
            1 => i32::MAX,
            vcpus if vcpus > self.cores => 32,
            _ => 2048,
        }
    }

    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.inboxes.len()
    }

    /// Makes all vCPUs but `me` drop their cached translations, and returns when none uses one any more. A vCPU that
    /// calls it does so between two blocks.
    pub fn flush_translations(&self, me: Option<u32>) {
        let is_me = |index: usize| me.is_some_and(|me| me as usize == index);
        if self.vcpus() == 1 && is_me(0) {
            return;
        }
        let rounds: Vec<u64> = (self.progress.iter().zip(&self.inboxes).enumerate())
            .map(|(index, (progress, inbox))| {
                if is_me(index) {
                    return 0;
                }
                let round = progress.requested.fetch_add(1, Ordering::SeqCst) + 1;
                inbox.post_flush_tlb();
                round
            })
            .collect();
        // Two vCPUs may wait for each other: one that waits runs no guest code.
        if let Some(me) = me {
            self.set_running(me, false);
        }
        for (index, (progress, round)) in self.progress.iter().zip(rounds).enumerate() {
            while !is_me(index)
                && progress.running.load(Ordering::SeqCst)
                && progress.flushed.load(Ordering::SeqCst) < round
            {
                std::thread::yield_now();
            }
        }
        if let Some(me) = me {
            self.set_running(me, true);
        }
    }

    /// Says whether vCPU `index` runs guest code. After it says that it does, it looks into its inbox first.
    pub fn set_running(&self, index: u32, running: bool) {
        self.progress[index as usize].running.store(running, Ordering::SeqCst);
        // The inbox is read after this, or whoever asks for a flush sees `running`.
        fence(Ordering::SeqCst);
    }

    /// What vCPU `index` is to pass to [`Shared::flushed`] once it has dropped its translations.
    pub fn flush_round(&self, index: u32) -> u64 {
        self.progress[index as usize].requested.load(Ordering::SeqCst)
    }

    /// Says that vCPU `index` has dropped its translations.
    pub fn flushed(&self, index: u32, round: u64) {
        self.progress[index as usize].flushed.store(round, Ordering::SeqCst);
    }
}

/// How far a vCPU has come with flushes that others wait for.
#[derive(Default)]
struct Progress {
    running: AtomicBool,
    requested: AtomicU64,
    flushed: AtomicU64,
}

fn inbox() -> Result<Arc<Inbox>, EngineError> {
    let inbox = Inbox::new();
    inbox
        .map(Arc::new)
        .map_err(|source| EngineError::Host { action: "map memory for a vCPU's events", source })
}

/// A virtual machine on the software engine.
pub struct SoftVm {
    memory: GuestMemory,
    addresses: Box<[Arc<ApicAddress>]>,
    shared: Arc<Shared>,
}

impl SoftVm {
    /// A machine with no vCPU yet, whose translated code is named in `perf_map`.
    pub fn new(
        parameters: VmParameters,
        options: Options,
        perf_map: Option<Arc<PerfMap>>,
    ) -> Result<Self, EngineError> {
        let inboxes = (0..parameters.vcpus).map(|_| inbox()).collect::<Result<_, _>>()?;
        Self::with_inboxes(parameters, options, perf_map, inboxes)
    }

    /// A machine of which vCPU `index` alone is made, and nothing reaches it but what it does itself.
    pub fn of_one(index: u32, parameters: VmParameters, options: Options) -> Result<Self, EngineError> {
        let (own, others) = (inbox()?, inbox()?);
        let inboxes = (0..parameters.vcpus).map(|number| if number == index { &own } else { &others });
        let inboxes = inboxes.map(Arc::clone).collect();
        Self::with_inboxes(parameters, options, None, inboxes)
    }

    fn with_inboxes(
        parameters: VmParameters,
        options: Options,
        perf_map: Option<Arc<PerfMap>>,
        inboxes: Box<[Arc<Inbox>]>,
    ) -> Result<Self, EngineError> {
        let addresses: Box<[Arc<ApicAddress>]> = (0..parameters.vcpus).map(|_| Arc::default()).collect();
        let ports = addresses.iter().cloned().zip(inboxes.iter().cloned());
        let interconnect = Interconnect::new(ports);
        let alarm = Alarm::new(inboxes.iter().cloned())
            .map_err(|source| EngineError::Host { action: "start the timer thread", source })?;
        let ram = Arc::new(Ram::new(&parameters.memory, parameters.rom.as_ref()));
        let code_writes = Arc::new(AtomicU64::new(0));
        let tell: memory::CodeWrites = {
            let (code_writes, inboxes) = (Arc::clone(&code_writes), inboxes.clone());
            Arc::new(move || {
                code_writes.fetch_add(1, Ordering::AcqRel);
                inboxes.iter().for_each(|inbox| inbox.notify());
            })
        };
        for region in parameters.memory.iter().chain(parameters.rom.iter().flat_map(GuestMemory::iter)) {
            memory::record(region).on_code_writes(Arc::clone(&tell));
        }
        let timebase = Timebase::new(host_tsc_khz());
        Ok(Self {
            memory: parameters.memory,
            addresses,
            shared: Arc::new(Shared {
                options,
                perf_map,
                ram,
                a20_closed: AtomicBool::new(false),
                code_writes,
                progress: inboxes.iter().map(|_| Progress::default()).collect(),
                inboxes,
                interconnect,
                alarm,
                cpuid: parameters.cpuid,
                clock: parameters.clock,
                timebase,
                cores: host_cores(),
                tsc: CommonTsc::new(timebase),
            }),
        })
    }

    /// The inbox of the first vCPU.
    #[cfg(test)]
    pub fn inbox(&self) -> &Arc<Inbox> {
        self.shared.inbox(0)
    }

    /// vCPU `index` after power-on.
    pub fn vcpu(&self, index: u32, platform: Arc<dyn Platform>) -> Result<SoftVcpu, EngineError> {
        let Some(address) = self.addresses.get(index as usize) else {
            return Err(EngineError::BadState(format!("there is no vCPU {index}")));
        };
        tracing::debug!(index, options = ?self.shared.options, "a vCPU of the software engine");
        SoftVcpu::new(index, Arc::clone(&self.shared), Arc::clone(address), platform)
    }
}

impl MsiTarget for SoftVm {
    fn send_msi(&self, msi: Msi) {
        if let Some(message) = Message::from_msi(msi) {
            self.shared.interconnect.deliver(&message);
        }
    }
}

impl ExtIntTarget for SoftVm {
    fn set_extint(&self, asserted: bool) {
        // The 8259 is wired to the bootstrap processor.
        if let Some(inbox) = self.shared.inboxes.first() {
            inbox.set_extint(asserted);
        }
    }
}

impl A20Target for SoftVm {
    fn set_a20(&self, open: bool) {
        self.shared.a20_closed.store(!open, Ordering::Release);
        self.shared.inboxes.iter().for_each(|inbox| inbox.post_flush_tlb());
    }
}

impl Vm for SoftVm {
    fn create_vcpu(&self, index: u32, platform: Arc<dyn Platform>) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(self.vcpu(index, platform)?))
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>, EngineError> {
        let pages = memory::take_dirty_pages(&self.memory);
        // A page that was dirty can be written through a cached translation without a word to its record: not after
        // this. What was written until now is in pages that are reported now.
        self.shared.flush_translations(None);
        Ok(pages)
    }
}
