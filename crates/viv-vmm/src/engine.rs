//! Which engine runs a machine, and why.

use viv_engine::{Engine, EngineKind};
use viv_soft::{OptionError, SoftEngine};

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// An option is given for an engine that has none.
    #[error("the {engine} engine has no option '{option}': it has none at all")]
    NoOptions {
        /// The engine that is used.
        engine: EngineKind,
        /// The option.
        option: String,
    },
    /// The software engine does not take an option.
    #[error(transparent)]
    SoftOption(#[from] OptionError),
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

/// Checks options, of the form `key=value`, for the engine that is used.
///
/// # Errors
/// One for the first that this engine does not take.
pub fn check_options(engine: EngineKind, options: &[String]) -> Result<(), ChoiceError> {
    match (engine, options.first()) {
        (EngineKind::Soft, _) => soft_options(options).map(drop),
        (EngineKind::Kvm, None) => Ok(()),
        (EngineKind::Kvm, Some(option)) => Err(ChoiceError::NoOptions { engine, option: option.clone() }),
    }
}

fn soft_options(options: &[String]) -> Result<viv_soft::Options, ChoiceError> {
    Ok(viv_soft::Options::parse(options)?)
}

/// Makes the engine for `choice` with its options on this host, and says why it is this one.
pub(crate) fn make(
    choice: EngineChoice,
    options: &[String],
) -> Result<(Box<dyn Engine>, Decision), ChoiceError> {
    let decision = choose(choice, &HostFacts::read())?;
    check_options(decision.engine, options)?;
    let engine: Box<dyn Engine> = match decision.engine {
        EngineKind::Soft => Box::new(SoftEngine::with_options(soft_options(options)?)),
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

    #[test]
    fn options_are_those_of_the_engine_that_is_used() {
        let check = |engine, options: &[&str]| {
            let options: Vec<_> = options.iter().map(ToString::to_string).collect();
            check_options(engine, &options).map_err(|error| error.to_string())
        };
        assert_eq!(check(EngineKind::Soft, &["tier=interp", "torture=7"]), Ok(()));
        assert_eq!(check(EngineKind::Kvm, &[]), Ok(()));
        let error = check(EngineKind::Soft, &["tier=fast"]).unwrap_err();
        assert!(error.contains("interp, translate or auto"), "{error}");
        let error = check(EngineKind::Kvm, &["tier=interp"]).unwrap_err();
        assert!(error.contains("the kvm engine has no option 'tier=interp'"), "{error}");
    }
}
