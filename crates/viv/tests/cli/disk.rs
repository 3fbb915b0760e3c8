//! `viv disk`, and the formats of `viv run --disk`.

use std::io::Write;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

fn viv(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("viv").expect("viv");
    command.current_dir(directory).args(arguments).output().expect("runs")
}

/// What a command prints that must succeed.
fn ok(directory: &Path, arguments: &[&str]) -> String {
    let output = viv(directory, arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The status and the line of a command that must fail.
fn fails(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = viv(directory, arguments);
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    (output.status.code().expect("no signal"), line)
}

fn contents() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..400_000_u32).map(|at| (at / 300) as u8).collect();
    bytes.resize(3 << 20, 0);
    bytes
}

#[test]
fn a_disk_goes_through_all_formats_and_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("a.img"), contents()).expect("writes");
    for (options, image) in [
        (&[][..], "plain.qcow2"),
        (&["-c"][..], "packed.qcow2"),
        (&["-c", "--compression", "zstd", "--cluster-size", "16K"][..], "zstd.qcow2"),
        (&["--extended-l2"][..], "parts.qcow2"),
    ] {
        ok(at, &[&["disk", "convert"][..], options, &["a.img", image][..]].concat());
        assert!(ok(at, &["disk", "check", image]).contains("nothing is wrong"));
        let back = format!("{image}.img");
        ok(at, &["disk", "convert", image, &back]);
        assert!(std::fs::read(at.join(&back)).expect("reads") == contents(), "{image}");
        let length = std::fs::metadata(at.join(image)).expect("there").len();
        assert!(length < 800_000, "{image} has {length} bytes for 400,000");
        let qemu =
            std::process::Command::new("qemu-img").args(["compare", image, "a.img"]).current_dir(at).output();
        match qemu {
            Ok(output) => assert!(output.status.success(), "{image}: {output:?}"),
            Err(_) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "NOT TESTED: {image} against qemu-img, which is not installed"
                );
            }
        }
    }
    assert_eq!(fails(at, &["disk", "convert", "a.img", "plain.qcow2"]).0, 1, "what is there stays");
}

#[test]
fn images_have_sizes_and_backing_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("base.img"), contents()).expect("writes");
    ok(at, &["disk", "create", "-b", "base.img", "top.qcow2"]);
    ok(at, &["disk", "resize", "top.qcow2", "+1M"]);
    let json: serde_json::Value =
        serde_json::from_str(&ok(at, &["disk", "info", "-o", "json", "top.qcow2"])).expect("JSON");
    assert_eq!((&json["virtual-size"], &json["format"]), (&(4 << 20).into(), &"qcow2".into()));
    assert_eq!(
        (&json["backing-filename"], &json["backing-filename-format"]),
        (&"base.img".into(), &"raw".into())
    );
    assert!(ok(at, &["disk", "info", "top.qcow2"]).contains("base.img, raw"));

    ok(at, &["disk", "commit", "top.qcow2"]);
    assert_eq!(std::fs::metadata(at.join("base.img")).expect("there").len(), 4 << 20);
    ok(at, &["disk", "rebase", "-b", "", "top.qcow2"]);
    std::fs::remove_file(at.join("base.img")).expect("removes");
    ok(at, &["disk", "convert", "top.qcow2", "alone.img"]);
    let mut bytes = contents();
    bytes.resize(4 << 20, 0);
    assert!(std::fs::read(at.join("alone.img")).expect("reads") == bytes);

    let (status, line) = fails(at, &["disk", "resize", "top.qcow2", "1M"]);
    assert!(status == 1 && line.contains("--shrink"), "{line}");
    let json: serde_json::Value =
        serde_json::from_str(&ok(at, &["disk", "check", "-o", "json", "top.qcow2"])).expect("JSON");
    assert_eq!((&json["corruptions"], &json["leaks"]), (&0.into(), &0.into()));
}

#[test]
fn leaks_have_a_status_and_are_repaired() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    ok(at, &["disk", "create", "--cluster-size", "64K", "a.qcow2", "1M"]);
    // The refcounts of an empty image are in its third cluster. One that stands for nothing:
    let mut bytes = std::fs::read(at.join("a.qcow2")).expect("reads");
    let table = u64::from_be_bytes(*bytes[48..].first_chunk().expect("a header")) as usize;
    let block = u64::from_be_bytes(*bytes[table..].first_chunk().expect("a table")) as usize;
    bytes[block + 2 * 10 + 1] = 1;
    std::fs::write(at.join("a.qcow2"), bytes).expect("writes");
    assert_eq!(viv(at, &["disk", "check", "a.qcow2"]).status.code(), Some(3));
    assert!(ok(at, &["disk", "check", "--repair=leaks", "a.qcow2"]).contains("1 leaked"));
    assert!(ok(at, &["disk", "check", "a.qcow2"]).contains("nothing is wrong"));
    assert_eq!(fails(at, &["disk", "check", "absent.qcow2"]).0, 1);
}

#[test]
fn a_raw_disk_in_which_a_guest_wrote_the_header_of_an_image_stays_raw() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("secret"), "for the host alone ".repeat(64)).expect("writes");
    ok(at, &["disk", "create", "-f", "qcow2", "-b", "secret", "-F", "raw", "guest.img", "1M"]);
    std::fs::write(at.join("kernel"), "none").expect("writes");
    let (status, line) = fails(at, &["run", "--kernel", "kernel", "--disk", "guest.img"]);
    assert!(status == 125 && line.contains("format="), "{line}");
    let (status, line) = fails(at, &["disk", "convert", "guest.img", "out.img"]);
    assert!(status == 1 && line.contains("-f raw"), "{line}");
    // Stated, it is what is stated.
    ok(at, &["disk", "convert", "-f", "raw", "guest.img", "out.img"]);
    let out = std::fs::read(at.join("out.img")).expect("reads");
    assert!(out.starts_with(b"QFI\xfb") && !out.windows(8).any(|part| part == b"the host"));
}
