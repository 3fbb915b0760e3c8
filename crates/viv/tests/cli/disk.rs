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
        (&[][..], "plain.vmdk"),
        (&["-c"][..], "sent.vmdk"),
    ] {
        ok(at, &[&["disk", "convert"][..], options, &["a.img", image][..]].concat());
        if image.ends_with("qcow2") {
            assert!(ok(at, &["disk", "check", image]).contains("nothing is wrong"));
        }
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

/// Changes bytes of a file.
fn patch(path: &Path, offset: usize, bytes: &[u8]) {
    let mut file = std::fs::read(path).expect("reads");
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, file).expect("writes");
}

/// The line of `viv run` with this disk, which must not start.
fn does_not_run(directory: &Path, disk: &str) -> String {
    std::fs::write(directory.join("kernel"), "none").expect("writes");
    let (status, line) = fails(directory, &["run", "--kernel", "kernel", "--disk", disk]);
    assert_eq!(status, 125, "{disk}: {line}");
    line
}

#[test]
fn images_that_cannot_be_read_right_are_refused_by_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    // The header's fields: the crypt method, incompatible features, and the compression type.
    for (offset, bytes, why) in [
        (32, &[0, 0, 0, 1][..], "encrypted"),
        (32, &[0, 0, 0, 2], "encrypted"),
        (79, &[4], "another file"),
        (72, &[1], "not known"),
        (104, &[7], "compression type 7"),
    ] {
        let image = format!("{offset}-{}.qcow2", bytes[bytes.len() - 1]);
        ok(at, &["disk", "create", &image, "1M"]);
        patch(&at.join(&image), offset, bytes);
        assert!(ok(at, &["disk", "info", &image]).contains(why), "{why}");
        for command in [
            &["disk", "convert", &image, "out.img"][..],
            &["disk", "resize", &image, "2M"],
            &["disk", "rebase", "-b", "", &image],
            &["disk", "check", &image],
            &["disk", "create", "-b", &image, "top.qcow2"],
        ] {
            let (status, line) = fails(at, command);
            assert!(status == 1 && line.contains(why), "{command:?}: {line}");
        }
        for option in ["", ",readonly", ",temporary", ",sata"] {
            let line = does_not_run(at, &format!("{image}{option}"));
            assert!(line.contains(why), "{option}: {line}");
        }
        assert!(!at.join("out.img").exists() && !at.join("top.qcow2").exists());
    }
}

#[test]
fn images_that_were_not_closed_or_are_corrupt_are_read_and_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("a.img"), contents()).expect("writes");
    std::fs::write(at.join("base.img"), contents()).expect("writes");
    for (flag, feature) in [(1, "not closed"), (2, "corrupt")] {
        let image = format!("{flag}.qcow2");
        ok(at, &["disk", "convert", "a.img", &image]);
        patch(&at.join(&image), 79, &[flag]);
        assert!(ok(at, &["disk", "info", &image]).contains(feature));
        for command in [
            &["disk", "resize", &image, "5M"][..],
            &["disk", "rebase", "-b", "base.img", "-F", "raw", &image],
        ] {
            let (status, line) = fails(at, command);
            assert!(status == 1 && line.contains("--repair"), "{command:?}: {line}");
        }
        for option in ["", ",sata", ",cache=unsafe"] {
            let line = does_not_run(at, &format!("{image}{option}"));
            assert!(line.contains("--repair"), "{option}: {line}");
        }
        let back = format!("{image}.img");
        ok(at, &["disk", "convert", &image, &back]);
        assert!(std::fs::read(at.join(back)).expect("reads") == contents());
        ok(at, &["disk", "check", "--repair", &image]);
        ok(at, &["disk", "resize", &image, "5M"]);
    }
}

#[test]
fn vmdk_images_are_told_and_refused_by_what_they_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("a.img"), contents()).expect("writes");
    ok(at, &["disk", "convert", "a.img", "a.vmdk"]);
    ok(at, &["disk", "convert", "-c", "a.img", "sent.vmdk"]);
    let json: serde_json::Value =
        serde_json::from_str(&ok(at, &["disk", "info", "-o", "json", "sent.vmdk"])).expect("JSON");
    assert_eq!((&json["format"], &json["virtual-size"]), (&"vmdk".into(), &(3 << 20).into()));
    assert_eq!((&json["create-type"], &json["cluster-size"]), (&"streamOptimized".into(), &65536.into()));
    assert!(ok(at, &["disk", "info", "a.vmdk"]).contains("SPARSE of 3M a.vmdk"));
    assert!(does_not_run(at, "sent.vmdk").contains("convert it first"));
    assert!(fails(at, &["disk", "resize", "a.vmdk", "9M"]).1.contains("convert it to qcow2"));
    assert!(
        fails(at, &["disk", "create", "--cluster-size", "64K", "b.vmdk", "9M"]).1.contains("--cluster-size")
    );
    assert!(fails(at, &["disk", "create", "-b", "a.img", "b.vmdk"]).1.contains("give -f qcow2"));

    // What differs from a parent.
    let bytes = std::fs::read(at.join("a.vmdk")).expect("reads");
    let key = b"parentCID=";
    let digits = bytes.windows(key.len()).position(|part| part == key).expect("a descriptor") + key.len();
    patch(&at.join("a.vmdk"), digits, b"12345678");
    assert!(ok(at, &["disk", "info", "a.vmdk"]).contains("12345678"));
    for command in
        [&["disk", "convert", "a.vmdk", "out.img"][..], &["disk", "create", "-b", "a.vmdk", "top.qcow2"]]
    {
        assert!(fails(at, command).1.contains("parentCID=12345678"), "{command:?}");
    }
    assert!(does_not_run(at, "a.vmdk,readonly").contains("parentCID"));

    // A guest that has a raw disk makes no image of it.
    std::fs::write(at.join("guest.img"), "# Disk DescriptorFile\n".repeat(100)).expect("writes");
    assert!(does_not_run(at, "guest.img").contains("format="));
}
