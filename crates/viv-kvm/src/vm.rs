//! A virtual machine: what its vCPUs share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_bindings::{
    KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use viv_arch::CpuidTable;
use viv_engine::{
    A20Target, Clock, EngineError, ExtIntTarget, GuestMemory, Msi, MsiTarget, Platform, Shortcuts, Vcpu, Vm,
    VmParameters,
};
use viv_soft::tsc::{CommonTsc, Timebase};

use crate::clock::KvmClock;
use crate::engine::Host;
use crate::kick::Kicker;
use crate::memory::Slots;
use crate::routes::Routes;
use crate::vcpu::KvmVcpu;
use crate::{error, msr, routes};

/// Where KVM may have four pages of its own, which VT-x needs in real mode: below the flash, above every device.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;

/// A virtual machine on KVM.
pub(crate) struct KvmVm {
    pub(crate) fd: VmFd,
    host: Arc<Host>,
    slots: Mutex<Slots>,
    routes: Mutex<Routes>,
    memory: GuestMemory,
    rom: Option<GuestMemory>,
    vcpus: u32,
    cpuid: CpuidTable,
    guest_clock: Arc<dyn Clock>,
    clock: KvmClock,
    tsc: CommonTsc,
    /// The 8259's INTR line, which is wired to vCPU 0.
    extint: AtomicBool,
    bootstrap: OnceLock<Arc<Kicker>>,
    this: std::sync::Weak<Self>,
}

impl KvmVm {
    /// A machine with no vCPU yet.
    pub(crate) fn create(host: Arc<Host>, parameters: VmParameters) -> Result<Arc<Self>, EngineError> {
        let VmParameters { memory, rom, vcpus, cpuid, clock } = parameters;
        let fd = host.kvm.create_vm().map_err(error::host("make a virtual machine with KVM"))?;
        fd.set_identity_map_address(IDENTITY_MAP).map_err(error::host("place KVM's page table"))?;
        fd.set_tss_address(TSS).map_err(error::host("place KVM's task state"))?;
        enable(&fd, KVM_CAP_SPLIT_IRQCHIP, routes::PINS.into(), "have KVM emulate local APICs alone")?;
        enable(&fd, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS.into(), "have 32-bit APIC ids")?;
        let reasons = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
        enable(&fd, KVM_CAP_X86_USER_SPACE_MSR, reasons.into(), "be told of the guest's MSRs")?;
        if fd.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) > 0 {
            enable(&fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, "be told of what KVM cannot emulate")?;
        }
        msr::filter(&fd)?;
        let slots = Mutex::new(Slots::new(&fd, memory.clone(), rom.clone())?);
        let cpuid = host.offer.limit(&cpuid);
        let tsc = CommonTsc::new(Timebase::new(host.tsc_khz));
        Ok(Arc::new_cyclic(|this| Self {
            fd,
            host,
            slots,
            routes: Mutex::default(),
            memory,
            rom,
            vcpus,
            cpuid,
            clock: KvmClock::new(Arc::clone(&clock)),
            guest_clock: clock,
            tsc,
            extint: AtomicBool::new(false),
            bootstrap: OnceLock::new(),
            this: this.clone(),
        }))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn cpuid(&self) -> &CpuidTable {
        &self.cpuid
    }

    pub(crate) fn clock(&self) -> &KvmClock {
        &self.clock
    }

    /// What keeps the vCPUs' TSCs in step.
    pub(crate) fn tsc(&self) -> &CommonTsc {
        &self.tsc
    }

    /// Whether the 8259 asserts INTR.
    pub(crate) fn extint(&self) -> bool {
        self.extint.load(Ordering::SeqCst)
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// What another engine needs to run single instructions of this machine.
    pub(crate) fn parameters(&self) -> VmParameters {
        VmParameters {
            memory: self.memory.clone(),
            rom: self.rom.clone(),
            vcpus: self.vcpus,
            cpuid: self.cpuid.clone(),
            clock: Arc::clone(&self.guest_clock),
        }
    }

    /// The routing table.
    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room in the record of written pages.
    pub(crate) fn collect_dirty(&self) -> Result<(), EngineError> {
        self.slots().collect(&self.fd)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enable(vm: &VmFd, cap: u32, argument: u64, action: &'static str) -> Result<(), EngineError> {
    let request = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..kvm_enable_cap::default() };
    vm.enable_cap(&request).map_err(error::host(action))
}

impl MsiTarget for KvmVm {
    fn send_msi(&self, msi: Msi) {
        if let Err(error) = self.fd.signal_msi(routes::message(msi)) {
            tracing::debug!(?msi, %error, "an interrupt that KVM does not take");
        }
    }

    fn set_level_route(&self, pin: u8, message: Option<Msi>) {
        if let Err(error) = self.routes().set_pin(&self.fd, pin, message) {
            tracing::error!(
                pin,
                ?message,
                error = &error as &dyn std::error::Error,
                "an IOAPIC pin is not routed"
            );
        }
    }
}

impl ExtIntTarget for KvmVm {
    fn set_extint(&self, asserted: bool) {
        self.extint.store(asserted, Ordering::SeqCst);
        if asserted && let Some(vcpu) = self.bootstrap.get() {
            vcpu.interrupt();
        }
    }
}

// KVM has no A20M#.
impl A20Target for KvmVm {}

impl Vm for KvmVm {
    fn create_vcpu(&self, index: u32, platform: Arc<dyn Platform>) -> Result<Box<dyn Vcpu>, EngineError> {
        let Some(this) = self.this.upgrade().filter(|_| index < self.vcpus) else {
            return Err(EngineError::BadState(format!("there is no vCPU {index}")));
        };
        let vcpu = KvmVcpu::new(index, this, platform)?;
        self.slots().add_vcpu(vcpu.fd())?;
        if index == 0 {
            // A second vCPU 0 would have been refused.
            let _ = self.bootstrap.set(vcpu.handle());
        }
        Ok(Box::new(vcpu))
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>, EngineError> {
        self.slots().take_dirty(&self.fd)
    }

    fn shortcuts(&self) -> Option<&dyn Shortcuts> {
        Some(self)
    }
}
