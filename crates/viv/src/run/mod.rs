//! `viv run`: what is asked for becomes a session.

mod direct;

use viv_vmm::MachineConfig;
use viv_vmm::config::{ConfigError, EngineChoice};

use crate::cli::{EngineArg, RunArgs};
use crate::failure::Failure;
use crate::session::{self, Outcome};

/// Runs a machine to its end.
pub fn run(args: RunArgs) -> Result<Outcome, Failure> {
    if let Some(kernel) = &args.kernel {
        let plan = direct::plan(&args, kernel)?;
        validate(&plan.config, &args)?;
        return session::run(plan);
    }
    if let Some(option) = direct::option_given(&args) {
        return Err(
            Failure::new(option, "it is for a kernel that is booted directly").remedy("give --kernel FILE")
        );
    }
    todo!()
}

impl From<EngineArg> for EngineChoice {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Auto => Self::Auto,
            EngineArg::Soft => Self::Soft,
            EngineArg::Kvm => Self::Kvm,
        }
    }
}

/// Checks a config, to name the option that is at fault.
fn validate(config: &MachineConfig, args: &RunArgs) -> Result<(), Failure> {
    config.validate().map_err(|error| {
        let option = match &error {
            ConfigError::Memory { .. } | ConfigError::HostMemory { .. } => {
                format!("--memory {}", args.memory)
            }
            ConfigError::Vcpus { .. } => format!("--cpus {}", args.cpus),
            ConfigError::Disks { .. } => "--disk".to_owned(),
            ConfigError::Cmdline { .. } => "--append".to_owned(),
            _ => "making the machine".to_owned(),
        };
        Failure::of(option, &error)
    })
}
