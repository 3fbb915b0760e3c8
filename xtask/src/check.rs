//! `cargo xtask test`: everything that must hold before a change goes in.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::step::{self, Step};
use crate::{deny, packages};

/// Runs every check, also after one has failed, and prints the sum. Whether all succeeded.
pub fn run(root: &Path) -> Result<bool> {
    packages::ensure(&[packages::FOR_TESTS, packages::FOR_DISKS].concat())?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).current_dir(root);
        cargo
    };
    let steps = [
        step::check("format", &mut cargo(&["fmt", "--all", "--check"]))?,
        step::check(
            "lints",
            &mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]),
        )?,
        deny::check(root)?,
        step::tests("tests", &mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]))?,
    ];
    println!("\n{}", sum(&steps));
    Ok(steps.iter().all(|step| step.ok))
}

/// A line per step, and one for all.
fn sum(steps: &[Step]) -> String {
    let mut text = String::new();
    for Step { name, ok, took, .. } in steps {
        let verdict = if *ok { "ok" } else { "FAILED" };
        text += &format!("{name:<8} {verdict:<7} {:>7.1} s\n", took.as_secs_f64());
    }
    let passed: u64 = steps.iter().map(|step| step.passed).sum();
    let failed: u64 = steps.iter().map(|step| step.failed).sum();
    text + &format!("{passed} passed, {failed} failed")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_sum_ends_with_what_passed_and_failed() {
        let took = Duration::from_millis(1500);
        let steps = [
            Step { name: "format", ok: true, passed: 1, failed: 0, took },
            Step { name: "tests", ok: false, passed: 40, failed: 2, took },
        ];
        assert_eq!(
            sum(&steps),
            "format   ok          1.5 s\ntests    FAILED      1.5 s\n41 passed, 2 failed"
        );
    }
}
