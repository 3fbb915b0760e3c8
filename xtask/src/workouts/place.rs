//! Running a program on the host and in a guest.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::programs::Program;

/// How long any run may take.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// How often is looked whether one has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// Memory of the guests.
const MEMORY: &str = "1G";

/// On the host: mounts the disk in `$1` below `$2`, writable as in a guest and with what a system has beside it, and runs
/// `$3` there. What is written is kept in memory. All mounts are gone with it.
const MOUNT: &str = r#"
mount -t tmpfs tmpfs "$2" && cd "$2" && mkdir disk upper work root && mount -o loop,ro "$1" disk &&
    mount -t overlay -o lowerdir=disk,upperdir=upper,workdir=work overlay root && mount -t proc proc root/proc &&
    mount -t tmpfs tmpfs root/tmp && mount -t tmpfs tmpfs root/dev/shm && exec chroot root sh -c "$3"
"#;

/// Runs the script on standard input in a directory of its own, in an environment that is the same everywhere.
const SCRIPT: &str = r#"
mkdir /tmp/workout && cd /tmp/workout && cat > /tmp/script &&
    env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 sh /tmp/script < /dev/null
"#;

/// In a guest: what the kernel has to say of itself is an error too, of its clocks and of processors that hang as well.
const KERNEL: &str = r#"
status=$?
if dmesg | grep -e 'BUG: ' -e 'WARNING: ' -e 'Oops' -e 'kernel panic' -e 'stall' -e 'nstable' >&2; then
    dmesg >&2
    exit 99
fi
exit $status
"#;

/// Where a program runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In the root file system on this disk.
    Host(&'a Path),
    /// In a guest with that root file system.
    Guest(Guest<'a>),
}

/// A guest.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The `viv` that runs it.
    pub viv: &'a Path,
    /// The store with its image.
    pub store: &'a Path,
    /// Options for the engine.
    pub engine_options: &'a [String],
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; `None` if it did not end or was killed.
    pub status: Option<i32>,
    /// What it said on standard output.
    pub result: String,
    /// What it said on standard error.
    pub errors: String,
    /// How long it took, with the guest's boot.
    pub took: Duration,
}

impl Place<'_> {
    /// Runs a program. What it says is also left in files in `directory`.
    pub fn run(self, program: &Program, directory: &Path) -> Result<Outcome> {
        let (place, mut command) = match self {
            Self::Host(disk) => ("host", on_host(disk, directory)?),
            Self::Guest(guest) => ("guest", in_guest(guest, program.processors)),
        };
        let file = |ending: &str| directory.join(format!("{}.{place}.{ending}", program.name));
        let [script, result, errors] = ["sh", "out", "err"].map(file);
        fs::write(&script, program.bundle()).with_context(|| format!("writing {}", script.display()))?;
        let created =
            |path: &Path| File::create(path).with_context(|| format!("creating {}", path.display()));
        command
            .stdin(File::open(&script).with_context(|| format!("opening {}", script.display()))?)
            .stdout(created(&result)?)
            .stderr(created(&errors)?);
        let begun = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", program.name))?;
        let status = end_of(&mut child, PATIENCE)?;
        let read = |path: &Path| {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Outcome {
            status: status.and_then(|status| status.code()),
            result: read(&result)?,
            errors: read(&errors)?,
            took: begun.elapsed(),
        })
    }
}

fn on_host(disk: &Path, directory: &Path) -> Result<Command> {
    let root = directory.join("root");
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    // What was started in the background of a script ignores these; a guest's programs do not.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT,QUIT", "unshare"])
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["sh", "-c", MOUNT, "workout"])
        .args([disk, &root])
        .arg(SCRIPT);
    Ok(command)
}

fn in_guest(guest: Guest<'_>, processors: u32) -> Command {
    let mut command = Command::new(guest.viv);
    command.env("VIV_HOME", guest.store).args(["run", "--engine", "soft", "--memory", MEMORY]);
    command.args(["--cpus", &processors.to_string()]);
    for option in guest.engine_options {
        command.args(["--engine-opt", option]);
    }
    command.args(["debian", "--", "sh", "-c", &format!("{SCRIPT}{KERNEL}")]);
    command
}

/// Waits for an end, and brings it about when patience does. `None` if it had to.
fn end_of(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait().context("waiting for a run")? {
            return Ok(Some(status));
        }
        thread::sleep(PAUSE);
    }
    child.kill().and_then(|()| child.wait()).context("ending a run that does not end")?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_end_is_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(end_of(&mut child, PAUSE).unwrap(), None);
        assert!(child.try_wait().unwrap().is_some());
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(end_of(&mut child, PATIENCE).unwrap().and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn a_guest_gets_its_processors_and_its_engines_options() {
        let options = ["torture=7".to_owned()];
        let (viv, store) = (Path::new("viv"), Path::new("s"));
        let command = in_guest(Guest { viv, store, engine_options: &options }, 2);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert!(words.windows(2).any(|pair| pair == ["--engine-opt", "torture=7"]), "{words:?}");
        assert!(words.windows(2).any(|pair| pair == ["--cpus", "2"]), "{words:?}");
    }
}
