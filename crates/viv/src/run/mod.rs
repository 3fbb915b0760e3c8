//! `viv run`: what is asked for becomes a session.

mod consoles;
mod direct;
pub mod firmware;
mod gdb;
mod image;
mod network;
mod pmem;
mod share;
mod socket;
mod vsock;

use viv_vmm::MachineConfig;
use viv_vmm::config::{ConfigError, EngineChoice, MAX_MEMORY, MIN_MEMORY, WatchdogAction};
use viv_vmm::engine::{check_options, choose};
use viv_vmm::host::HostFacts;

use crate::cli::{EngineArg, JailArg, RunArgs, WatchdogArg};
use crate::failure::{self, Failure};
use crate::image as images;
use crate::session;
use crate::size::Size;

/// Bytes of a page: memory comes in whole ones.
const PAGE: u64 = 4096;

/// Runs a machine to its end, and returns the exit status.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    // Before anything that takes long.
    let host = HostFacts::read();
    let decision = choose(args.engine.into(), &host)
        .map_err(|error| Failure::of(format!("--engine {}", args.engine), &error))?;
    if let Some(warning) = decision.warning {
        failure::warn(&format!("--engine {}: {warning}", args.engine));
    }
    // In a jail the process has another number than the one that perf knows.
    if args.jail == JailArg::On && args.engine_opt.iter().any(|option| option == "perf-map=on") {
        let failure = Failure::new("--engine-opt perf-map=on", "perf does not find the process in its jail");
        return Err(failure.remedy("add --jail off"));
    }
    if args.jail == JailArg::Off {
        failure::warn(
            "--jail off: a guest that takes its VM process over has all that you have; for debugging alone",
        );
    }
    check_options(decision.engine, &args.engine_opt).map_err(|error| Failure::of("--engine-opt", &error))?;
    let least = if args.image.is_some() { image::MIN_MEMORY } else { MIN_MEMORY };
    for size in [args.memory.size, args.memory.most] {
        check_memory(size, least, host.memory)
            .map_err(|why| Failure::line(format!("--memory {size}: {why}")))?;
    }
    check_display(args)?;
    let plan = match (&args.kernel, &args.firmware, &args.image) {
        (Some(kernel), ..) => direct::kernel(args, kernel)?,
        (None, Some(firmware), _) => direct::firmware(args, firmware)?,
        (None, None, Some(image)) => return run_image(args, image),
        // The command line asks for one of them; without any there is nothing to run.
        (None, None, None) => {
            return Err(Failure::line("neither an image nor --kernel nor --firmware is given"));
        }
    };
    start(args, plan)
}

/// Runs a machine from an image, which stays in use until its end.
fn run_image(args: &RunArgs, name: &str) -> Result<u8, Failure> {
    direct::refuse_options(args)?;
    let name = images::named(name)?;
    let store = images::open()?;
    image::check(args, &store)?;
    let handle = images::ensure(&store, name)?;
    let kept = args.keep.as_ref().map(|name| store.keep(name, &handle)).transpose();
    let kept = kept.map_err(|error| Failure::of("taking up the kept disk", &error))?;
    let plan = image::plan(args, &handle, kept.as_ref())?;
    start(args, plan)
}

/// Joins the machine to this host as it is asked for, and runs it to its end.
fn start(args: &RunArgs, mut plan: session::Plan) -> Result<u8, Failure> {
    network::connect(args, &mut plan)?;
    let _servers = share::connect(args, &mut plan)?;
    let _listening = vsock::listen(args.vsock.as_ref(), &mut plan)?;
    let consoles = consoles::open(&args.console, &mut plan)?;
    let lengths = pmem::add(args, &mut plan);
    validate(&plan.config)?;
    let _attachment = gdb::listen(args.gdb.as_ref(), &mut plan)?;
    let ended = session::run(plan, args.jail.into(), args.stats);
    consoles.iter().for_each(consoles::Served::finish);
    ended.map_err(|failure| lengths.explain(failure))
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

impl From<WatchdogArg> for Option<WatchdogAction> {
    fn from(action: WatchdogArg) -> Self {
        match action {
            WatchdogArg::None => None,
            WatchdogArg::Reset => Some(WatchdogAction::Reset),
            WatchdogArg::Poweroff => Some(WatchdogAction::PowerOff),
            WatchdogArg::Pause => Some(WatchdogAction::Pause),
        }
    }
}

/// Refuses what needs a display on a machine that has none.
fn check_display(args: &RunArgs) -> Result<(), Failure> {
    let asked = [
        ("--send-keys", args.send_keys.is_some()),
        ("--screenshot-on-exit", args.screenshot_on_exit.is_some()),
    ];
    match asked.into_iter().find(|&(_, asked)| asked && args.firmware.is_none()) {
        Some((option, _)) => {
            let why = "the machine has neither display nor keyboard";
            Err(Failure::new(option, why).remedy("start it with --firmware"))
        }
        None => Ok(()),
    }
}

/// Whether a machine can have that much memory where `least` is needed and the host has `most`.
fn check_memory(memory: Size, least: u64, most: u64) -> Result<(), String> {
    if memory.0 < least {
        return Err(format!("too little, {} is the least; give more, like 512M", Size(least)));
    }
    if memory.0 > most.min(MAX_MEMORY) {
        let most = Size(most.min(MAX_MEMORY) >> 20 << 20);
        return Err(format!("more than this host has, which with its swap is {most}; give less"));
    }
    if !memory.0.is_multiple_of(PAGE) {
        return Err(format!("not a multiple of {PAGE} bytes; give a rounder number, like 512M"));
    }
    Ok(())
}

/// Checks a config, to name the option that is at fault.
fn validate(config: &MachineConfig) -> Result<(), Failure> {
    config.validate().map_err(|error| {
        let option = match &error {
            ConfigError::MaxMemory { .. } | ConfigError::HugePages { .. } => "--memory",
            ConfigError::Disks { .. } | ConfigError::DiskOption { .. } => "--disk",
            ConfigError::Pmems { .. } => "--pmem",
            ConfigError::Networks { .. } | ConfigError::Network { .. } => "--net",
            ConfigError::Shares { .. } => "--share",
            ConfigError::Consoles { .. } => "--console",
            ConfigError::Cid { .. } => "--vsock",
            ConfigError::Cmdline { .. } => "--append",
            _ => "making the machine",
        };
        Failure::of(option, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_must_fit_guest_and_host() {
        let check = |bytes| check_memory(Size(bytes), 16 << 20, 8 << 30);
        assert_eq!(check(16 << 20), Ok(()));
        assert_eq!(check(8 << 30), Ok(()));
        for (bytes, needle) in [
            (0, "16M is the least"),
            ((16 << 20) - 1, "16M is the least"),
            ((16 << 20) + 1, "multiple of 4096"),
            ((8 << 30) + 4096, "with its swap is 8G"),
            (u64::MAX, "with its swap is 8G"),
        ] {
            let why = check(bytes).expect_err("refused");
            assert!(why.contains(needle), "{bytes}: {why}");
        }
        let why = check_memory(Size(2 << 40), 16 << 20, 4 << 40).expect_err("refused");
        assert!(why.contains("is 1T"), "{why}");
    }
}
