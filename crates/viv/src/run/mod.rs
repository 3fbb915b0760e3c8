//! `viv run`: what is asked for becomes a session.

mod direct;
mod image;

use viv_vmm::MachineConfig;
use viv_vmm::config::{ConfigError, EngineChoice};
use viv_vmm::engine::choose;
use viv_vmm::host::HostFacts;

use crate::cli::{EngineArg, RunArgs};
use crate::failure::Failure;
use crate::image as images;
use crate::session::{self, Outcome};

/// Runs a machine to its end.
pub fn run(args: &RunArgs) -> Result<Outcome, Failure> {
    // Before anything that takes long.
    choose(args.engine.into(), &HostFacts::read())
        .map_err(|error| Failure::of(format!("--engine {}", args.engine), &error))?;
    match (&args.kernel, &args.image) {
        (Some(kernel), _) => {
            let plan = direct::plan(args, kernel)?;
            validate(&plan.config, args)?;
            session::run(plan)
        }
        (None, Some(image)) => run_image(args, image),
        // The command line asks for either; without both there is nothing to run.
        (None, None) => Err(Failure::line("neither an image nor --kernel is given")),
    }
}

/// Runs a machine from an image, which stays in use until its end.
fn run_image(args: &RunArgs, name: &str) -> Result<Outcome, Failure> {
    if let Some(option) = direct::option_given(args) {
        let why = "it is for a kernel that is booted directly";
        return Err(Failure::new(option, why).remedy("give --kernel FILE"));
    }
    let name = images::named(name)?;
    let store = images::open()?;
    image::check(args, &store)?;
    let handle = images::ensure(&store, name)?;
    let kept = args.keep.as_ref().map(|name| store.keep(name, &handle)).transpose();
    let kept = kept.map_err(|error| Failure::of("taking up the kept disk", &error))?;
    let plan = image::plan(args, &handle, kept.as_ref())?;
    validate(&plan.config, args)?;
    session::run(plan)
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
            ConfigError::Disks { .. } => "--disk".to_owned(),
            ConfigError::Cmdline { .. } => "--append".to_owned(),
            _ => "making the machine".to_owned(),
        };
        Failure::of(option, &error)
    })
}
