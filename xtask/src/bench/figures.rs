//! What the workloads took, summed up: medians, ratios, the table.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{row, table};
use super::sample::Sample;
use super::workloads::Timed;

/// Where a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Native,
    Viv,
    Tcg,
    /// As `Tcg`, with passt for the network.
    Passt,
}

impl Place {
    pub const ALL: [Self; 4] = [Self::Native, Self::Viv, Self::Tcg, Self::Passt];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Viv => "viv",
            Self::Tcg => "TCG",
            Self::Passt => "TCG+passt",
        })
    }
}

/// All runs so far.
#[derive(Debug, Default)]
pub struct Runs {
    timed: BTreeMap<Place, Vec<Vec<Timed>>>,
    rates: Vec<Option<f64>>,
}

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
    /// Where it ran there.
    passt: Option<Seconds>,
}

/// How often the one's time is in the other's.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratios {
    viv_to_native: f64,
    tcg_to_native: f64,
    viv_to_tcg: f64,
    viv_to_passt: Option<f64>,
}

/// The figures.
#[derive(Debug)]
pub struct Workloads {
    workloads: Vec<Workload>,
    /// Millions of guest instructions a second over a whole run under `viv`, where they were counted.
    rate: Option<Sample>,
}

impl Runs {
    /// Adds one run, under `viv` with the rate of its instructions if they were counted.
    pub fn add(&mut self, place: Place, timed: Vec<Timed>, rate: Option<f64>) {
        self.timed.entry(place).or_default().push(timed);
        if place == Place::Viv {
            self.rates.push(rate);
        }
    }

    /// The figures. Fails unless each workload came to the same everywhere.
    pub fn sum(self) -> Result<Workloads> {
        let first = self.timed.get(&Place::Native).and_then(|runs| runs.first()).context("nothing ran")?;
        let has_passt = self.timed.contains_key(&Place::Passt);
        let workload = |Timed { name, result, .. }: &Timed| {
            Ok(Workload {
                name: name.clone(),
                native: self.seconds(Place::Native, name, result)?,
                viv: self.seconds(Place::Viv, name, result)?,
                tcg: self.seconds(Place::Tcg, name, result)?,
                passt: has_passt.then(|| self.seconds(Place::Passt, name, result)).transpose()?,
            })
        };
        let workloads = first.iter().map(workload).collect::<Result<_>>()?;
        let rates: Option<Vec<f64>> = self.rates.iter().copied().collect();
        Ok(Workloads { workloads, rate: rates.filter(|rates| !rates.is_empty()).map(Sample::new) })
    }

    fn seconds(&self, place: Place, name: &str, result: &str) -> Result<Seconds> {
        let runs = self.timed.get(&place).map(Vec::as_slice).unwrap_or_default();
        let of = |run: &Vec<Timed>| run.iter().find(|timed| timed.name == name).cloned();
        let timed: Option<Vec<Timed>> = runs.iter().map(of).collect();
        let timed = timed.filter(|timed| !timed.is_empty());
        let timed = timed.with_context(|| format!("{name} did not run everywhere"))?;
        for timed in &timed {
            ensure!(
                timed.result == result,
                "{name} came to {} in {place}, but to {result} on the host",
                timed.result
            );
        }
        Ok(Seconds {
            inside: Sample::new(timed.iter().map(|timed| timed.inside).collect()),
            outside: Sample::new(timed.iter().map(|timed| timed.outside).collect()),
        })
    }
}

impl Seconds {
    fn to_json(&self) -> Value {
        json!({ "guest_seconds": self.inside.to_json(), "host_seconds": self.outside.to_json() })
    }

    /// Whether the guest's clock tells something else than the host's.
    fn disagree(&self) -> bool {
        let (inside, outside) = (self.inside.median(), self.outside.median());
        (inside - outside).abs() > (0.1 * outside).max(0.05)
    }
}

impl Workload {
    fn ratios(&self) -> Ratios {
        let [native, viv, tcg] = [&self.native, &self.viv, &self.tcg].map(|place| place.inside.median());
        Ratios {
            viv_to_native: viv / native,
            tcg_to_native: tcg / native,
            viv_to_tcg: viv / tcg,
            viv_to_passt: self.passt.as_ref().map(|passt| viv / passt.inside.median()),
        }
    }
}

impl Ratios {
    /// The geometric mean of each.
    fn mean(all: &[Self]) -> Self {
        let mean = |ratio: fn(&Self) -> f64| geometric_mean(all.iter().map(ratio));
        Self {
            viv_to_native: mean(|ratios| ratios.viv_to_native),
            tcg_to_native: mean(|ratios| ratios.tcg_to_native),
            viv_to_tcg: mean(|ratios| ratios.viv_to_tcg),
            viv_to_passt: all
                .iter()
                .map(|ratios| ratios.viv_to_passt)
                .collect::<Option<Vec<_>>>()
                .map(|ratios| geometric_mean(ratios.into_iter())),
        }
    }

    fn to_json(self) -> Value {
        let Self { viv_to_native, tcg_to_native, viv_to_tcg, viv_to_passt } = self;
        json!({
            "viv_to_native": viv_to_native, "tcg_to_native": tcg_to_native, "viv_to_tcg": viv_to_tcg,
            "viv_to_passt": viv_to_passt,
        })
    }

    fn cells(self) -> impl Iterator<Item = String> {
        let ratios = [self.viv_to_native, self.tcg_to_native, self.viv_to_tcg];
        ratios.into_iter().chain(self.viv_to_passt).map(|ratio| format!("{ratio:.2}"))
    }
}

/// The root of the product, of which degree there are values; 1 of none.
fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value.ln(), count + 1));
    (sum / f64::from(count.max(1))).exp()
}

impl Workloads {
    pub fn to_json(&self) -> Value {
        let workload = |workload: &Workload| {
            json!({
                "name": workload.name,
                "native": workload.native.to_json(),
                "viv": workload.viv.to_json(),
                "tcg": workload.tcg.to_json(),
                "passt": workload.passt.as_ref().map(Seconds::to_json),
                "ratios": workload.ratios().to_json(),
            })
        };
        json!({
            "workloads": self.workloads.iter().map(workload).collect::<Vec<_>>(),
            "geometric_means": self.means().to_json(),
            "million_instructions_a_second": self.rate.as_ref().map(Sample::to_json),
        })
    }

    fn means(&self) -> Ratios {
        Ratios::mean(&self.workloads.iter().map(Workload::ratios).collect::<Vec<_>>())
    }
}

impl fmt::Display for Workloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let means = self.means();
        let has_passt = means.viv_to_passt.is_some();
        let place = |place: Place| (place != Place::Passt || has_passt).then(|| place.to_string());
        let mut head = row(["workload; seconds"]);
        head.extend(Place::ALL.into_iter().filter_map(place));
        head.extend(row(["viv/native", "TCG/native", "viv/TCG"]));
        head.extend(has_passt.then(|| "viv/passt".to_owned()));
        let mut last = row(["geometric mean", "", "", ""]);
        last.extend(has_passt.then(String::new));
        let mut rows = vec![head];
        for workload in &self.workloads {
            let Workload { name, native, viv, tcg, passt } = workload;
            let mut cells = vec![name.clone()];
            cells.extend(
                [native, viv, tcg].into_iter().chain(passt).map(|seconds| format!("{:.3}", seconds.inside)),
            );
            cells.extend(workload.ratios().cells());
            rows.push(cells);
        }
        last.extend(means.cells());
        rows.push(last);
        f.write_str(&table(&rows))?;
        for Workload { name, viv, tcg, passt, .. } in &self.workloads {
            let guests = [(Place::Viv, viv), (Place::Tcg, tcg)];
            for (place, seconds) in
                guests.into_iter().chain(passt.as_ref().map(|passt| (Place::Passt, passt)))
            {
                if seconds.disagree() {
                    write!(f, "\n{name} under {place}: {:.3} s by the host's clock", seconds.outside)?;
                }
            }
        }
        match &self.rate {
            Some(rate) => write!(f, "\nmillions of guest instructions a second, all of it: {rate:.0}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(name: &str, inside: f64, result: &str) -> Timed {
        Timed { name: name.into(), inside, outside: inside, result: result.into() }
    }

    /// One run in each place, of two workloads.
    fn runs(viv_result: &str, rate: Option<f64>) -> Runs {
        let mut runs = Runs::default();
        runs.add(Place::Native, vec![timed("a", 0.5, "1"), timed("b", 0.25, "2")], None);
        runs.add(Place::Viv, vec![timed("a", 1.0, "1"), timed("b", 2.0, viv_result)], rate);
        runs.add(Place::Tcg, vec![timed("a", 4.0, "1"), timed("b", 0.5, "2")], None);
        runs
    }

    #[test]
    fn the_mean_of_ratios_is_geometric() {
        assert!((geometric_mean([2.0, 8.0].into_iter()) - 4.0).abs() < 1e-12);
        assert!((geometric_mean([0.5, 2.0, 1.0].into_iter()) - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(std::iter::empty()), 1.0);
    }

    #[test]
    fn rows_have_their_ratios_and_the_last_has_the_means() {
        let text = runs("2", None).sum().unwrap().to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "0.500", "1.000", "4.000", "2.00", "8.00", "0.25"]);
        assert_eq!(lines[2], ["b", "0.250", "2.000", "0.500", "8.00", "2.00", "4.00"]);
        assert_eq!(lines[3], ["geometric", "mean", "4.00", "4.00", "1.00"]);
        assert_eq!(lines.len(), 4, "{text}");
    }

    #[test]
    fn passt_has_its_columns_where_it_ran() {
        let mut runs = runs("2", None);
        runs.add(Place::Passt, vec![timed("a", 2.0, "1"), timed("b", 1.0, "2")], None);
        let text = runs.sum().unwrap().to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "0.500", "1.000", "4.000", "2.000", "2.00", "8.00", "0.25", "0.50"]);
        assert_eq!(lines[3], ["geometric", "mean", "4.00", "4.00", "1.00", "1.00"]);
    }

    #[test]
    fn programs_get_all_of_it() {
        let json = runs("2", Some(80.0)).sum().unwrap().to_json();
        assert_eq!(json["workloads"][1]["ratios"]["viv_to_native"], 8.0);
        assert_eq!(json["workloads"][0]["tcg"]["host_seconds"]["median"], 4.0);
        assert!((json["geometric_means"]["tcg_to_native"].as_f64().unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(json["million_instructions_a_second"]["median"], 80.0);
    }

    #[test]
    fn the_rate_is_shown_where_it_is_known() {
        assert!(runs("2", Some(80.0)).sum().unwrap().to_string().ends_with("all of it: 80"));
        let unknown = runs("2", None).sum().unwrap();
        assert!(!unknown.to_string().contains("instructions"));
        assert!(unknown.to_json()["million_instructions_a_second"].is_null());
    }

    #[test]
    fn a_clock_that_is_wrong_is_told() {
        let mut runs = runs("2", None);
        runs.timed.get_mut(&Place::Viv).unwrap()[0][0].outside = 2.0;
        let text = runs.sum().unwrap().to_string();
        assert_eq!(text.lines().last(), Some("a under viv: 2.000 s by the host's clock"));
    }

    #[test]
    fn another_result_is_no_figure() {
        let error = runs("3", None).sum().unwrap_err().to_string();
        assert_eq!(error, "b came to 3 in viv, but to 2 on the host");
    }
}
