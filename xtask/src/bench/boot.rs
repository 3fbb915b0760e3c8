//! From the start of a process to the guest's first user-space instruction, and to its end; and how long an installed
//! system takes.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use viv_image::initrd;

use super::Bench;
use super::contender::{Contender, Guest, Placement};
use super::init;
use super::installed;
use super::memory::resident_over_guest;
use super::report::{row, table};
use super::sample::Sample;
use super::session::Session;

/// Guest RAM in MiB.
const MEMORY: u64 = 512;

/// What was measured of one contender.
#[derive(Debug)]
struct Runs {
    contender: Contender,
    /// Seconds to the first word of the guest's first process.
    reached: Sample,
    /// Seconds to the end of the process; the guest powers off as soon as it is up.
    whole: Sample,
    /// MiB resident over guest RAM when the guest is up.
    resident: Sample,
    /// Millions of instructions from start to end, and of those a second of the vCPU's processor time.
    instructions: Option<(Sample, Sample)>,
    /// Seconds of Debian on a disk from its kernel's start to its last service, by systemd's word.
    installed: Sample,
}

/// The figures.
#[derive(Debug)]
pub struct Boot(Vec<Runs>);

/// One run.
struct Run {
    reached: f64,
    whole: f64,
    resident: f64,
    instructions: Option<(f64, f64)>,
    installed: f64,
}

/// Boots alternately, as often as was asked for. `root` is that of the repository.
pub fn measure(root: &Path, bench: &Bench) -> Result<Boot> {
    let disk = installed::disk(root)?;
    let initrd = bench.directory.join("boot.initrd");
    // It needs no device, and so no modules.
    let content = initrd::assemble(&init::program(), &[]).context("building an initial RAM disk")?;
    fs::write(&initrd, content).with_context(|| format!("writing {}", initrd.display()))?;
    let guest = Guest {
        bench,
        initrd: &initrd,
        disk: None,
        network: None,
        share: None,
        kernel_words: "",
        arguments: &[],
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    let mut runs: [Vec<Run>; 2] = [Vec::new(), Vec::new()];
    for number in 1..=bench.runs {
        for (contender, runs) in Contender::ALL.into_iter().zip(&mut runs) {
            let run = boot(contender, &guest, &disk).with_context(|| format!("booting with {contender}"))?;
            eprintln!(
                "boot {number} of {}, {contender}: {:.2} s, from a disk {:.2} s",
                bench.runs, run.reached, run.installed
            );
            runs.push(run);
        }
    }
    Ok(Boot(Contender::ALL.into_iter().zip(runs).map(|(contender, runs)| sum(contender, &runs)).collect()))
}

fn sum(contender: Contender, runs: &[Run]) -> Runs {
    let sample = |value: fn(&Run) -> f64| Sample::new(runs.iter().map(value).collect());
    let counted: Option<Vec<(f64, f64)>> = runs.iter().map(|run| run.instructions).collect();
    Runs {
        contender,
        reached: sample(|run| run.reached),
        whole: sample(|run| run.whole),
        resident: sample(|run| run.resident),
        instructions: counted.map(|counted| {
            let (millions, rates) = counted.into_iter().unzip();
            (Sample::new(millions), Sample::new(rates))
        }),
        installed: sample(|run| run.installed),
    }
}

fn boot(contender: Contender, guest: &Guest<'_>, disk: &Path) -> Result<Run> {
    let mut session = Session::start(&mut contender.command(guest))?;
    let line = session.next_line()?;
    let (reached, line) = line.context("the guest ended before its first process said anything")?;
    ensure!(line == init::READY, "the guest said {line}");
    // The guest waits: this is in no time but the whole one, of which it is a few milliseconds.
    let resident = resident_over_guest(session.pid(), MEMORY << 20)? as f64 / f64::from(1 << 20);
    session.press_return()?;
    let ended = session.end()?;
    let instructions = match contender {
        Contender::Viv => rate(&ended.errors)?,
        Contender::Tcg => None,
    };
    let installed = installed::boot(contender, guest.bench, disk)?;
    Ok(Run { reached, whole: ended.whole, resident, instructions, installed })
}

/// Millions of instructions, and millions a second, from what `viv run --stats=json` says; nothing if it did not count
/// them.
pub fn rate(stats: &str) -> Result<Option<(f64, f64)>> {
    // It is the last thing that it says.
    let line = stats.trim_end().lines().next_back().unwrap_or_default();
    let stats: Value =
        serde_json::from_str(line).with_context(|| format!("reading viv's figures: {line}"))?;
    let figure = |name: &str| stats["figures"][name].as_f64();
    let counted = figure("instructions").zip(figure("vcpu_nanoseconds").filter(|&time| time > 0.0));
    Ok(counted.map(|(instructions, time)| (instructions / 1e6, instructions * 1e3 / time)))
}

impl Boot {
    pub fn to_json(&self) -> Value {
        let runs = self.0.iter().map(|runs| {
            let counted = runs.instructions.as_ref();
            let figures = json!({
                "first_user_instruction_seconds": runs.reached.to_json(),
                "whole_process_seconds": runs.whole.to_json(),
                "resident_over_guest_memory_mib": runs.resident.to_json(),
                "installed_system_seconds": runs.installed.to_json(),
                "million_instructions": counted.map(|(millions, _)| millions.to_json()),
                "million_instructions_a_second": counted.map(|(_, rate)| rate.to_json()),
            });
            (runs.contender.to_string().to_lowercase(), figures)
        });
        runs.collect::<serde_json::Map<_, _>>().into()
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [viv, tcg] = self.0.as_slice() else { return Ok(()) };
        let compare = |what: &str, value: fn(&Runs) -> &Sample, digits: usize| {
            let (viv, tcg) = (value(viv), value(tcg));
            let ratio = viv.median() / tcg.median();
            vec![what.to_owned(), format!("{viv:.digits$}"), format!("{tcg:.digits$}"), format!("{ratio:.2}")]
        };
        let mut rows = vec![
            row(["boot; median (least to greatest)", "viv", "TCG", "viv/TCG"]),
            compare("start to first user-space instruction, s", |runs| &runs.reached, 2),
            compare("start to end of process, s", |runs| &runs.whole, 2),
            compare("resident over guest memory, MiB", |runs| &runs.resident, 1),
            compare("Debian on a disk, by systemd-analyze, s", |runs| &runs.installed, 2),
        ];
        if let Some((millions, rate)) = &viv.instructions {
            rows.push(vec!["guest instructions, millions".to_owned(), format!("{millions:.0}")]);
            rows.push(vec!["millions of them a second".to_owned(), format!("{rate:.0}")]);
        }
        f.write_str(&table(&rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_processor_time() {
        let stats = r#"{"figures":{"instructions":90000000,"vcpu_nanoseconds":2000000000}}"#;
        assert_eq!(rate(&format!("viv: a word before\n{stats}\n")).unwrap(), Some((90.0, 45.0)));
    }

    #[test]
    fn what_was_not_counted_has_no_rate() {
        for stats in [
            r#"{"figures":{"instructions":null,"vcpu_nanoseconds":2}}"#,
            r#"{"figures":{"vcpu_nanoseconds":2}}"#,
            r#"{"figures":{"instructions":1,"vcpu_nanoseconds":0}}"#,
            r#"{"figures":null}"#,
        ] {
            assert_eq!(rate(stats).unwrap(), None, "{stats}");
        }
        assert!(rate("").is_err());
    }
}
