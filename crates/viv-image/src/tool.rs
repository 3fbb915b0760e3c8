//! Running the system's own programs.
//!
//! They are started so that none outlives this process: each is the first process of namespaces of its own,
//! tied to its parent's life. What it mounted goes with it, and a directory it worked in can be removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::files;
use crate::progress::Progress;

/// Where programs of the system administrator live; a user's `PATH` may lack it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a running program is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// Lines of a program's output shown when it fails.
const TAIL: usize = 12;

/// Starts a program that dies with the one that started it: `setpriv` and `unshare` become it in turn.
const CONFINEMENT: [&str; 10] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
];
/// The same where namespaces are denied, as in most containers; nothing can be mounted there either.
const LOOSE_CONFINEMENT: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("starting {program}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}); its log is {}; the end of it:\n{tail}", log.display())]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// All it wrote.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// The user called it off.
    #[error("interrupted while running {program}")]
    Interrupted {
        /// The program.
        program: String,
    },
    /// Its log could not be written or read.
    #[error(transparent)]
    Log(#[from] files::Error),
}

/// Runs programs one after the other, with one log.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    log: &'a Path,
    scratch: &'a Path,
    confinement: &'static [&'static str],
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl<'a> Runner<'a> {
    /// A runner whose programs append to `log`, keep temporary files in `scratch`, and are ended when the
    /// user cancels or `stop` is set.
    #[must_use]
    pub fn new(log: &'a Path, scratch: &'a Path, progress: &'a dyn Progress, stop: &'a AtomicBool) -> Self {
        let confinement: &[&str] = if works(&CONFINEMENT) { &CONFINEMENT } else { &LOOSE_CONFINEMENT };
        Self { log, scratch, confinement, progress, stop }
    }

    /// The same with another log, for programs that run beside the first ones.
    #[must_use]
    pub fn with_log(self, log: &'a Path) -> Self {
        Self { log, ..self }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &'a Path {
        self.log
    }

    /// Runs a program to its end. Its output goes to the log, and to `watch` in pieces as it comes.
    ///
    /// # Errors
    /// If it cannot be started, fails, or is called off.
    pub fn run(&self, program: &Program, watch: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let output = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log)
            .map_err(files::at("opening log", self.log))?;
        let mut tailing = File::open(self.log).map_err(files::at("opening log", self.log))?;
        io::Seek::seek(&mut tailing, io::SeekFrom::End(0)).map_err(files::at("reading log", self.log))?;

        let errors = output.try_clone().map_err(files::at("opening log", self.log))?;
        let mut child =
            self.command(program).stdout(output).stderr(errors).spawn().map_err(start(program))?;
        let mut seen = Vec::new();
        let status = loop {
            // Asked before the output is read, so that the end of it is not missed.
            let ended = child.try_wait().map_err(start(program))?;
            let mut piece = Vec::new();
            tailing.read_to_end(&mut piece).map_err(files::at("reading log", self.log))?;
            watch(&String::from_utf8_lossy(&piece));
            seen.extend_from_slice(&piece);
            if let Some(status) = ended {
                break status;
            }
            if self.progress.cancelled() || self.stop.load(Ordering::Relaxed) {
                end(&mut child);
                return Err(Error::Interrupted { program: program.name() });
            }
            thread::sleep(INTERVAL);
        };
        if status.success() {
            return Ok(());
        }
        let tail = tail(&String::from_utf8_lossy(&seen));
        Err(Error::Failed { program: program.name(), status, log: self.log.to_owned(), tail })
    }

    /// Runs a program that answers at once, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// If it cannot be started or fails.
    pub fn query(&self, program: &Program) -> Result<String, Error> {
        let output = self.command(program).output().map_err(start(program))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let tail = tail(&String::from_utf8_lossy(&output.stderr));
        Err(Error::Failed { program: program.name(), status: output.status, log: self.log.to_owned(), tail })
    }

    fn command(&self, program: &Program) -> Command {
        let mut words = self.confinement.iter().copied();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(&program.words)
            .env("PATH", PATH)
            // Messages are shown as they are, and matched.
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("TMPDIR", self.scratch)
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            // Ctrl-C is this process's to deal with, in order.
            .process_group(0);
        if let Some(directory) = &program.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// A program and what it is given.
#[derive(Clone, Debug, Default)]
pub struct Program {
    words: Vec<std::ffi::OsString>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    directory: Option<PathBuf>,
}

impl Program {
    /// A program by name, found in the system's directories.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { words: vec![name.into()], ..Self::default() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<std::ffi::OsString>) -> Self {
        self.words.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<std::ffi::OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets the directory it starts in.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    fn name(&self) -> String {
        self.words.first().map(|word| word.display().to_string()).unwrap_or_default()
    }
}

/// Whether the system has a program.
#[must_use]
pub fn exists(name: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(name).exists())
}

/// Whether a program can be confined in this way.
fn works(confinement: &[&str]) -> bool {
    let mut words = confinement.iter();
    let first = words.next().copied().unwrap_or_default();
    let mut command = Command::new(first);
    command.args(words).arg("true").env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn start(program: &Program) -> impl FnOnce(io::Error) -> Error {
    let program = program.name();
    move |source| Error::Start { program, source }
}

/// Kills a program and all it started, and waits for its end.
fn end(child: &mut Child) {
    // It may have ended by itself just now.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Silent, Stage};

    fn runner_at<'a>(home: &'a Path, log: &'a Path, stop: &'a AtomicBool) -> Runner<'a> {
        Runner { log, scratch: home, confinement: &LOOSE_CONFINEMENT, progress: &Silent, stop }
    }

    #[test]
    fn output_is_watched_logged_and_shown_on_failure() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let stop = AtomicBool::new(false);
        let runner = runner_at(home.path(), &log, &stop);
        let mut watched = String::new();
        let program = Program::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = runner.run(&program, &mut |text| watched.push_str(text)).unwrap_err();
        assert_eq!(watched, "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), watched);
        let Error::Failed { status, tail, .. } = error else { panic!("{error}") };
        assert_eq!((status.code(), tail.as_str()), (Some(3), "  one\n  two"));
    }

    #[test]
    fn answers_come_without_the_log() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let stop = AtomicBool::new(false);
        let answer = runner_at(home.path(), &log, &stop).query(&Program::new("echo").arg("yes")).unwrap();
        assert_eq!(answer, "yes\n");
    }

    #[test]
    fn a_cancelled_program_is_gone_with_its_children() {
        struct Cancelled;
        impl Progress for Cancelled {
            fn begin(&self, _: Stage) {}
            fn advance(&self, _: Stage, _: f64) {}
            fn end(&self, _: Stage) {}
            fn note(&self, _: &str) {}
            fn cancelled(&self) -> bool {
                true
            }
        }
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let stop = AtomicBool::new(false);
        let runner = Runner { progress: &Cancelled, ..runner_at(home.path(), &log, &stop) };
        // Would run for ever, and its child hold the log open.
        let program = Program::new("sh").args(["-c", "sleep 1000000 & wait"]);
        let error = runner.run(&program, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    }

    #[test]
    fn tails_are_short() {
        let text = (0..100).map(|n| format!("{n}\n")).collect::<String>();
        assert_eq!(tail(&text).lines().count(), TAIL);
        assert!(tail(&text).ends_with("  99"));
        assert_eq!(tail(""), "");
    }
}
