//! What several processors come to: two busy ones, and four that contend for a lock of the kernel's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Bench;
use super::contender::{Contender, Guest, Placement};
use super::report::{row, table};
use super::sample::Sample;
use super::session::Session;
use super::workloads;

/// Processors of the guests.
const PROCESSORS: u32 = 4;
/// Guest RAM in MiB.
const MEMORY: u64 = 512;

/// Where the rows run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Native,
    Viv,
    /// The guest spins for its locks, whoever has them.
    VivSpinning,
    Tcg,
}

impl Place {
    const ALL: [Self; 4] = [Self::Native, Self::Viv, Self::VivSpinning, Self::Tcg];

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Viv => "viv",
            Self::VivSpinning => "viv, nopvspin",
            Self::Tcg => "TCG",
        }
    }
}

/// Seconds of each row in each place.
#[derive(Debug)]
pub struct Processors(BTreeMap<Place, BTreeMap<String, Sample>>);

/// Runs everything alternately, as often as was asked for.
pub fn measure(root: &Path, bench: &Bench) -> Result<Processors> {
    let program = workloads::compile(&root.join("xtask/guest/processors.rs"), &bench.directory)?;
    let initrd = bench.initrd(&program)?;
    let guest = |kernel_words| Guest {
        bench,
        initrd: &initrd,
        disk: None,
        network: None,
        share: None,
        kernel_words,
        arguments: &[],
        memory: MEMORY,
        placement: Placement::Anywhere { processors: PROCESSORS },
    };
    let mut seconds: BTreeMap<Place, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for number in 1..=bench.runs {
        for place in Place::ALL {
            let mut command = match place {
                Place::Native => Command::new(&program),
                Place::Viv => Contender::Viv.command(&guest("")),
                Place::VivSpinning => Contender::Viv.command(&guest("nopvspin")),
                Place::Tcg => Contender::Tcg.command(&guest("")),
            };
            let mut session = Session::start(&mut command)?;
            let timed = workloads::follow(&mut session).with_context(|| format!("work, {}", place.name()))?;
            let ended = session.end().with_context(|| format!("work, {}", place.name()))?;
            eprintln!("processors {number} of {}, {}: {:.1} s", bench.runs, place.name(), ended.whole);
            let rows = seconds.entry(place).or_default();
            for row in timed {
                rows.entry(row.name).or_default().push(row.inside);
            }
        }
    }
    let samples = |rows: BTreeMap<String, Vec<f64>>| {
        rows.into_iter().map(|(name, values)| (name, Sample::new(values))).collect()
    };
    Ok(Processors(seconds.into_iter().map(|(place, rows)| (place, samples(rows))).collect()))
}

impl Processors {
    /// How many times the work of one busy processor two do in the same time.
    fn gain(&self, place: Place) -> Option<f64> {
        let rows = self.0.get(&place)?;
        Some(2.0 * rows.get("busy-1")?.median() / rows.get("busy-2")?.median())
    }

    pub fn to_json(&self) -> Value {
        let places = self.0.iter().map(|(&place, rows)| {
            let rows: serde_json::Map<_, _> =
                rows.iter().map(|(name, sample)| (name.clone(), sample.to_json())).collect();
            (place.name().to_owned(), json!({ "seconds": rows, "two_over_one": self.gain(place) }))
        });
        places.collect::<serde_json::Map<_, _>>().into()
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![row(["processors; seconds"])];
        lines[0].extend(self.0.keys().map(|place| place.name().to_owned()));
        let names = self.0.values().next().into_iter().flat_map(BTreeMap::keys);
        for name in names {
            let cells =
                self.0.values().map(|rows| rows.get(name).map_or_else(String::new, |s| format!("{s:.2}")));
            lines.push(std::iter::once(name.clone()).chain(cells).collect());
        }
        let gains = self
            .0
            .keys()
            .map(|&place| self.gain(place).map_or_else(String::new, |gain| format!("{gain:.2}")));
        lines.push(std::iter::once("work of two over one".to_owned()).chain(gains).collect());
        f.write_str(&table(&lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_take_as_long_as_one_do_twice_the_work() {
        let sample = |value| Sample::new(vec![value]);
        let rows = [("busy-1", 2.0), ("busy-2", 2.5), ("locks-4", 1.0)];
        let rows = rows.into_iter().map(|(name, value)| (name.to_owned(), sample(value))).collect();
        let figures = Processors([(Place::Viv, rows)].into());
        assert_eq!(figures.gain(Place::Viv), Some(1.6));
        assert_eq!(figures.gain(Place::Tcg), None);
        let text = figures.to_string();
        assert!(text.contains("work of two over one  1.60") && text.contains("locks-4"), "{text}");
    }
}
