//! A kernel or firmware, the first serial port joined to standard input and output.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use viv_disk::{DiskError, Format};
use viv_vmm::config::{
    Boot, BootProtocol, DiskConfig, DiskFormat, Fds, FileSource, InitrdConfig, KernelConfig, MachineConfig,
    Overlay, Stream,
};

use super::firmware;
use crate::cli::{DiskArg, FirmwareArg, RunArgs};
use crate::failure::Failure;
use crate::session::{Plan, Sink};
use crate::terminal;

/// The session for `viv run --kernel`.
pub fn kernel(args: &RunArgs, kernel: &Path) -> Result<Plan, Failure> {
    let boot = Boot::Kernel(KernelConfig {
        kernel: FileSource::Path(kernel.to_owned()),
        initrds: args.initrd.iter().map(|given| initrd(given)).collect(),
        cmdline: args.append.clone().unwrap_or_default(),
        protocol: BootProtocol::Auto,
    });
    let name = kernel.file_name().unwrap_or(kernel.as_os_str()).to_string_lossy().into_owned();
    plan(args, name, boot)
}

/// The session for `viv run --firmware`.
pub fn firmware(args: &RunArgs, firmware: &FirmwareArg) -> Result<Plan, Failure> {
    refuse_kernel_options(args)?;
    let boot = Boot::Firmware(firmware::config(args, firmware)?);
    let first = args.disk.first().map_or("firmware".into(), |disk| disk.path.to_string_lossy());
    let name = first.rsplit('/').next().unwrap_or_default().to_owned();
    plan(args, name, boot)
}

fn plan(args: &RunArgs, name: String, boot: Boot) -> Result<Plan, Failure> {
    let mut fds = Fds::default();
    let failed = |error: io::Error| Failure::of("making pipes to the guest", &error);
    let (from_user, input) = io::pipe().map_err(failed)?;
    let (output, to_user) = io::pipe().map_err(failed)?;
    let serial = Stream { input: Some(fds.add(from_user)), output: Some(fds.add(to_user)) };
    let display = matches!(boot, Boot::Firmware(_));
    let mut create = |option: &str, path: &Option<PathBuf>| {
        let Some(path) = path else { return Ok(None) };
        let file = File::create(path)
            .map_err(|error| Failure::of(format!("{option} {}", path.display()), &error))?;
        Ok(Some(fds.add(file)))
    };
    let screenshot = create("--screenshot-on-exit", &args.screenshot_on_exit)?;
    let debug_log = create("--debug-log", &args.debug_log)?;
    let config = MachineConfig {
        name,
        memory_bytes: args.memory.size.0,
        max_memory_bytes: args.memory.most.0,
        huge_pages: args.memory.huge_pages,
        balloon: !args.memory.huge_pages,
        vcpus: args.cpus.count,
        max_vcpus: args.cpus.most,
        engine: args.engine.into(),
        engine_options: args.engine_opt.clone(),
        boot,
        disks: disks(args)?,
        vhost_user_disks: vhost_user_disks(args),
        cdroms: args.cdrom.clone(),
        pmems: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        entropy_bps: args.rng_limit.0,
        vsock: None,
        serial: Some(serial),
        console: None,
        consoles: Vec::new(),
        display,
        screenshot,
        agent: None,
        no_reboot: args.no_reboot,
        debug_log,
        exit_port: args.exit_port,
        watchdog: args.watchdog.into(),
        gdb: None,
    };
    let outputs = vec![(output, Sink::Stdout)];
    Ok(Plan {
        config,
        fds,
        input,
        outputs,
        serial: None,
        interactive: terminal::is_interactive(),
        keys: args.send_keys.clone(),
    })
}

/// The disks in files of this host.
pub fn disks(args: &RunArgs) -> Result<Vec<DiskConfig>, Failure> {
    args.disk.iter().filter(|disk| !disk.vhost_user).map(disk).collect()
}

/// The disk of a `--disk`, whose format is what was stated, or else what its name and its contents agree on.
fn disk(disk: &DiskArg) -> Result<DiskConfig, Failure> {
    let format = match disk.format {
        Some(format) => format,
        None => Format::detect(&disk.path).map_err(|error| {
            let failure = Failure::of("--disk", &error);
            if matches!(error, DiskError::Format { .. }) {
                failure
                    .remedy(format!("give {},format=raw, ,format=qcow2 or ,format=vmdk", disk.path.display()))
            } else {
                failure
            }
        })?,
    };
    Ok(DiskConfig {
        path: disk.path.clone(),
        format: match format {
            Format::Raw => DiskFormat::Raw,
            Format::Qcow2 => DiskFormat::Qcow2,
            Format::Vmdk => DiskFormat::Vmdk,
        },
        readonly: disk.readonly,
        overlay: if disk.temporary { Overlay::ThrowAway } else { Overlay::None },
        bus: disk.bus,
        tuning: disk.tuning.clone(),
    })
}

/// The sockets of the disks that other processes serve.
pub fn vhost_user_disks(args: &RunArgs) -> Vec<PathBuf> {
    args.disk.iter().filter(|disk| disk.vhost_user).map(|disk| disk.path.clone()).collect()
}

/// What `--initrd` names: a file, or, if there is none of that name, a file and after a space its command line.
fn initrd(given: &str) -> InitrdConfig {
    let (path, cmdline) = match given.split_once(' ') {
        Some(parts) if !Path::new(given).exists() => parts,
        _ => (given, ""),
    };
    InitrdConfig { source: FileSource::Path(path.into()), cmdline: cmdline.trim().to_owned() }
}

/// Refuses options that only a kernel has which is booted directly.
pub fn refuse_kernel_options(args: &RunArgs) -> Result<(), Failure> {
    let given = [("--initrd", !args.initrd.is_empty()), ("--append", args.append.is_some())];
    refuse(&given, "it is for a kernel that is booted directly", "give --kernel FILE")
}

/// Refuses options that machines from images do not have.
pub fn refuse_options(args: &RunArgs) -> Result<(), Failure> {
    refuse_kernel_options(args)?;
    let given = [
        ("--cdrom", !args.cdrom.is_empty()),
        ("--debug-log", args.debug_log.is_some()),
        ("--exit-port", args.exit_port),
        ("--no-reboot", args.no_reboot),
    ];
    let why = "it is for a kernel that is booted directly and for firmware";
    refuse(&given, why, "give --kernel FILE or --firmware bios")
}

fn refuse(given: &[(&str, bool)], why: &str, remedy: &str) -> Result<(), Failure> {
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::new(*option, why).remedy(remedy)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initrd_is_a_file_before_it_is_a_file_with_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a module");
        let given = path.to_str().unwrap();
        let (front, _) = given.rsplit_once(' ').unwrap();
        let split = initrd(given);
        assert_eq!((split.source, split.cmdline.as_str()), (FileSource::Path(front.into()), "module"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(initrd(given), FileSource::Path(path.clone()).into());
    }
}
