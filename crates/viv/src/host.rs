//! `viv host`: what this host offers to guests.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use viv_engine::EngineKind;
use viv_vmm::config::EngineChoice;
use viv_vmm::engine::choose;
use viv_vmm::host::{Finding, HostFacts};

use crate::cli::Output;
use crate::failure::Failure;

/// What `viv host check -o json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The engine that `--engine auto` takes.
    engine: EngineKind,
    /// Why.
    reason: String,
    findings: Vec<Finding>,
}

/// Reads the host and tells what was found.
pub fn check(form: Output) -> Result<String, Failure> {
    let facts = HostFacts::read();
    let decision =
        choose(EngineChoice::Auto, &facts).map_err(|error| Failure::of("choosing an engine", &error))?;
    let report = Report { engine: decision.engine, reason: decision.reason, findings: facts.findings() };
    match form {
        Output::Table => Ok(report.to_table()),
        Output::Json => {
            let json = serde_json::to_string_pretty(&report);
            json.map(|json| json + "\n").map_err(|error| Failure::of("writing the report", &error))
        }
    }
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
