//! Debian as it is installed on a disk, from SeaBIOS by GRUB and systemd to a login: the time that systemd says it took.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use viv_testbed::debian_disk;

use super::Bench;
use super::contender::Contender;
use super::session::Running;

/// Guest RAM.
const MEMORY: &str = "512M";
/// What the guest asks with, and what it is answered, up to the shell's prompt.
const LOG_IN: [(&str, &str); 2] = [("highlighted", "\r"), ("debian login: ", "root\r")];
const PROMPT: &str = "root@debian:~# ";

/// The disk, built if need be.
pub fn disk(root: &Path) -> Result<PathBuf> {
    debian_disk::provide(&root.join("target/tmp/installed"))
}

/// Boots it once; the seconds from the kernel's start to systemd's last service, by the guest's clock.
pub fn boot(contender: Contender, bench: &Bench, disk: &Path) -> Result<f64> {
    let mut dialogue = Dialogue::start(&mut command(contender, bench, disk))?;
    for (question, answer) in LOG_IN {
        dialogue.wait_for(question)?;
        dialogue.say(answer)?;
    }
    dialogue.wait_for(PROMPT)?;
    // Without the first, some services are still on their way.
    dialogue.say("systemctl is-system-running --wait; systemd-analyze\r")?;
    let said = dialogue.wait_for(PROMPT)?;
    dialogue.say("systemctl poweroff\r")?;
    dialogue.end()?;
    seconds(&said).with_context(|| format!("systemd-analyze said {said:?}"))
}

fn command(contender: Contender, bench: &Bench, disk: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &bench.processor.to_string()]);
    match contender {
        Contender::Viv => {
            command.arg(&bench.viv).args(["run", "--engine", "soft"]);
            for option in &bench.engine_options {
                command.args(["--engine-opt", option]);
            }
            command.args(["--firmware", "bios", "--memory", MEMORY, "--no-reboot", "--disk"]);
            command.arg(format!("{},temporary", disk.display()));
        }
        Contender::Tcg => {
            // Without graphics, SeaBIOS speaks through the serial port.
            command
                .args(["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35,graphics=off", "-cpu", "max"])
                .args(["-m", MEMORY, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
                .args(["-serial", "stdio", "-device", "virtio-blk-pci,drive=disk", "-drive"])
                .arg(format!(
                    "if=none,id=disk,format=raw,snapshot=on,file={}",
                    disk.display().to_string().replace(',', ",,")
                ));
        }
    }
    command
}

/// The sum that `systemd-analyze` ends its first line with, as in `Startup finished in … = 1min 2.345s`.
fn seconds(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("Startup finished in "))?;
    let (_, sum) = line.rsplit_once(" = ")?;
    let part = |part: &str| {
        let (number, unit) = part.split_at(part.find(|c: char| c.is_ascii_alphabetic())?);
        let scale = match unit {
            "min" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        number.parse::<f64>().ok().map(|number| number * scale)
    };
    sum.split_whitespace().map(part).sum()
}

/// A program that asks on its standard output and is answered on its standard input.
struct Dialogue {
    child: Running,
    input: ChildStdin,
    output: ChildStdout,
    /// What was said and not yet waited for.
    said: String,
}

impl Dialogue {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("the program's pipes")?;
        Ok(Self { child: Running(child), input, output, said: String::new() })
    }

    /// Reads until `text` is said; what was said before it.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        let mut chunk = [0; 4096];
        loop {
            if let Some((before, after)) = self.said.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.said = after;
                return Ok(before);
            }
            let count = self.output.read(&mut chunk).context("reading what the guest says")?;
            if count == 0 {
                bail!("the guest ended before it said {text:?}, with {:?}", self.said);
            }
            self.said.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let answer = || format!("answering {text:?}");
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).with_context(answer)
    }

    /// Waits for the program's end.
    fn end(mut self) -> Result<()> {
        std::io::copy(&mut self.output, &mut std::io::sink()).context("reading what the guest says")?;
        let status = self.child.0.wait().context("waiting for the program")?;
        ensure!(status.success(), "a run ended with {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_read_in_all_its_units() {
        let said =
            |sum: &str| format!("systemd-analyze\r\nStartup finished in 1.9s (kernel) + 8s = {sum}\r\n");
        assert_eq!(seconds(&said("4.864s ")), Some(4.864));
        assert_eq!(seconds(&said("1min 2.5s")), Some(62.5));
        assert_eq!(seconds(&said("500ms")), Some(0.5));
        assert_eq!(seconds("Bootup is not yet finished"), None);
    }

    #[test]
    fn questions_are_answered() {
        let script = "printf 'noise login: '; read name; echo \"hello $name\"";
        let mut dialogue = Dialogue::start(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(dialogue.wait_for("login: ").unwrap(), "noise ");
        dialogue.say("root\n").unwrap();
        dialogue.wait_for("hello root").unwrap();
        dialogue.end().unwrap();
    }
}
