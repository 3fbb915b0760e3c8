//! The display and the keyboard of a machine that starts with firmware: one made here, which waits for a key.

use std::fs;

use assert_cmd::Command;
use tempfile::TempDir;

/// How much firmware there is: what lies below 4 GiB and, once more, below 1 MiB.
const SIZE: usize = 64 << 10;
/// Where the processor starts.
const RESET: usize = SIZE - 16;
/// What is pressed to go on, in scan code set 1.
const KEY_A: u8 = 0x1e;

/// Firmware that waits for the key `a`, sets a mode of 64 by 48 pixels, and powers off.
fn firmware() -> Vec<u8> {
    let mut code = vec![
        0xb0, 0xae, 0xe6, 0x64, // open the keyboard's port
        0xe4, 0x64, 0xa8, 0x01, 0x74, 0xfa, // wait for a byte
        0xe4, 0x60, 0x3c, KEY_A, 0x75, 0xf4, // until it is the key
        0xba, 0xce, 0x01, // DISPI, from DX on
    ];
    for (index, value) in [(1, 64), (2, 48), (3, 32), (4, 1)] {
        code.extend([0xb8, index, 0, 0xef, 0x42, 0xb8, value, 0, 0xef, 0x4a]);
    }
    code.extend([0xba, 0xc0, 0x03, 0xb0, 0x20, 0xee]); // the palette is the display's
    code.extend([0xba, 0x04, 0x06, 0xb8, 0x00, 0x34, 0xef]); // power off
    code.extend([0xf4, 0xeb, 0xfd]); // for ever
    code.resize(SIZE, 0);
    code[RESET..RESET + 3].copy_from_slice(&[0xe9, 0x0d, 0x00]); // to the begin
    code
}

#[test]
fn a_key_is_typed_and_a_picture_taken() {
    let directory = TempDir::new().expect("a directory");
    let [image, picture] = ["firmware", "picture.png"].map(|name| directory.path().join(name));
    fs::write(&image, firmware()).expect("written");
    let mut viv = Command::cargo_bin("viv").expect("viv");
    viv.args(["run", "--engine", "soft", "--memory", "16M", "--send-keys", "xy<wait 0.1><shift-a>"]);
    viv.arg("--firmware").arg(&image).arg("--screenshot-on-exit").arg(&picture);
    let output = viv.output().expect("runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let png = fs::read(&picture).expect("a picture");
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    assert_eq!(png[16..24], [0, 0, 0, 64, 0, 0, 0, 48], "its size");
}

#[test]
fn a_picture_that_cannot_be_written_is_told_before_the_start() {
    let mut viv = Command::cargo_bin("viv").expect("viv");
    viv.args(["run", "--engine", "soft", "--firmware", "/etc/hostname"]);
    let output = viv.args(["--screenshot-on-exit", "/no/such/place.png"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(125));
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        line,
        "viv: --screenshot-on-exit /no/such/place.png: No such file or directory (os error 2)\n"
    );
}
