//! `viv host`: what this host offers to guests.

use std::path::Path;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;
use viv_engine::EngineKind;
use viv_image::Store;
use viv_vmm::Launch;
use viv_vmm::config::EngineChoice;
use viv_vmm::engine;
use viv_vmm::host::{Finding, FindingStatus, HostFacts, KernelFacts};
use viv_vmm::process::jail_lacks;

use crate::cli::Output;
use crate::failure::Failure;
use crate::run::firmware::{BIOS, UEFI};
use crate::size::Size;

/// Below this the store has no room for another image.
const LITTLE_SPACE: u64 = 2 << 30;

/// What `viv host check -o json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The engine that `--engine auto` takes.
    engine: EngineKind,
    /// Why.
    reason: String,
    findings: Vec<Finding>,
}

/// Reads the host and tells what was found, and whether guests can run on it.
pub fn check(form: Output) -> Result<(String, bool), Failure> {
    let (_, decision) =
        engine::make(EngineChoice::Auto, &[]).map_err(|error| Failure::of("choosing an engine", &error))?;
    let mut findings = HostFacts::read().findings();
    findings.extend(KernelFacts::read().findings());
    findings.push(jail_finding());
    findings.push(store_finding());
    findings.extend([firmware_finding("seabios", BIOS), firmware_finding("ovmf", UEFI)]);
    let report = Report { engine: decision.engine, reason: decision.reason, findings };
    let fits = report.findings.iter().all(|finding| finding.status != FindingStatus::Fail);
    match form {
        Output::Table => Ok((report.to_table(), fits)),
        Output::Json => {
            let json = serde_json::to_string_pretty(&report);
            json.map(|json| (json + "\n", fits)).map_err(|error| Failure::of("writing the report", &error))
        }
    }
}

/// Whether VM processes can be jailed, as one finds that tries.
fn jail_finding() -> Finding {
    let advice = "allow this user namespaces: kernel.unprivileged_userns_clone=1, \
                  kernel.apparmor_restrict_unprivileged_userns=0, or in a container CAP_SYS_ADMIN; \
                  guests run all the same, with less around them";
    match jail_lacks(&Launch::check_jail()) {
        Ok(lacks) if lacks.is_empty() => Finding::new("jail", FindingStatus::Pass, "complete", None),
        Ok(lacks) => {
            Finding::new("jail", FindingStatus::Warn, format!("without {}", lacks.join(", ")), Some(advice))
        }
        Err(error) => Finding::new("jail", FindingStatus::Fail, error.to_string(), Some("look into dmesg")),
    }
}

/// Whether images have a place with room.
fn store_finding() -> Finding {
    let place = match Store::place() {
        Ok(place) => place,
        Err(error) => {
            return Finding::new("store", FindingStatus::Fail, error.to_string(), Some("set VIV_HOME"));
        }
    };
    // The store is made when it is first needed.
    let existing = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = statvfs(existing).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
    let value = format!("{}, {} free", place.display(), Size(free >> 20 << 20));
    if access(existing, Access::WRITE_OK).is_err() {
        let advice = "set VIV_HOME to a directory that you may write to";
        Finding::new("store", FindingStatus::Fail, format!("{value}, not writable"), Some(advice))
    } else if free < LITTLE_SPACE {
        let advice = "an image takes about 1G: make room, or set VIV_HOME to another disk";
        Finding::new("store", FindingStatus::Warn, value, Some(advice))
    } else {
        Finding::new("store", FindingStatus::Pass, value, None)
    }
}

/// Whether a firmware for guests is installed.
fn firmware_finding(name: &'static str, (path, _): (&str, &str)) -> Finding {
    if Path::new(path).exists() {
        return Finding::new(name, FindingStatus::Pass, path, None);
    }
    let advice = match name {
        "seabios" => "apt-get install seabios for --firmware bios",
        _ => "apt-get install ovmf for --firmware uefi",
    };
    Finding::new(name, FindingStatus::Warn, format!("no {path}"), Some(advice))
}

impl Report {
    fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["CHECK", "STATUS", "FOUND", "ADVICE"]);
        for Finding { name, status, value, advice } in &self.findings {
            table.add_row([*name, &status.to_string(), value, advice.unwrap_or_default()]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        format!("{}\n\nengine: {} ({})\n", table.trim_fmt(), self.engine, self.reason)
    }
}
