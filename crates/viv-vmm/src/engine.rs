//! Which engine runs a machine, and why.

use viv_engine::{Engine, EngineKind};

use crate::config::EngineChoice;
use crate::host::{HostFacts, KvmBacking};

/// An engine with the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The engine.
    pub engine: EngineKind,
    /// Why, in one line.
    pub reason: String,
}

/// Why the engine asked for cannot run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is no KVM.
    #[error("the kvm engine cannot run here: there is no /dev/kvm; use --engine soft")]
    KvmAbsent,
    /// There is something called KVM.
    #[error(
        "the kvm engine cannot run here: /dev/kvm is not backed by hardware \
         (neither vmx nor svm, or the kvm_pvm module); use --engine soft"
    )]
    KvmNotHardware,
    /// There is KVM, and this program cannot use it.
    #[error("the kvm engine is not in this version yet; use --engine soft")]
    KvmNotBuilt,
}

/// Chooses the engine for `choice` on a host with these facts.
///
/// # Errors
/// When what was asked for by name cannot run here. `Auto` never fails.
pub fn choose(choice: EngineChoice, host: &HostFacts) -> Result<Decision, ChoiceError> {
    let soft = |reason: &str| Decision { engine: EngineKind::Soft, reason: reason.to_owned() };
    match (choice, host.kvm) {
        (EngineChoice::Soft, _) => Ok(soft("it was asked for")),
        (EngineChoice::Auto, KvmBacking::Absent) => Ok(soft("there is no /dev/kvm")),
        (EngineChoice::Auto, KvmBacking::Pvm) => {
            Ok(soft("/dev/kvm is not backed by hardware: it is kvm_pvm, on which guest kernels do not boot"))
        }
        (EngineChoice::Auto, KvmBacking::Unknown) => {
            Ok(soft("/dev/kvm is not backed by hardware: the processor shows neither vmx nor svm"))
        }
        (EngineChoice::Auto, KvmBacking::Hardware { .. }) => {
            Ok(soft("the kvm engine is not in this version yet"))
        }
        (EngineChoice::Kvm, KvmBacking::Absent) => Err(ChoiceError::KvmAbsent),
        (EngineChoice::Kvm, KvmBacking::Pvm | KvmBacking::Unknown) => Err(ChoiceError::KvmNotHardware),
        (EngineChoice::Kvm, KvmBacking::Hardware { .. }) => Err(ChoiceError::KvmNotBuilt),
    }
}

/// Makes the engine for `choice` on this host, and says why it is this one.
pub(crate) fn make(choice: EngineChoice) -> Result<(Box<dyn Engine>, Decision), ChoiceError> {
    let decision = choose(choice, &HostFacts::read())?;
    let engine: Box<dyn Engine> = match decision.engine {
        EngineKind::Soft => Box::new(viv_soft::SoftEngine),
        EngineKind::Kvm => return Err(ChoiceError::KvmNotBuilt),
    };
    Ok((engine, decision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GUEST, INTEL, KVM, PVM, host};

    #[test]
    fn auto_says_why() {
        let reason = |files: &[_]| choose(EngineChoice::Auto, &host(files)).unwrap().reason;
        assert!(reason(&[GUEST]).contains("no /dev/kvm"));
        assert!(reason(&[GUEST, KVM]).contains("neither vmx nor svm"));
        assert!(reason(&[GUEST, KVM, PVM]).contains("kvm_pvm"));
        assert!(reason(&[INTEL, KVM]).contains("not in this version"));
    }

    #[test]
    fn kvm_is_refused_with_its_own_reason_each() {
        let error = |files: &[_]| choose(EngineChoice::Kvm, &host(files)).unwrap_err();
        assert_eq!(error(&[GUEST]), ChoiceError::KvmAbsent);
        assert_eq!(error(&[GUEST, KVM]), ChoiceError::KvmNotHardware);
        assert_eq!(error(&[GUEST, KVM, PVM]), ChoiceError::KvmNotHardware);
        assert_eq!(error(&[INTEL, KVM]), ChoiceError::KvmNotBuilt);
    }
}
