//! Builds the guest program and hands it to the library as bytes.
//!
//! The library carries `viv-guest` inside it, so no built program is ever committed and the two never
//! disagree. The build is a cargo run of its own: other target directory (the outer one is locked), other
//! profile (small), other flags (static, and for any x86-64 rather than for this machine).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Guests are x86-64 whatever the host is.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let crates = here.parent().expect("this crate lies beside the others");
    let workspace = crates.parent().expect("the crates lie in the workspace");

    for input in
        ["viv-guest/src", "viv-guest/Cargo.toml", "viv-guest-proto/src", "viv-guest-proto/Cargo.toml"]
    {
        rerun_if_changed(&crates.join(input));
    }
    for input in ["Cargo.toml", "Cargo.lock"] {
        rerun_if_changed(&workspace.join(input));
    }

    let target = out.join("guest");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--manifest-path"])
        .arg(crates.join("viv-guest/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // The outer build's flags may name this machine's processor or demand coverage counters, and
        // clippy's driver would take the compiler's place. With an explicit target these flags reach the
        // program alone, not the procedural macros it is built with.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo can be started from a build script");
    assert!(
        status.success(),
        "building viv-guest for {TARGET} failed; if the target is missing: rustup target add {TARGET}"
    );

    let program = target.join(TARGET).join("guest/viv-guest");
    println!("cargo::rustc-env=VIV_GUEST_PROGRAM={}", program.display());
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
