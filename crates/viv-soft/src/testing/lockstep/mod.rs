//! Machines in lockstep: random worlds, each run by the interpreter and by every other way to run code, which must all
//! come to the same end.
//!
//! A world ([`world`]) is RAM full of random code ([`gadgets`], [`walks`], [`privileged`]) and data, mapped at random ([`places`]),
//! with handlers that keep the code going after faults and interrupts ([`system`]), until its fuel is used up. Nothing in
//! it depends on time, so that registers, RAM and what devices saw must be the same at the end ([`run`]).
//!
//! Interrupts are posted by handlers alone, where they are disabled, so that the guest's own code decides where one is
//! taken. Arithmetic flags that are dead at a fault, and therefore need not be right, are hidden by handlers. Code that is
//! written just before it runs may still see them; a world that ends as it should when no flag is taken for dead is
//! counted, and is no difference.

mod gadgets;
mod image;
mod layout;
mod places;
mod platform;
mod privileged;
mod ram;
mod run;
mod shrink;
mod system;
#[cfg(test)]
mod tests;
mod walks;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use run::{End, Runner};
use world::{Pools, World};

use crate::options::{Options as EngineOptions, Tier, Torture};
use crate::translate::keeping_all_flags;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first world's seed; the others' follow it.
    pub seed: u64,
    /// How many worlds.
    pub worlds: u64,
    /// How long at the most.
    pub time: Option<Duration>,
    /// The file that has each seed while its world runs, so that it is known even if the process dies.
    pub note: Option<PathBuf>,
}

impl Options {
    /// From the environment: `VIV_LOCKSTEP_SEED`, `VIV_LOCKSTEP_WORLDS`, `VIV_LOCKSTEP_SECONDS`, `VIV_LOCKSTEP_NOTE`.
    /// With a time and no number of worlds, the time alone ends it.
    pub fn from_environment(default_worlds: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seconds = number("VIV_LOCKSTEP_SECONDS");
        Self {
            seed: number("VIV_LOCKSTEP_SEED").unwrap_or(1),
            worlds: number("VIV_LOCKSTEP_WORLDS").unwrap_or(if seconds.is_some() {
                u64::MAX
            } else {
                default_worlds
            }),
            time: seconds.map(Duration::from_secs),
            note: std::env::var_os("VIV_LOCKSTEP_NOTE").map(PathBuf::from),
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// Worlds that were run.
    pub worlds: u64,
    /// How they ended.
    pub stopped: u64,
    pub halted: u64,
    pub triple_faults: u64,
    pub unsupported: u64,
    /// Those that did not end, and were not compared.
    pub endless: u64,
    /// Those that differ from run to run on one engine, and were not compared.
    pub unsteady: u64,
    /// Those whose code sees a flag that translated code took for dead, and which therefore differ.
    pub dead_flags: u64,
    /// Events that handlers saw.
    pub events: u64,
    /// What devices saw.
    pub accesses: u64,
    /// A text for every world that did not come to one end.
    pub differences: Vec<String>,
}

/// How many differences a comparison finds before it ends.
const ENOUGH: usize = 5;

/// The interpreter.
const REFERENCE: EngineOptions = EngineOptions::with_tier(Tier::Interpret);

/// The other ways to run the code of a world.
fn engines(seed: u64) -> [EngineOptions; 2] {
    [None, Some(Torture { seed })]
        .map(|torture| EngineOptions { torture, ..EngineOptions::with_tier(Tier::Translate) })
}

/// Runs random worlds on the interpreter and on the other engines.
pub fn compare(options: &Options) -> Report {
    let begun = Instant::now();
    let pools = Pools::default();
    let mut runner = Runner::default();
    let mut report = Report::default();
    for seed in (options.seed..).take(usize::try_from(options.worlds).unwrap_or(usize::MAX)) {
        let is_late = options.time.is_some_and(|time| begun.elapsed() > time);
        if is_late || report.differences.len() >= ENOUGH {
            break;
        }
        if let Some(note) = &options.note {
            std::fs::write(note, seed.to_string()).expect("the note can be written");
        }
        let world = World::random(seed, &pools);
        compare_world(&mut runner, &world, seed, &mut report);
    }
    report
}

fn compare_world(runner: &mut Runner, world: &World, seed: u64, report: &mut Report) {
    let expected = runner.run(world, REFERENCE);
    report.worlds += 1;
    report.events += expected.events();
    report.accesses += expected.accesses.len() as u64;
    match &expected.end {
        End::Stopped => report.stopped += 1,
        End::Halted => report.halted += 1,
        End::TripleFault => report.triple_faults += 1,
        End::Unsupported(_) => report.unsupported += 1,
        End::Endless => {
            report.endless += 1;
            return;
        }
    }
    if let Some(wrong) = expected.wrong {
        report
            .differences
            .push(format!("VIV_LOCKSTEP_SEED={seed} VIV_LOCKSTEP_WORLDS=1: interpreted, {wrong}"));
    }
    for engine in engines(seed) {
        let actual = runner.run(world, engine);
        if actual == expected {
            continue;
        }
        if actual.end == End::Endless {
            // To make it smaller would take too long.
            let what = format!("VIV_LOCKSTEP_SEED={seed} VIV_LOCKSTEP_WORLDS=1: {engine:?} does not end");
            report.differences.push(what);
            return;
        }
        // What tells the time, or is random, shows on the interpreter alone.
        if (0..2).any(|_| runner.run(world, REFERENCE) != expected) {
            report.unsteady += 1;
            return;
        }
        // Code that was written a moment ago may read flags that were dead in what it replaces.
        if keeping_all_flags(|| runner.run(world, engine)) == expected {
            report.dead_flags += 1;
            return;
        }
        report.differences.push(shrink::explain(runner, world, seed, engine));
        return;
    }
}
