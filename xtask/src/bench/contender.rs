//! The two that run the same guest.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::Bench;

/// A guest: the kernel of all, and this.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    pub bench: &'a Bench,
    /// Its initial RAM disk, with its first process.
    pub initrd: &'a Path,
    /// Its disk.
    pub disk: Option<Disk<'a>>,
    /// Its network.
    pub network: Option<Network<'a>>,
    /// The directory that it is given.
    pub share: Option<Share<'a>>,
    /// Words for its kernel, besides those of all.
    pub kernel_words: &'a str,
    /// Words for its first process.
    pub arguments: &'a [String],
    /// Its RAM in MiB.
    pub memory: u64,
    pub placement: Placement,
}

/// Where a guest's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// One, on the processor that everything runs on.
    Pinned,
    /// So many, wherever the host likes.
    Anywhere { processors: u32 },
}

impl Placement {
    /// What starts a program there, whose words follow.
    pub fn command(self, processor: u32) -> Command {
        match self {
            Self::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &processor.to_string()]);
                command
            }
            Self::Anywhere { .. } => Command::new("env"),
        }
    }

    fn processors(self) -> String {
        match self {
            Self::Pinned => "1".to_owned(),
            Self::Anywhere { processors } => processors.to_string(),
        }
    }
}

/// A disk.
#[derive(Debug, Clone, Copy)]
pub struct Disk<'a> {
    pub file: &'a Path,
    /// Otherwise the guest can only read it.
    pub writable: bool,
}

/// A network without privilege, on which the guest is 10.0.2.15 and reaches the host's loopback at 10.0.2.2.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// The port of the host's loopback that leads to the guest's port 80.
    pub published: u16,
    /// Where passt listens for QEMU.
    pub passt: &'a Path,
    /// Whether QEMU leaves its network to passt, in a process beside it.
    pub by_passt: bool,
}

/// A directory of the host's, which the guest finds by the tag share0.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    pub directory: &'a Path,
    /// Where virtiofsd listens for QEMU.
    pub virtiofsd: &'a Path,
}

impl Guest<'_> {
    /// The same whose network is left to passt.
    pub fn with_passt(&self) -> Self {
        Self { network: self.network.map(|network| Network { by_passt: true, ..network }), ..*self }
    }
}

/// As for images of `viv run`: output to the serial port, little of the kernel's, no waiting after a panic, and no
/// self-tests of ciphers, which otherwise are most of what is measured.
const APPEND: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";

/// Who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `viv` with its software CPU.
    Viv,
    /// QEMU with its translator. Its guest starts as the firmware of a PC does, and unpacks its kernel itself.
    Tcg,
}

/// Starts passt, which goes to the background when it listens and ends with the first connection, and becomes QEMU.
const WITH_PASST: &str = r#"
socket=$1 published=$2
shift 2
rm -f "$socket"
passt --quiet --one-off --runas "$(id -u)" --socket "$socket" --ipv4-only --address 10.0.2.15 --netmask 24 \
    --gateway 10.0.2.2 --tcp-ports "127.0.0.1/$published:80" </dev/null >/dev/null 2>&1 && exec "$@"
"#;

/// Starts virtiofsd as it is unless told otherwise, which ends with its connection, and becomes QEMU when it listens. In a
/// container it may not make namespaces.
const WITH_VIRTIOFSD: &str = r#"
socket=$1 directory=$2
shift 2
rm -f "$socket"
timeout 1h /usr/lib/qemu/virtiofsd --socket-path="$socket" -o sandbox=chroot -o source="$directory" </dev/null >/dev/null &
until test -S "$socket"; do
    kill -0 $! 2>/dev/null || { echo 'virtiofsd has ended' >&2; exit 1; }
    sleep 0.05
done
exec "$@"
"#;

impl Contender {
    pub const ALL: [Self; 2] = [Self::Viv, Self::Tcg];

    /// The command that runs `guest` with its serial port as standard input and output, until it powers off.
    pub fn command(self, guest: &Guest<'_>) -> Command {
        let Guest {
            bench: Bench { viv, kernel, processor, engine_options, .. },
            initrd,
            disk,
            network,
            share,
            ..
        } = guest;
        let memory = format!("{}M", guest.memory);
        let processors = guest.placement.processors();
        let mut command = guest.placement.command(*processor);
        match self {
            Self::Viv => {
                command.arg(viv).args(["run", "--engine", "soft"]);
                for option in engine_options {
                    command.args(["--engine-opt", option]);
                }
                command.args(["--stats=json", "--no-reboot", "--cpus", &processors, "--memory", &memory]);
                if let Some(Disk { file, writable }) = disk {
                    let access = if *writable { "writable" } else { "readonly" };
                    command.arg("--disk").arg(format!("{},{access}", file.display()));
                }
                if let Some(Network { published, .. }) = network {
                    command.args(["--net", "user", "--host-access", "--publish"]);
                    command.arg(format!("127.0.0.1:{published}:80"));
                }
                if let Some(Share { directory, .. }) = share {
                    // Where it is mounted is for guests with an agent.
                    command.arg("--share").arg(format!("{}:/mnt", directory.display()));
                }
            }
            Self::Tcg => {
                if let Some(Network { published, passt, by_passt: true }) = network {
                    command.args(["sh", "-c", WITH_PASST, "sh"]).arg(passt).arg(published.to_string());
                }
                if let Some(Share { directory, virtiofsd }) = share {
                    command.args(["sh", "-c", WITH_VIRTIOFSD, "sh"]).arg(virtiofsd).arg(directory);
                }
                command
                    .args([
                        "qemu-system-x86_64",
                        "-accel",
                        "tcg",
                        "-cpu",
                        "max",
                        "-smp",
                        &processors,
                        "-no-reboot",
                    ])
                    .args(["-m", &memory])
                    .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
                if let Some(Disk { file, writable }) = disk {
                    let file = qemu_path(file);
                    let access = if *writable { "read-only=off" } else { "read-only=on" };
                    command
                        .arg("-drive")
                        .arg(format!("if=none,id=disk,format=raw,{access},file={file}"))
                        .args(["-device", "virtio-blk-pci,drive=disk"]);
                }
                if let Some(Network { published, passt, by_passt }) = network {
                    let far = if *by_passt {
                        format!("stream,id=net,server=off,addr.type=unix,addr.path={}", qemu_path(passt))
                    } else {
                        format!("user,id=net,hostfwd=tcp:127.0.0.1:{published}-10.0.2.15:80")
                    };
                    command.args(["-netdev", &far, "-device", "virtio-net-pci,netdev=net"]);
                }
                if let Some(Share { virtiofsd, .. }) = share {
                    // Memory that virtiofsd can have as well.
                    command.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={memory}"));
                    command.args(["-machine", "memory-backend=memory"]);
                    command.arg("-chardev").arg(format!("socket,id=share,path={}", qemu_path(virtiofsd)));
                    let device = "vhost-user-fs-pci,chardev=share,tag=share0,queue-size=1024";
                    command.args(["-device", device]);
                }
            }
        }
        // The options for a direct boot differ in the number of dashes.
        let dashes = if self == Self::Viv { "--" } else { "-" };
        command.arg(format!("{dashes}kernel")).arg(kernel);
        command.arg(format!("{dashes}initrd")).arg(initrd);
        command.args([format!("{dashes}append"), command_line(guest)]);
        command
    }
}

/// A path within an option of QEMU's, where a comma ends it unless there are two.
fn qemu_path(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The kernel's command line. What stands after the dashes is the first process's.
fn command_line(guest: &Guest<'_>) -> String {
    let mut line = APPEND.to_owned();
    if !guest.kernel_words.is_empty() {
        line += &format!(" {}", guest.kernel_words);
    }
    if !guest.arguments.is_empty() {
        line += &format!(" -- {}", guest.arguments.join(" "));
    }
    line
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viv => "viv",
            Self::Tcg => "TCG",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(contender: Contender, disk: Option<&Path>, arguments: &[&str]) -> Vec<String> {
        words_of(contender, disk, arguments, false)
    }

    fn words_of(
        contender: Contender,
        disk: Option<&Path>,
        arguments: &[&str],
        by_passt: bool,
    ) -> Vec<String> {
        let disk = disk.map(|file| Disk { file, writable: false });
        let bench = Bench {
            viv: "viv".into(),
            kernel: "k".into(),
            engine_options: vec!["tier=interp".into()],
            ..Bench::default()
        };
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let guest = Guest {
            bench: &bench,
            initrd: Path::new("i"),
            disk,
            network: Some(Network { published: 8080, passt: Path::new("s"), by_passt }),
            share: None,
            kernel_words: "",
            arguments: &arguments,
            memory: 64,
            placement: Placement::Pinned,
        };
        words_of_command(&contender.command(&guest))
    }

    fn words_of_command(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn follows(words: &[String], pair: [&str; 2]) -> bool {
        words.windows(2).any(|window| window == pair)
    }

    #[test]
    fn both_get_the_same_guest() {
        let disk = Path::new("a,b");
        let viv = words(Contender::Viv, Some(disk), &["xz", "gcc"]);
        let tcg = words(Contender::Tcg, Some(disk), &["xz", "gcc"]);
        assert!(follows(&viv, ["--disk", "a,b,readonly"]), "{viv:?}");
        assert!(follows(&tcg, ["-drive", "if=none,id=disk,format=raw,read-only=on,file=a,,b"]), "{tcg:?}");
        assert!(follows(&viv, ["--kernel", "k"]) && follows(&tcg, ["-kernel", "k"]));
        assert!(follows(&viv, ["--publish", "127.0.0.1:8080:80"]), "{viv:?}");
        assert!(follows(&tcg, ["-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80"]), "{tcg:?}");
        assert!(follows(&viv, ["--memory", "64M"]) && follows(&tcg, ["-m", "64M"]));
        assert!(viv.last() == tcg.last() && viv.last().is_some_and(|line| line.ends_with(" -- xz gcc")));
    }

    #[test]
    fn passt_stands_before_qemu() {
        let words = words_of(Contender::Tcg, None, &[], true);
        assert!(follows(&words, ["sh", "s"]) && follows(&words, ["8080", "qemu-system-x86_64"]), "{words:?}");
        let netdev = "stream,id=net,server=off,addr.type=unix,addr.path=s";
        assert!(follows(&words, ["-netdev", netdev]), "{words:?}");
    }

    #[test]
    fn virtiofsd_stands_before_qemu() {
        let bench = Bench::default();
        let guest = Guest {
            bench: &bench,
            initrd: Path::new("i"),
            disk: None,
            network: None,
            share: Some(Share { directory: Path::new("/a"), virtiofsd: Path::new("s,t") }),
            kernel_words: "",
            arguments: &[],
            memory: 64,
            placement: Placement::Pinned,
        };
        let [viv, tcg] = Contender::ALL.map(|contender| words_of_command(&contender.command(&guest)));
        assert!(follows(&viv, ["--share", "/a:/mnt"]), "{viv:?}");
        assert!(follows(&tcg, ["s,t", "/a"]) && follows(&tcg, ["/a", "qemu-system-x86_64"]), "{tcg:?}");
        assert!(follows(&tcg, ["-object", "memory-backend-memfd,id=memory,size=64M"]), "{tcg:?}");
        assert!(follows(&tcg, ["-chardev", "socket,id=share,path=s,,t"]), "{tcg:?}");
    }

    #[test]
    fn options_of_the_engine_are_vivs_alone() {
        assert!(follows(&words(Contender::Viv, None, &[]), ["--engine-opt", "tier=interp"]));
        let tcg = words(Contender::Tcg, None, &[]);
        assert!(!tcg.iter().any(|word| word.contains("tier") || word.contains("drive")), "{tcg:?}");
        assert_eq!(tcg.last().map(String::as_str), Some(APPEND));
    }
}
