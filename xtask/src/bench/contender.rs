//! The two that run the same guest.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::Bench;

/// A guest: the kernel of all, and this.
#[derive(Debug)]
pub struct Guest<'a> {
    pub bench: &'a Bench,
    /// Its initial RAM disk, with its first process.
    pub initrd: &'a Path,
    /// Its disk.
    pub disk: Option<Disk<'a>>,
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

impl Contender {
    pub const ALL: [Self; 2] = [Self::Viv, Self::Tcg];

    /// The command that runs `guest` with its serial port as standard input and output, until it powers off.
    pub fn command(self, guest: &Guest<'_>) -> Command {
        let Guest { bench: Bench { viv, kernel, processor, engine_options, .. }, initrd, disk, .. } = guest;
        let memory = format!("{}M", guest.memory);
        let processors = guest.placement.processors();
        let mut command = match guest.placement {
            Placement::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &processor.to_string()]);
                command
            }
            Placement::Anywhere { .. } => Command::new("env"),
        };
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
            }
            Self::Tcg => {
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
                    // A comma in the name ends it unless there are two.
                    let file = file.display().to_string().replace(',', ",,");
                    let access = if *writable { "read-only=off" } else { "read-only=on" };
                    command
                        .arg("-drive")
                        .arg(format!("if=none,id=disk,format=raw,{access},file={file}"))
                        .args(["-device", "virtio-blk-pci,drive=disk"]);
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
            kernel_words: "",
            arguments: &arguments,
            memory: 64,
            placement: Placement::Pinned,
        };
        let command = contender.command(&guest);
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
        assert!(follows(&viv, ["--memory", "64M"]) && follows(&tcg, ["-m", "64M"]));
        assert!(viv.last() == tcg.last() && viv.last().is_some_and(|line| line.ends_with(" -- xz gcc")));
    }

    #[test]
    fn options_of_the_engine_are_vivs_alone() {
        assert!(follows(&words(Contender::Viv, None, &[]), ["--engine-opt", "tier=interp"]));
        let tcg = words(Contender::Tcg, None, &[]);
        assert!(!tcg.iter().any(|word| word.contains("tier") || word.contains("drive")), "{tcg:?}");
        assert_eq!(tcg.last().map(String::as_str), Some(APPEND));
    }
}
