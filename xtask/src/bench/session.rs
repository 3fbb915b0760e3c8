//! One run of a program, followed by what it says on standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long any run may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A program that runs.
pub struct Session {
    child: Running,
    begun: Instant,
    lines: Receiver<(Instant, String)>,
    errors: JoinHandle<String>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// From the start to the process's end, in seconds.
    pub whole: f64,
    /// What it said on standard error.
    pub errors: String,
}

impl Session {
    pub fn start(command: &mut Command) -> Result<Self> {
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("the program's output")?;
        thread::spawn(move || {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let at = Instant::now();
                let text = String::from_utf8_lossy(&text);
                if let Some(start) = text.rfind('@')
                    && sender.send((at, text[start..].trim_end().to_owned())).is_err()
                {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().context("the program's errors")?;
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before it failed is still worth having.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self { child: Running(child), begun, lines, errors })
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Writes a line to its standard input.
    pub fn press_return(&mut self) -> Result<()> {
        let stdin = self.child.0.stdin.as_mut().context("the program's input")?;
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).context("writing to the program")
    }

    /// The next line of ours, from its `@` on (the kernel may have put something before it), with the seconds from the start to its arrival. `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<(f64, String)>> {
        let left = PATIENCE.saturating_sub(self.begun.elapsed());
        match self.lines.recv_timeout(left) {
            Ok((at, line)) => Ok(Some((at.duration_since(self.begun).as_secs_f64(), line))),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("a run has not ended after {} s", PATIENCE.as_secs()),
        }
    }

    /// Waits for its end. Fails if it did not succeed.
    pub fn end(mut self) -> Result<Ended> {
        while self.next_line()?.is_some() {}
        let status = self.child.0.wait().context("waiting for the program")?;
        let whole = self.begun.elapsed().as_secs_f64();
        let errors = std::mem::replace(&mut self.errors, thread::spawn(String::new));
        let errors = errors.join().unwrap_or_default();
        ensure!(status.success(), "a run ended with {status}: {}", errors.trim_end());
        Ok(Ended { whole, errors })
    }
}

/// A program that does not go on behind the next if its run is given up.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_found_behind_what_others_say() {
        let script = "echo kernel; echo 'kernel says @one 1'; read line; echo @two; echo oops >&2";
        let mut session = Session::start(Command::new("sh").args(["-c", script])).unwrap();
        let (first, line) = session.next_line().unwrap().unwrap();
        assert_eq!(line, "@one 1");
        session.press_return().unwrap();
        let (second, line) = session.next_line().unwrap().unwrap();
        assert_eq!((line.as_str(), first <= second), ("@two", true));
        let ended = session.end().unwrap();
        assert_eq!((ended.errors.as_str(), second <= ended.whole), ("oops\n", true));
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let session = Session::start(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap();
        assert!(session.end().unwrap_err().to_string().contains("why"));
    }
}
