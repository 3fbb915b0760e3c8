//! `cargo deny`: licences, sources, banned crates and known vulnerabilities of the dependencies.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;

use crate::step::{self, Step};

/// The version that is built where there is none.
const VERSION: &str = "0.20.2";

/// Checks the dependencies by `deny.toml`. Vulnerabilities only where their database can be fetched.
pub fn check(root: &Path) -> Result<Step> {
    let begun = Instant::now();
    let Some(program) = program(root)? else {
        println!("cargo-deny cannot be built; its messages are above");
        return Ok(Step { name: "deny", ok: false, passed: 0, failed: 1, took: begun.elapsed() });
    };
    let deny = || {
        let mut deny = Command::new(&program);
        deny.current_dir(root);
        deny
    };
    let fetched = deny().args(["fetch", "db"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let mut checks = vec!["check", "bans", "licenses", "sources"];
    if fetched {
        checks.push("advisories");
    } else {
        println!("\nadvisories are not checked: their database cannot be fetched from here");
    }
    let mut step = step::check("deny", deny().args(checks))?;
    step.took = begun.elapsed();
    Ok(step)
}

/// The one on this machine, or one built below `target`; none if that fails.
fn program(root: &Path) -> Result<Option<PathBuf>> {
    let ours = root.join("target/tools");
    for program in [PathBuf::from("cargo-deny"), ours.join("bin/cargo-deny")] {
        let version = Command::new(&program).arg("--version").stderr(Stdio::null()).output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(Some(program));
        }
    }
    // Unoptimised it is built in a third of the time, and the check takes no second either way.
    let mut install = Command::new("cargo");
    install
        .args(["install", "--quiet", "--locked", "--debug", "--version", VERSION, "cargo-deny", "--root"])
        .arg(&ours)
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    Ok(step::run(&mut install)?.then(|| ours.join("bin/cargo-deny")))
}
