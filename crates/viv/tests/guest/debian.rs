//! Debian to run: the tests' store, its image, and `viv` on it.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use viv_image::{ImageHandle, ImageName, Store};

use crate::ended::{Ended, feed};

/// Where the tests keep their image.
const STORE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/store");

/// Whether the image is there, built if need be; else what `viv` said.
static BUILT: LazyLock<Result<(), String>> = LazyLock::new(|| {
    let output = at(STORE)
        .args(["image", "build", "debian"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("viv cannot be started: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
});

/// Options for the engine of all guests, by white space: with `torture=7` in `VIV_TEST_ENGINE_OPTIONS` everything here
/// is run under torture.
static ENGINE_OPTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let options = env::var("VIV_TEST_ENGINE_OPTIONS").unwrap_or_default();
    options.split_whitespace().map(str::to_owned).collect()
});

/// Whether the engine is tortured. Guests take some 20 times as long then.
pub fn is_tortured() -> bool {
    ENGINE_OPTIONS.iter().any(|option| option.starts_with("torture="))
}

/// `viv` on a store of its own.
pub fn at(store: impl Into<PathBuf>) -> Command {
    let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
    viv.env("VIV_HOME", store.into()).env_remove("VIV_LOG").env("TERM", "xterm");
    viv
}

/// Another program, which starts `viv` on the tests' store, with the image in it.
pub fn around(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("VIV", viv(&[]).get_program());
    command.env("VIV_HOME", STORE).env_remove("VIV_LOG").env("TERM", "xterm");
    command
}

/// `viv` on the tests' store, with the image in it.
pub fn viv(arguments: &[&str]) -> Command {
    if let Err(why) = &*BUILT {
        panic!(
            "these tests need an image of Debian, which takes root and the host's archive to build: {why}"
        );
    }
    match arguments {
        ["run", rest @ ..] => run(rest),
        _ => {
            let mut viv = at(STORE);
            viv.args(arguments);
            viv
        }
    }
}

/// `viv run` with these options, of a machine that needs no image.
pub fn run(options: &[&str]) -> Command {
    let mut viv = at(STORE);
    viv.arg("run");
    if !ENGINE_OPTIONS.is_empty() {
        viv.args(["--engine", "soft"]);
        viv.args(ENGINE_OPTIONS.iter().flat_map(|option| ["--engine-opt", option]));
    }
    viv.args(options);
    viv
}

/// The image itself.
pub fn image() -> ImageHandle {
    viv(&[]);
    let name: ImageName = "debian".parse().expect("a name");
    Store::open_at(STORE.as_ref()).expect("a store").get(name).expect("the image")
}

/// `viv run debian` with this command.
pub fn debian(command: &[&str]) -> Command {
    let mut viv = viv(&["run", "debian", "--"]);
    viv.args(command);
    viv
}

/// Runs a script for bash in Debian.
pub fn bash(script: &str) -> Ended {
    feed(&mut debian(&["bash", "-c", script]), b"")
}

/// The VM process of a `viv run`: its only child.
pub fn vm_process(viv: &Child) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", viv.id());
    let children = std::fs::read_to_string(children).expect("children");
    children.trim().parse().unwrap_or_else(|_| panic!("one child, not {children:?}"))
}
