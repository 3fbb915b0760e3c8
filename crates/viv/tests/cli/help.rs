//! The help of every command, as it is shown. `cargo insta review` takes up a wanted change.

use assert_cmd::Command;

/// What `viv` prints with these arguments, which must succeed.
fn help(arguments: &[&str]) -> String {
    let output = Command::cargo_bin("viv").expect("viv").args(arguments).output().expect("runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_command_explains_itself() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["run", "-h"],
        &["image", "--help"],
        &["image", "ls", "--help"],
        &["image", "rm", "--help"],
        &["image", "build", "--help"],
        &["disk", "--help"],
        &["disk", "create", "--help"],
        &["disk", "info", "--help"],
        &["disk", "convert", "--help"],
        &["disk", "resize", "--help"],
        &["disk", "check", "--help"],
        &["disk", "commit", "--help"],
        &["disk", "rebase", "--help"],
        &["host", "check", "--help"],
        &["version", "--help"],
    ] {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let name = arguments.join(" ").replace('-', "").replace(' ', "-");
        settings.bind(|| insta::assert_snapshot!(name, help(arguments)));
    }
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(help(&["version"]), concat!("viv ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(help(&["--version"]), help(&["version"]));
}
