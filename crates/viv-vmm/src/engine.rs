//! Which engine runs a machine, and why.

use viv_engine::{Engine, EngineKind};
use viv_kvm::KvmEngine;
use viv_soft::{OptionError, SoftEngine};

use crate::config::EngineChoice;
use crate::error::chain;
use crate::host::{HostFacts, KvmBacking};

/// An engine with the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The engine.
    pub engine: EngineKind,
    /// Why, in one line.
    pub reason: String,
    /// What to expect of it that nobody would wish for, if there is anything.
    pub warning: Option<&'static str>,
}

impl Decision {
    fn new(engine: EngineKind, reason: impl Into<String>) -> Self {
        Self { engine, reason: reason.into(), warning: None }
    }
}

/// Why the engine asked for cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is no KVM.
    #[error(
        "the kvm engine cannot run here: there is no /dev/kvm; load kvm_intel or kvm_amd, or use --engine soft"
    )]
    KvmAbsent,
    /// There is KVM, for others.
    #[error("the kvm engine cannot run here: {NOT_ACCESSIBLE}; join the group kvm, or use --engine soft")]
    KvmNotAccessible,
    /// KVM is not as it should be.
    #[error("{0}; or use --engine soft")]
    KvmFailed(String),
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
    /// The software engine cannot begin.
    #[error("the soft engine cannot run here: {0}")]
    SoftFailed(String),
}

const ASKED_FOR: &str = "it was asked for";
const NOT_ACCESSIBLE: &str = "/dev/kvm is not open to this user";
const PVM: &str = "/dev/kvm is not backed by hardware: it is kvm_pvm, on which guest kernels do not boot";
const NO_EXTENSION: &str = "/dev/kvm is not backed by hardware: the processor shows neither vmx nor svm";

/// Chooses the engine for `choice` on a host with these facts.
///
/// # Errors
/// When what was asked for by name cannot run here. `Auto` never fails.
pub fn choose(choice: EngineChoice, host: &HostFacts) -> Result<Decision, ChoiceError> {
    let soft = |reason: &str| Ok(Decision::new(EngineKind::Soft, reason));
    let kvm = |reason: &str| Ok(Decision::new(EngineKind::Kvm, reason));
    let kvm_anyway =
        |warning| Ok(Decision { warning: Some(warning), ..Decision::new(EngineKind::Kvm, ASKED_FOR) });
    match (choice, host.kvm) {
        (EngineChoice::Soft, _) => soft(ASKED_FOR),
        (EngineChoice::Auto, KvmBacking::Absent) => soft("there is no /dev/kvm"),
        (EngineChoice::Auto, KvmBacking::Pvm) => soft(PVM),
        (EngineChoice::Auto, KvmBacking::Unknown) => soft(NO_EXTENSION),
        (EngineChoice::Auto, KvmBacking::Hardware { accessible: false }) => soft(NOT_ACCESSIBLE),
        (EngineChoice::Auto, KvmBacking::Hardware { accessible: true }) => {
            kvm("/dev/kvm is backed by hardware")
        }
        (EngineChoice::Kvm, KvmBacking::Absent) => Err(ChoiceError::KvmAbsent),
        (EngineChoice::Kvm, KvmBacking::Pvm) => kvm_anyway(PVM),
        (EngineChoice::Kvm, KvmBacking::Unknown) => kvm_anyway(NO_EXTENSION),
        (EngineChoice::Kvm, KvmBacking::Hardware { accessible: false }) => Err(ChoiceError::KvmNotAccessible),
        (EngineChoice::Kvm, KvmBacking::Hardware { accessible: true }) => kvm(ASKED_FOR),
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
///
/// # Errors
/// When what was asked for by name cannot run here, or does not take an option.
pub fn make(choice: EngineChoice, options: &[String]) -> Result<(Box<dyn Engine>, Decision), ChoiceError> {
    let decision = choose(choice, &HostFacts::read())?;
    check_options(decision.engine, options)?;
    let soft = |decision| -> Result<(Box<dyn Engine>, Decision), ChoiceError> {
        let engine = SoftEngine::with_options(soft_options(options)?);
        Ok((Box::new(engine.map_err(|error| ChoiceError::SoftFailed(chain(&error)))?), decision))
    };
    match decision.engine {
        EngineKind::Soft => soft(decision),
        EngineKind::Kvm => match KvmEngine::open() {
            Ok(engine) => Ok((Box::new(engine), decision)),
            // Whoever leaves the choice to us wants a machine.
            Err(error) if choice == EngineChoice::Auto => {
                soft(Decision::new(EngineKind::Soft, chain(&error)))
            }
            Err(error) => Err(ChoiceError::KvmFailed(chain(&error))),
        },
    }
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
        let decision = choose(EngineChoice::Auto, &host(&[INTEL, KVM])).unwrap();
        assert_eq!((decision.engine, decision.warning), (EngineKind::Kvm, None));
    }

    #[test]
    fn kvm_that_is_asked_for_runs_wherever_there_is_one() {
        let choose = |files: &[_]| choose(EngineChoice::Kvm, &host(files));
        assert_eq!(choose(&[GUEST]), Err(ChoiceError::KvmAbsent));
        for (files, warns) in [(&[GUEST, KVM][..], true), (&[GUEST, KVM, PVM], true), (&[INTEL, KVM], false)]
        {
            let decision = choose(files).unwrap();
            assert_eq!((decision.engine, decision.warning.is_some()), (EngineKind::Kvm, warns));
        }
        let closed = HostFacts { kvm: KvmBacking::Hardware { accessible: false }, ..host(&[INTEL, KVM]) };
        assert_eq!(super::choose(EngineChoice::Kvm, &closed), Err(ChoiceError::KvmNotAccessible));
        assert_eq!(super::choose(EngineChoice::Auto, &closed).unwrap().engine, EngineKind::Soft);
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
