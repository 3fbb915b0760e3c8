//! The command line: every subcommand, its options and its help.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use viv_share::Cache;
use viv_vmm::config::{PmemConfig, Publish};
use viv_vmm::process::Confinement;

use disk_arg::DISK_HELP;
use machine::parse_keys;

mod disk;
mod disk_arg;
mod machine;
mod network;
mod pmem;
mod share;
mod sockets;

pub use disk::{CompressionArg, ConvertArgs, CreateArgs, DiskCommand, LayoutArgs, RebaseArgs, RepairArg};
pub use disk_arg::DiskArg;
pub use machine::{
    BootDeviceArg, CpusArg, EngineArg, FirmwareArg, GdbArg, MemoryArg, RngLimitArg, WatchdogArg,
};
pub use network::{NetArg, NetKind};
pub use share::{ShareArg, SharedArg};
pub use sockets::{ConsoleArg, VsockArg};

/// Virtual machines on any Linux host, on the processor's virtualization or on a software CPU.
#[derive(Debug, Parser)]
#[command(name = "viv", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(arg_required_else_help = true)]
#[command(after_help = "Examples:
  viv run debian                  a root shell in a fresh Debian machine
  viv run debian -- uname -a      one command; its output, its exit status
  viv host check                  what this host offers, and which engine is used")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a virtual machine until its command or its system ends
    #[command(long_about = "Run a virtual machine until its command or its system ends.

With IMAGE, the machine boots that image's own kernel from a throw-away copy of its disk and runs COMMAND \
in it as root, or a shell. The image is built first if this host does not have it yet. On a terminal the \
session is interactive; otherwise standard input, output and error are passed through apart from each \
other, and end of input is passed on.

With --kernel, the machine boots that kernel directly; with --firmware, it starts as a PC does, from a disk or \
CD-ROM. Its first serial port is the standard input and output of viv.")]
    Run(Box<RunArgs>),
    /// List, build and remove images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Make, convert, check and change disk images
    #[command(subcommand, arg_required_else_help = true)]
    Disk(DiskCommand),
    /// Ask what this host offers
    #[command(subcommand, arg_required_else_help = true)]
    Host(HostCommand),
    /// Print the version of viv
    Version,
    /// The process behind one virtual machine, started by `viv run`
    #[command(hide = true)]
    Vmm {
        /// Whether it goes to jail
        #[arg(long, value_enum, default_value_t = JailArg::On)]
        jail: JailArg,
        /// Go to jail, say what it lacks, and end
        #[arg(long)]
        check_jail: bool,
    },
    /// The process behind one shared directory, started by `viv run`
    #[command(hide = true)]
    Share(ShareServerArgs),
}

/// What the process behind a shared directory takes.
#[derive(Debug, Args)]
pub struct ShareServerArgs {
    /// The directory
    pub directory: PathBuf,
    /// Nothing in it is changed
    #[arg(long)]
    pub read_only: bool,
    /// What the guest may keep in its memory
    #[arg(long, default_value_t)]
    pub cache: Cache,
    /// Whether it goes to jail
    #[arg(long, value_enum, default_value_t = JailArg::On)]
    pub jail: JailArg,
}

/// What `viv run` takes.
#[derive(Debug, Args)]
#[command(
    override_usage = "viv run [OPTIONS] IMAGE [-- COMMAND…]\n       viv run [OPTIONS] --kernel FILE\n       viv run [OPTIONS] --firmware bios|uefi|FILE",
    after_long_help = "Leaving:
  exit, Ctrl-D, poweroff   as on any machine; everything typed, Ctrl-C included, goes to the guest
  Ctrl-] Ctrl-] Ctrl-]     within a second: powers the guest off; once more ends it at once
  SIGTERM, SIGHUP          power the guest off, and end it after a few seconds if it does not
The terminal is restored on every way out.

Exit status:
  with IMAGE      that of the command; 126 if it cannot be executed, 127 if it is not found
  with --kernel or --firmware   0 when the guest powers off or, with --no-reboot, resets
  125             viv itself failed, the guest's kernel panicked, or its watchdog expired;
                  one line on standard error says why
  128 + N         stopped by signal N before the guest reported a status

Examples:
  viv run debian                               a root shell in a fresh machine
  viv run debian -- apt list --installed       one command
  echo 'cat /etc/os-release' | viv run debian  a shell fed from a pipe
  viv run --keep web --memory 1G debian        a machine whose disk is kept, by name
  viv run --kernel vmlinuz --initrd initrd.img --append console=ttyS0
  viv run --firmware uefi --disk debian.img    a system that boots from its disk
  viv run --firmware bios --disk dos.img --send-keys '<wait 3>dir<enter><wait 1>' --screenshot-on-exit dir.png
  viv run --kernel vmlinuz --disk root.img --append 'console=ttyS0 root=/dev/vda'"
)]
pub struct RunArgs {
    /// Image to run, like `debian` or `debian:trixie` (see `viv image ls`)
    #[arg(value_name = "IMAGE", required_unless_present_any = ["kernel", "firmware"])]
    pub image: Option<String>,

    /// Command to run in the guest instead of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<OsString>,

    /// Memory of the guest: a number with K, M, G or T; with `max=`, how much there can be with what is plugged in
    /// while it runs; with `hugepages`, from those of 2 MiB that the host has set aside, for the kvm engine
    #[arg(long, short, value_name = "SIZE[,OPTION]…", default_value = "512M", value_parser = MemoryArg::parse)]
    #[arg(allow_hyphen_values = true)]
    pub memory: MemoryArg,

    /// Processors of the guest; with `max=`, how many there can be with those that are plugged in while it runs
    #[arg(long, short, value_name = "N[,max=N]", default_value = "1", value_parser = CpusArg::parse)]
    #[arg(allow_hyphen_values = true)]
    pub cpus: CpusArg,

    /// Engine that runs the guest's instructions
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,

    /// Option of the engine, once for each: for `soft`, tier=interp|translate|auto, torture=SEED, code-memory=KIB, perf-map=on
    #[arg(long, value_name = "KEY=VALUE")]
    #[arg(long_help = "Option of the engine, once for each

The soft engine has:
- tier=interp:    execute one instruction after the other
- tier=translate: translate code to the host's at its first execution
- tier=auto:      translate code once it has turned out to be hot; the default
- torture=SEED:   show the engine's own mistakes: drop caches and links at random moments
- code-memory=KIB: memory of each vCPU for translated code, 131072 unless given
- perf-map=on:    write /tmp/perf-PID.map, so that perf names translated code; with --jail off")]
    pub engine_opt: Vec<String>,

    /// Keep the guest's disk under this name, and take it up again in the next run
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kernel", "firmware"])]
    pub keep: Option<String>,

    /// File as memory that outlasts the guest, /dev/pmem0 and so on; may be given again
    #[arg(long, value_name = "FILE[,readonly]", value_parser = pmem::parse)]
    #[arg(long_help = "File as memory that outlasts the guest, /dev/pmem0 and so on; may be given again

The guest has the file in its memory (virtio-pmem). A file system on it that is mounted with `-o dax` is read and written \
there, past the guest's cache. What is written is in the file, and outlives a crash of the host once the guest has flushed it. \
The file has a multiple of 2 MiB (truncate -s 1G FILE) and must not be made shorter meanwhile. With `readonly` what the guest \
writes is dropped.")]
    pub pmem: Vec<PmemConfig>,

    /// Network interface: `user`, `tap=NAME`, `bridge=NAME`, `vhost-user=SOCKET` or `none`; may be given again
    #[arg(long, value_name = "KIND", value_parser = NetArg::parse)]
    #[arg(long_help = "Network interface; may be given again

- user:        a network of its own, from which the guest reaches what viv does; the default with IMAGE
- none:        no interface; the default with --kernel and --firmware
- tap=NAME:    the other end of a tap interface of the host, which is made if it is not there
- bridge=NAME: a port of a bridge of the host, for as long as the machine runs
- vhost-user=SOCKET: what the process carries that listens there

Options follow with commas between:
- mac=02:00:00:00:00:01: its address; otherwise one that stays the same from run to run
- mtu=BYTES:   the longest packet the guest should send
- queues=N:    as many pairs of queues, 1 unless given
- bps=SIZE, pps=N: the most bytes and packets in a second, each way; what is more waits
- address=IP/BITS, gateway=IP, dns=IP: what a guest from an image sets up before its command; may be given again. Without an address it asks the network for one, by DHCP")]
    pub net: Vec<NetArg>,

    /// Lead a port of the host to one of the guest's: `8080:80`, `0.0.0.0:5353:53/udp`; may be given again
    #[arg(long, value_name = "PORTS", value_parser = network::publish)]
    #[arg(
        long_help = "Lead a port of the host to one of the guest's, by the network `user`; may be given again

Of the host it is the loopback's port unless an address is given."
    )]
    pub publish: Vec<Publish>,

    /// Let the guest reach the host's own services, at its gateway 10.0.2.2, by the network `user`
    #[arg(long)]
    pub host_access: bool,

    /// Show the guest a directory of the host; may be given again
    #[arg(long, value_name = "HOSTDIR:GUESTDIR[,ro][,cache=…]", value_parser = ShareArg::parse)]
    #[arg(long_help = "Show the guest a directory of the host; may be given again

A guest from an image mounts it on GUESTDIR before its command. Other systems find it by its tag: share0, share1 and so on \
(mount -t virtiofs share0 /mnt). A process in a jail serves it, which reaches nothing but the directory. As root, users and \
groups have the same numbers on both sides. As an ordinary user, what the guest makes belongs to that user, who is root in \
the guest.
  ro                 nothing in it can be changed
  cache=auto         what others change is seen by opens, a second later at most [default]
  cache=none         what others change is seen at once
  cache=always       nobody else changes anything
`vhost-user=SOCKET:GUESTDIR[,ro]` shows what another process serves that listens at SOCKET, virtiofsd for one.")]
    pub share: Vec<ShareArg>,
    /// Sockets between guest and host: programs of the host connect to this path, the guest to PATH_PORT
    #[arg(long, value_name = "PATH[,cid=N]", value_parser = VsockArg::parse)]
    #[arg(long_help = "Sockets (AF_VSOCK) between guest and host, as Unix sockets of the host

A program of the host connects to PATH and sends 'CONNECT port' and a newline; once it is connected to that port of the \
guest's it receives 'OK port' and a newline, with the host's port, and then what the guest sends. A program of the guest \
that connects to a port of the host (CID 2) is connected to the socket PATH_PORT. The guest's own address is CID 3 unless \
another is given.")]
    pub vsock: Option<VsockArg>,

    /// Further console of the guest, hvc1 and so on: what it says goes to a file, or to who connects to a Unix socket; may be
    /// given again
    #[arg(long, value_name = "FILE|unix:PATH", value_parser = ConsoleArg::parse)]
    #[arg(
        long_help = "Further console of the guest, a virtio console: hvc1, then hvc2, …; may be given again

What the guest says there goes to the file; or to the program that is connected to the Unix socket at PATH, whose bytes \
go to the guest. One program is connected at a time. While there is none, what the guest says is lost."
    )]
    pub console: Vec<ConsoleArg>,

    /// The most random numbers that the guest gets from the host, in bytes a second; 0 is no limit
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = RngLimitArg::parse)]
    pub rng_limit: RngLimitArg,

    /// Wait for gdb before the first instruction, on this TCP port of localhost or at this path
    #[arg(long, value_name = "PORT|PATH", value_parser = GdbArg::parse)]
    #[arg(long_help = "Wait for gdb before the first instruction

A number is a TCP port of localhost, 0 any that is free; all else is the path of a Unix socket. The command to attach \
with is printed on standard error.")]
    pub gdb: Option<GdbArg>,

    /// Give the guest a watchdog, and do this when it does not reset it in time
    #[arg(long, value_enum, value_name = "ACTION", default_value_t = WatchdogArg::None)]
    pub watchdog: WatchdogArg,

    /// Whether the VM process is confined; off is for debugging viv itself
    #[arg(long, value_enum, value_name = "on|off", default_value_t = JailArg::On, hide_possible_values = true)]
    pub jail: JailArg,

    /// Say on standard error at the end what the machine did: time, translated code, ways out of it
    ///
    /// Instructions are counted with the engine option tier=interp only; code is translated without it.
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "table")]
    pub stats: Option<Output>,

    /// Kernel to boot directly: a Linux bzImage, an ELF file, or anything with a Multiboot header
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "command"], help_heading = "Direct boot")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk for the kernel; may be given again. To a Multiboot kernel each is a module, and
    /// 'FILE ARGUMENTS' gives it a command line
    #[arg(long, value_name = "FILE", help_heading = "Direct boot")]
    pub initrd: Vec<String>,

    /// Command line for the kernel
    #[arg(long, value_name = "STRING", help_heading = "Direct boot")]
    #[arg(allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Firmware to start with: SeaBIOS, OVMF, or the image in a file
    #[arg(long, value_name = "bios|uefi|FILE", conflicts_with_all = ["image", "command", "kernel"])]
    #[arg(value_parser = FirmwareArg::parse, help_heading = "Firmware")]
    pub firmware: Option<FirmwareArg>,

    /// File in which UEFI keeps its variables, made if it is not there; without it they are forgotten
    #[arg(long, value_name = "FILE", requires = "firmware", help_heading = "Firmware")]
    pub uefi_vars: Option<PathBuf>,

    /// What firmware starts from first: `disk`, `cdrom`, or both with a comma between
    #[arg(long, value_name = "LIST", requires = "firmware", help_heading = "Firmware")]
    #[arg(value_enum, value_delimiter = ',')]
    pub boot_order: Vec<BootDeviceArg>,

    /// Type this on the guest's keyboard; keys have names like <enter>, <wait 2> waits
    #[arg(long, value_name = "KEYS", help_heading = "Firmware", value_parser = parse_keys)]
    #[arg(allow_hyphen_values = true)]
    #[arg(long_help = "Type this on the guest's keyboard

Characters are typed as they are, on a keyboard of the US layout. What is in angle brackets is a key by its name, like \
<enter>, <esc>, <f12> or <pgdn>; keys that are pressed together, like <ctrl-alt-del> or <alt-f4>; a pause in seconds \
of the guest's time, like <wait 2>; or the character itself, <lt>.")]
    pub send_keys: Option<String>,

    /// Write a picture of the guest's display to this file, as PNG, when the machine ends
    #[arg(long, value_name = "FILE", help_heading = "Firmware")]
    pub screenshot_on_exit: Option<PathBuf>,

    /// Disk image, the guest's next virtio disk; options: `readonly` protects it, `temporary` forgets what the guest
    /// writes, `sata` is for systems without virtio, `format=raw|qcow2|vmdk` is what it is, `serial=ID` is what the guest knows it by, `iops=N` and `bps=SIZE`
    /// are the most requests and bytes in a second, `cache=MODE` says when writes are on the host's disk
    #[arg(long, value_name = "FILE[,OPTION]…|vhost-user=SOCKET", help_heading = "Direct boot and firmware", long_help = DISK_HELP)]
    #[arg(value_parser = DiskArg::parse)]
    pub disk: Vec<DiskArg>,

    /// Image of a CD-ROM or DVD, the medium of the guest's next drive
    #[arg(long, value_name = "FILE", help_heading = "Direct boot and firmware")]
    pub cdrom: Vec<PathBuf>,

    /// File for the text that the guest writes to port 0xe9, or firmware to its port 0x402
    #[arg(long, value_name = "FILE", help_heading = "Direct boot and firmware")]
    pub debug_log: Option<PathBuf>,

    /// Let the guest end the machine by port 0xf4: a byte V there gives exit status 2 × V + 1
    #[arg(long, help_heading = "Direct boot and firmware")]
    pub exit_port: bool,

    /// End when the guest resets instead of starting it again
    #[arg(long, help_heading = "Direct boot and firmware")]
    pub no_reboot: bool,
}

/// `viv image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List the images of this host and those it can build
    Ls {
        /// How to print them
        #[command(flatten)]
        output: OutputArg,
    },
    /// Remove images or kept disks
    Rm {
        /// Names as `viv image ls` prints them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Build an image now, from this host's package archive
    Build {
        /// Which one, like `debian` or `debian:trixie`
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// `viv host`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Tell what the processor and kernel offer, which engine `auto` takes, and why
    ///
    /// Each finding passes; or it warns, where guests run with less than there could be; or it fails, where they do not
    /// run at all, which is the exit status 1.
    Check {
        /// How to print it
        #[command(flatten)]
        output: OutputArg,
    },
}

/// `-o`.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArg {
    /// Form of the output
    #[arg(long = "output", short = 'o', value_enum, value_name = "FORM", default_value_t = Output::Table)]
    pub form: Output,
}

/// Whether VM processes go to jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JailArg {
    /// They do
    On,
    /// They do not: a guest that takes its process over has all that you have
    Off,
}

impl fmt::Display for JailArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl From<JailArg> for Confinement {
    fn from(jail: JailArg) -> Self {
        match jail {
            JailArg::On => Self::Jail,
            JailArg::Off => Self::None,
        }
    }
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use viv_vmm::config::DEFAULT_ENTROPY;

    use viv_disk::Format;
    use viv_vmm::config::{DiskBus, DiskTuning};

    use super::*;
    use crate::size::Size;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    fn run(args: &[&str]) -> RunArgs {
        let all = ["viv", "run"].iter().chain(args);
        match Cli::try_parse_from(all).expect("parses").command {
            Command::Run(args) => *args,
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        for args in [
            &["debian", "--", "ls", "--memory", "-l"][..],
            &["debian", "ls", "--memory", "-l"],
            &["--cpus", "1", "debian", "--", "ls", "--memory", "-l"],
        ] {
            let run = run(args);
            assert_eq!(run.image.as_deref(), Some("debian"));
            assert_eq!(run.command, ["ls", "--memory", "-l"]);
            assert_eq!(
                run.memory,
                MemoryArg { size: Size(512 << 20), most: Size(512 << 20), huge_pages: false }
            );
        }
    }

    #[test]
    fn options_may_follow_the_image() {
        let run = run(&["debian", "--memory", "1G", "--", "ls"]);
        assert_eq!((run.memory.size, run.command), (Size(1 << 30), vec!["ls".into()]));
    }

    #[test]
    fn memory_is_an_amount_and_the_most() {
        let all = |size: u64, most: u64, huge_pages| {
            Ok(MemoryArg { size: Size(size << 30), most: Size(most << 30), huge_pages })
        };
        let both = |size, most| all(size, most, false);
        assert_eq!(MemoryArg::parse("1G"), both(1, 1));
        assert_eq!(MemoryArg::parse("1G,max=4G"), both(1, 4));
        assert_eq!(MemoryArg::parse("1G,hugepages"), all(1, 1, true));
        assert_eq!(MemoryArg::parse("1G,hugepages,max=4G"), all(1, 4, true));
        for (text, needle) in
            [("1G,4G", "'max=' and"), ("1G,max=", "not an amount"), ("x,max=1G", "not an amount")]
        {
            let why = MemoryArg::parse(text).expect_err(text);
            assert!(why.contains(needle), "{text}: {why}");
        }
    }

    #[test]
    fn processors_are_a_number_and_the_most() {
        assert_eq!(CpusArg::parse("2"), Ok(CpusArg { count: 2, most: 2 }));
        assert_eq!(CpusArg::parse("2,max=8"), Ok(CpusArg { count: 2, most: 8 }));
        for (text, needle) in [
            ("0", "from 1 to"),
            ("255", "from 1 to"),
            ("2,max=255", "from 1 to"),
            ("2,8", "'max=' is"),
            ("4,max=2", "give more"),
        ] {
            let why = CpusArg::parse(text).expect_err(text);
            assert!(why.contains(needle), "{text}: {why}");
        }
    }

    #[test]
    fn debuggers_attach_to_a_port_or_a_socket() {
        assert_eq!(GdbArg::parse("1234"), Ok(GdbArg::Port(1234)));
        assert_eq!(GdbArg::parse("./1234"), Ok(GdbArg::Path("./1234".into())));
        assert!(GdbArg::parse("65536").is_err());
        assert!(GdbArg::parse("").is_err());
    }

    #[test]
    fn random_numbers_are_limited_unless_told_otherwise() {
        assert_eq!(run(&["debian"]).rng_limit.0, Some(DEFAULT_ENTROPY));
        assert_eq!(run(&["debian", "--rng-limit", "0"]).rng_limit.0, None);
    }

    #[test]
    fn a_disk_is_a_file_with_an_option() {
        let disk = |path: &str, readonly, bus| {
            Ok(DiskArg {
                path: path.into(),
                format: None,
                vhost_user: false,
                readonly,
                temporary: false,
                bus,
                tuning: DiskTuning::default(),
            })
        };
        let served = DiskArg::parse("vhost-user=/run/disk,1").expect("a disk");
        assert_eq!((served.path, served.vhost_user), ("/run/disk,1".into(), true));
        assert!(DiskArg::parse("vhost-user=").is_err());
        assert_eq!(DiskArg::parse("a.img"), disk("a.img", false, DiskBus::Virtio));
        assert_eq!(DiskArg::parse("a.img,readonly"), disk("a.img", true, DiskBus::Virtio));
        assert_eq!(DiskArg::parse("a.img,sata,readonly"), disk("a.img", true, DiskBus::Sata));
        assert_eq!(DiskArg::parse("a,b.img,writable"), disk("a,b.img", false, DiskBus::Virtio));
        let temporary = DiskArg::parse("a.img,sata,temporary").expect("a disk");
        assert!(temporary.temporary && !temporary.readonly);
        let image = DiskArg::parse("a.img,readonly,format=qcow2").expect("a disk");
        assert_eq!((image.format, image.readonly), (Some(Format::Qcow2), true));
        let tuned = DiskArg::parse("a,b.img,iops=7,readonly").expect("a disk");
        assert_eq!((tuned.tuning.iops.map(std::num::NonZero::get), tuned.readonly), (Some(7), true));
        assert_eq!(tuned.path, PathBuf::from("a,b.img"));
        for bad in ["a.img,ro", ",readonly", "", "a.img,cache=x,readonly", "a.img,format=vhd"] {
            assert!(DiskArg::parse(bad).is_err(), "{bad}");
        }
    }
}
