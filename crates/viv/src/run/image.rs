//! An image: its own kernel and disk, and `viv-guest` to run one command in it.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use viv_image::{GUEST_PROGRAM, ImageHandle, ImageName, KeptDisk, Store};
use viv_vmm::config::{
    AgentConfig, AgentStdio, Boot, BootProtocol, Console, DiskBus, DiskConfig, DiskFormat, DiskTuning, Fds,
    FileSource, KernelConfig, MachineConfig, Overlay, Stream,
};

use super::direct;
use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::session::{self, Plan, Sink};
use crate::terminal;

/// What the guest's kernel is told. Its errors go to the serial port, which is kept for the case that it does
/// not come up; a panic ends the machine, by a reset at once. The kernel's self-tests of its ciphers would take half
/// of the boot's time in software.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";

/// Has memory that is plugged in taken into use, in a way that it can be given back.
const TAKE_MEMORY: &str = " memhp_default_state=online_movable";

/// The overlay in a kept disk's directory.
const OVERLAY: &str = "disk.overlay";

/// The least memory that a system from an image comes up in, in bytes.
pub const MIN_MEMORY: u64 = 128 << 20;

/// Checks the name of a disk to keep, before an image is built for it.
pub fn check(args: &RunArgs, store: &Store) -> Result<(), Failure> {
    let Some(name) = &args.keep else { return Ok(()) };
    let option = format!("--keep {name}");
    if name.parse::<ImageName>().is_ok() {
        return Err(Failure::new(option, "an image is called so").remedy("choose another name"));
    }
    store.overlay_path(name).map(drop).map_err(|error| Failure::of(option, &error))
}

/// The session for `viv run IMAGE`. What the guest writes goes to the kept disk, or is forgotten.
pub fn plan(args: &RunArgs, image: &ImageHandle, kept: Option<&KeptDisk>) -> Result<Plan, Failure> {
    let overlay =
        kept.map_or(Overlay::ThrowAway, |kept| Overlay::Kept { path: kept.directory().join(OVERLAY) });
    // The system's own comes first, and is /dev/vda.
    let mut disks = vec![DiskConfig {
        path: image.root(),
        format: DiskFormat::Raw,
        readonly: false,
        overlay,
        bus: DiskBus::Virtio,
        tuning: DiskTuning::default(),
    }];
    disks.extend(direct::disks(args)?);
    let mut fds = Fds::default();
    let initrd = FileSource::Fd(fds.add(initrd(image)?));
    let failed = |error: io::Error| Failure::of("making pipes to the guest", &error);
    let (log, to_log) = io::pipe().map_err(failed)?;
    let serial = Stream { input: None, output: Some(fds.add(to_log)) };
    let interactive = terminal::is_interactive();
    let streams = if interactive { Streams::console(&mut fds) } else { Streams::apart(&mut fds) };
    let Streams { stdio, console, input, outputs } = streams.map_err(failed)?;
    let config = MachineConfig {
        name: image.name().to_string(),
        memory_bytes: args.memory.size.0,
        max_memory_bytes: args.memory.most.0,
        huge_pages: args.memory.huge_pages,
        balloon: !args.memory.huge_pages,
        vcpus: args.cpus.count,
        max_vcpus: args.cpus.most,
        engine: args.engine.into(),
        engine_options: args.engine_opt.clone(),
        boot: Boot::Kernel(KernelConfig {
            kernel: FileSource::Path(image.kernel()),
            initrds: vec![initrd.into()],
            cmdline: cmdline(args),
            protocol: BootProtocol::Auto,
        }),
        disks,
        vhost_user_disks: direct::vhost_user_disks(args),
        cdroms: Vec::new(),
        pmems: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        entropy_bps: args.rng_limit.0,
        vsock: None,
        serial: Some(serial),
        console,
        consoles: Vec::new(),
        display: false,
        screenshot: None,
        agent: Some(AgentConfig {
            command: args.command.clone(),
            environment: Vec::new(),
            directory: None,
            hostname: None,
            interfaces: Vec::new(),
            mounts: Vec::new(),
            stdio,
        }),
        no_reboot: true,
        debug_log: None,
        exit_port: false,
        watchdog: args.watchdog.into(),
        gdb: None,
    };
    Ok(Plan { config, fds, input, outputs, serial: Some(log), interactive, keys: None })
}

/// What the guest's kernel is told in a machine like this.
fn cmdline(args: &RunArgs) -> String {
    let more = if args.memory.most > args.memory.size { TAKE_MEMORY } else { "" };
    format!("{CMDLINE}{more}")
}

/// The image's initial RAM disk as a file that is nowhere.
fn initrd(image: &ImageHandle) -> Result<File, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(format!("preparing {}", image.name()), error);
    let content = image.initrd(GUEST_PROGRAM).map_err(|error| failed(&error))?;
    let file = memfd_create("initrd", MemfdFlags::CLOEXEC).map_err(|error| failed(&error))?;
    let mut file = File::from(file);
    file.write_all(&content).map_err(|error| failed(&error))?;
    Ok(file)
}

/// How the guest's command is joined to this process.
struct Streams {
    stdio: AgentStdio,
    console: Option<Console>,
    input: PipeWriter,
    outputs: Vec<(PipeReader, Sink)>,
}

impl Streams {
    /// By a console, which is one stream each way with a window.
    fn console(fds: &mut Fds) -> io::Result<Self> {
        let (from_user, input) = io::pipe()?;
        let (output, to_user) = io::pipe()?;
        let stream = Stream { input: Some(fds.add(from_user)), output: Some(fds.add(to_user)) };
        let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
        Ok(Self {
            stdio: AgentStdio::Console { term },
            console: Some(Console { stream, size: session::window() }),
            input,
            outputs: vec![(output, Sink::Stdout)],
        })
    }

    /// By three streams apart from each other.
    fn apart(fds: &mut Fds) -> io::Result<Self> {
        let (from_user, input) = io::pipe()?;
        let (stdout, to_stdout) = io::pipe()?;
        let (stderr, to_stderr) = io::pipe()?;
        Ok(Self {
            stdio: AgentStdio::Streams {
                stdin: Some(fds.add(from_user)),
                stdout: Some(fds.add(to_stdout)),
                stderr: Some(fds.add(to_stderr)),
            },
            console: None,
            input,
            outputs: vec![(stdout, Sink::Stdout), (stderr, Sink::Stderr)],
        })
    }
}
