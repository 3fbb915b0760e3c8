//! `viv host check`.

use assert_cmd::Command;
use serde_json::Value;

#[test]
fn every_finding_has_a_status_and_advice_unless_it_passes() {
    let output = Command::cargo_bin("viv").expect("viv").args(["host", "check", "-o", "json"]).output();
    let output = output.expect("runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert!(matches!(report["engine"].as_str(), Some("kvm" | "soft")), "{report}");
    assert!(report["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{report}");
    let findings = report["findings"].as_array().expect("findings");
    let mut fails = false;
    for finding in findings {
        let status = finding["status"].as_str().expect("a status");
        assert!(matches!(status, "pass" | "warn" | "fail"), "{finding}");
        assert_eq!(finding["advice"].is_null(), status == "pass", "{finding}");
        fails |= status == "fail";
    }
    for name in [
        "virtualization",
        "kvm",
        "cgroups",
        "seccomp",
        "landlock",
        "jail",
        "tun",
        "overlayfs",
        "store",
        "ovmf",
    ] {
        assert!(findings.iter().any(|finding| finding["name"] == name), "{name}");
    }
    assert_eq!(output.status.code(), Some(i32::from(fails)));
}
