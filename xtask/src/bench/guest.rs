//! Pieces of work in a guest, under both contenders, and on the host itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::boot;
use super::contender::{Contender, Guest};
use super::report::{row, table};
use super::sample::Sample;
use super::session::Session;
use super::workloads::{self, Timed};

/// Seconds of one workload in one place, by both clocks.
#[derive(Debug)]
struct Seconds {
    inside: Sample,
    outside: Sample,
}

/// One workload everywhere.
#[derive(Debug)]
struct Workload {
    name: String,
    native: Seconds,
    viv: Seconds,
    tcg: Seconds,
}

/// The figures.
#[derive(Debug)]
pub struct Workloads {
    workloads: Vec<Workload>,
    /// Millions of guest instructions a second over a whole run under `viv`.
    rate: Sample,
}

/// Where a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Native,
    Viv,
    Tcg,
}

/// Runs everything alternately, as often as was asked for.
pub fn measure(root: &Path, bench: &Bench) -> Result<Workloads> {
    let program = workloads::build(root, &bench.directory)?;
    let initrd = bench.directory.join("guest.initrd");
    fs::write(&initrd, workloads::initrd(&program)?)
        .with_context(|| format!("writing {}", initrd.display()))?;
    let guest = Guest { bench, initrd: &initrd };
    let mut runs: BTreeMap<Place, Vec<Vec<Timed>>> = BTreeMap::new();
    let mut rates = Vec::new();
    for number in 1..=bench.runs {
        for place in [Place::Native, Place::Viv, Place::Tcg] {
            let mut command = match place {
                Place::Native => native(bench, &program),
                Place::Viv => Contender::Viv.command(&guest),
                Place::Tcg => Contender::Tcg.command(&guest),
            };
            let mut session = Session::start(&mut command)?;
            let timed = workloads::follow(&mut session).with_context(|| format!("workloads, {place:?}"))?;
            let ended = session.end().with_context(|| format!("workloads, {place:?}"))?;
            if place == Place::Viv {
                rates.push(boot::rate(&ended.errors)?.1);
            }
            eprintln!("workloads {number} of {}, {place:?}: {:.1} s", bench.runs, ended.whole);
            runs.entry(place).or_default().push(timed);
        }
    }
    Ok(Workloads { workloads: sum(&runs)?, rate: Sample::new(rates) })
}

/// The program on the host, whose clock is then the guest's too.
fn native(bench: &Bench, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &bench.processor.to_string()]).arg(program);
    command
}

fn sum(runs: &BTreeMap<Place, Vec<Vec<Timed>>>) -> Result<Vec<Workload>> {
    let first = &runs[&Place::Native][0];
    let seconds = |place: Place, name: &str, result: &str| -> Result<Seconds> {
        let of = |run: &Vec<Timed>| run.iter().find(|timed| timed.name == name).cloned();
        let timed: Option<Vec<Timed>> = runs[&place].iter().map(of).collect();
        let timed = timed.with_context(|| format!("{name} did not run everywhere"))?;
        for timed in &timed {
            ensure!(
                timed.result == result,
                "{name} came to {} in {place:?}, but to {result} on the host",
                timed.result
            );
        }
        Ok(Seconds {
            inside: Sample::new(timed.iter().map(|timed| timed.inside).collect()),
            outside: Sample::new(timed.iter().map(|timed| timed.outside).collect()),
        })
    };
    let workload = |Timed { name, result, .. }: &Timed| {
        Ok(Workload {
            name: name.clone(),
            native: seconds(Place::Native, name, result)?,
            viv: seconds(Place::Viv, name, result)?,
            tcg: seconds(Place::Tcg, name, result)?,
        })
    };
    first.iter().map(workload).collect()
}

impl Workloads {
    pub fn to_json(&self) -> Value {
        let seconds = |seconds: &Seconds| json!({ "guest_seconds": seconds.inside.to_json(), "host_seconds": seconds.outside.to_json() });
        let workload = |workload: &Workload| {
            let Workload { name, native, viv, tcg } = workload;
            json!({ "name": name, "native": seconds(native), "viv": seconds(viv), "tcg": seconds(tcg) })
        };
        json!({
            "workloads": self.workloads.iter().map(workload).collect::<Vec<_>>(),
            "million_instructions_a_second": self.rate.to_json(),
        })
    }
}

impl fmt::Display for Workloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![row([
            "workload; seconds by the guest's clock",
            "native",
            "viv",
            "TCG",
            "viv by host's clock",
            "viv/native",
            "viv/TCG",
        ])];
        for Workload { name, native, viv, tcg } in &self.workloads {
            let median = viv.inside.median();
            rows.push(vec![
                name.clone(),
                format!("{:.3}", native.inside.median()),
                format!("{:.3}", viv.inside),
                format!("{:.3}", tcg.inside),
                format!("{:.3}", viv.outside.median()),
                format!("{:.1}", median / native.inside.median()),
                format!("{:.2}", median / tcg.inside.median()),
            ]);
        }
        write!(f, "{}\nmillions of guest instructions a second, all of it: {:.0}", table(&rows), self.rate)
    }
}
