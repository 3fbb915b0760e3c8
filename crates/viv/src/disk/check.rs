//! `viv disk check`.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use viv_disk::qcow2::{self, Check, Repair};

use super::failed;
use crate::cli::{Output, RepairArg};
use crate::failure::{Failure, one_line};

/// Exit statuses, as `qemu-img check` has them.
const WRONG: u8 = 2;
const LEAKED: u8 = 3;

/// What `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    filename: String,
    format: &'static str,
    total_clusters: u64,
    allocated_clusters: u64,
    corruptions: u64,
    leaks: u64,
    corruptions_fixed: u64,
    leaks_fixed: u64,
    findings: &'a [String],
}

/// Checks an image; what is to be printed, and the exit status.
pub fn run(path: &Path, repair: Option<RepairArg>, form: Output) -> Result<(String, u8), Failure> {
    let repair = match repair {
        None => Repair::No,
        Some(RepairArg::Leaks) => Repair::Leaks,
        Some(RepairArg::All) => Repair::All,
    };
    let found = qcow2::check(path, repair).map_err(|error| failed("checking", path, &error))?;
    let status = match (found.errors, found.leaks) {
        (0, 0) => 0,
        (0, _) => LEAKED,
        _ => WRONG,
    };
    let text = match form {
        Output::Table => text(&found),
        Output::Json => {
            let report = Report {
                filename: path.to_string_lossy().into_owned(),
                format: "qcow2",
                total_clusters: found.clusters,
                allocated_clusters: found.used,
                corruptions: found.errors,
                leaks: found.leaks,
                corruptions_fixed: found.errors_repaired,
                leaks_fixed: found.leaks_repaired,
                findings: &found.notes,
            };
            let json = serde_json::to_string_pretty(&report);
            json.map_err(|error| Failure::of("writing the report", &error))? + "\n"
        }
    };
    Ok((text, status))
}

fn text(found: &Check) -> String {
    let mut text = String::new();
    for note in &found.notes {
        text += &(one_line(note) + "\n");
    }
    let told = found.notes.len() as u64;
    let all = found.errors + found.leaks + found.errors_repaired + found.leaks_repaired;
    if all > told {
        let _ = writeln!(text, "and {} more", all - told);
    }
    if found.errors_repaired + found.leaks_repaired > 0 {
        let (errors, leaks) = (found.errors_repaired, found.leaks_repaired);
        let _ = writeln!(text, "repaired: {errors} errors, {leaks} leaked clusters");
    }
    let _ = match (found.errors, found.leaks) {
        (0, 0) => {
            writeln!(text, "nothing is wrong: {} of {} clusters are in use", found.used, found.clusters)
        }
        (errors, leaks) => writeln!(text, "{errors} errors, {leaks} leaked clusters"),
    };
    text
}
