//! The engine: what this host's KVM can do.

use std::io;
use std::sync::Arc;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use viv_arch::{CpuidTable, msr as numbers};
use viv_engine::{Engine, EngineError, EngineKind, Vm, VmParameters};

use crate::cpuid::Offer;
use crate::vm::KvmVm;
use crate::{error, msr};

/// The version of the interface, since 2007.
const API_VERSION: i32 = 12;

/// What the engine cannot do without, with the names that the kernel's documentation has for them.
const REQUIRED: [(Cap, &str); 14] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
];

/// What is known of a host's KVM.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) kvm: Kvm,
    pub(crate) offer: Offer,
    /// Frequency of guests' TSCs, in kHz.
    pub(crate) tsc_khz: u32,
    /// The MSRs that travel and that it has, with what they are after power-on.
    pub(crate) msrs: Vec<(u32, u64)>,
}

/// The hardware engine.
#[derive(Debug)]
pub struct KvmEngine {
    host: Arc<Host>,
}

impl KvmEngine {
    /// The engine on this host's `/dev/kvm`.
    ///
    /// # Errors
    /// When there is none, this user may not open it, or it lacks something.
    pub fn open() -> Result<Self, EngineError> {
        let unavailable = |reason: String| EngineError::Unavailable { engine: EngineKind::Kvm, reason };
        let kvm = Kvm::new().map_err(|error| unavailable(why_not_open(error.errno())))?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(unavailable(format!("/dev/kvm has version {version} instead of {API_VERSION}")));
        }
        if let Some((_, name)) = REQUIRED.into_iter().find(|&(cap, _)| !kvm.check_extension(cap)) {
            return Err(unavailable(format!("/dev/kvm lacks {name}; run a newer Linux, 5.10 or later")));
        }
        let (_vm, vcpu) = probe(&kvm)?;
        let entries = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(error::host("ask KVM for the features of guests' processors"))?;
        let offer = Offer {
            entries: entries.as_slice().to_vec(),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            arch_capabilities: msr::read(&vcpu, numbers::IA32_ARCH_CAPABILITIES).is_some(),
        };
        let tsc_khz = vcpu.get_tsc_khz().map_err(error::host("ask KVM for the TSC's frequency"))?;
        let msrs = msr::saved().filter_map(|number| Some((number, msr::read(&vcpu, number)?))).collect();
        Ok(Self { host: Arc::new(Host { kvm, offer, tsc_khz, msrs }) })
    }
}

/// A machine that never runs, to ask it what KVM says of machines alone.
fn probe(kvm: &Kvm) -> Result<(VmFd, VcpuFd), EngineError> {
    let vm = kvm.create_vm().map_err(error::host("make a virtual machine with KVM"))?;
    let vcpu = vm.create_vcpu(0).map_err(error::host("make a vCPU with KVM"))?;
    Ok((vm, vcpu))
}

fn why_not_open(errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    match error.kind() {
        io::ErrorKind::NotFound => "there is no /dev/kvm; load kvm_intel or kvm_amd".to_owned(),
        io::ErrorKind::PermissionDenied => "/dev/kvm is not open to this user; join the group kvm".to_owned(),
        _ => format!("/dev/kvm cannot be opened: {error}"),
    }
}

impl Engine for KvmEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Kvm
    }

    fn tsc_khz(&self) -> u32 {
        self.host.tsc_khz
    }

    fn offered(&self, wanted: &CpuidTable) -> CpuidTable {
        self.host.offer.limit(wanted)
    }

    fn create_vm(&self, parameters: VmParameters) -> Result<Arc<dyn Vm>, EngineError> {
        Ok(KvmVm::create(Arc::clone(&self.host), parameters)?)
    }
}
