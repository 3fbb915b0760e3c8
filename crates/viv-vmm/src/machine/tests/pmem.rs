//! Files as memory, under bare-metal guests on both engines.

use std::fs;
use std::path::Path;

use viv_engine::Engine;
use viv_soft::SoftEngine;

use super::kvm::kvm;
use super::soft::REST;
use super::*;
use crate::config::{BootProtocol, PmemConfig};

const SIZE: usize = 2 << 20;

/// Maps the 2 MiB at 4 GiB, where the file is, by a table at 0x180000, writes an X there, and says what is there then.
const STORE_AND_SAY: [u8; 66] = [
    0x0f, 0x20, 0xd8, // mov rax, cr3
    0x48, 0x8b, 0x18, // mov rbx, [rax]
    0x48, 0x81, 0xe3, 0x00, 0xf0, 0xff, 0xff, // and rbx, ~0xfff
    0xc7, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, 0x83, 0, 0,
    0, // mov dword [0x180000], present, writable, large
    0xc7, 0x04, 0x25, 0x04, 0x00, 0x18, 0x00, 1, 0, 0, 0, // mov dword [0x180004], 1
    0x48, 0xc7, 0x43, 0x20, 0x03, 0x00, 0x18, 0x00, // mov qword [rbx + 32], 0x180003
    0x48, 0xb8, 0, 0, 0, 0, 1, 0, 0, 0, // mov rax, 4 GiB
    0xc6, 0x00, b'X', // mov byte [rax], 'X'
    0x8a, 0x00, // mov al, [rax]
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0xf4, 0xeb, 0xfd, // again: hlt; jmp again
];

/// A machine with this file.
fn bench_with(engine: &dyn Engine, code: &[u8], path: &Path, readonly: bool) -> Bench {
    Bench::with(engine, code, |mut config| {
        crate::config::tests::kernel(&mut config).protocol = BootProtocol::Linux64;
        config.pmems = vec![PmemConfig { path: path.to_owned(), readonly }];
        config
    })
}

#[test]
fn a_guest_writes_what_it_may_and_a_reset_leaves_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let (soft, kvm) = (SoftEngine::default(), kvm());
    let engines = [Some(&soft as &dyn Engine), kvm.as_ref().map(|kvm| kvm as &dyn Engine)];
    for engine in engines.into_iter().flatten() {
        for (readonly, first) in [(false, b'X'), (true, b'o')] {
            fs::write(&path, vec![b'o'; SIZE]).unwrap();
            let mut bench = bench_with(engine, &STORE_AND_SAY, &path, readonly);
            bench.machine.start().unwrap();
            let said = char::from(first).to_string();
            assert_eq!(bench.hear(1), said, "{}", engine.kind());
            bench.machine.reset().unwrap();
            assert_eq!(bench.hear(1), said, "{}", engine.kind());
            let mut saved = Vec::new();
            bench.machine.save(&mut saved).unwrap();
            assert!(saved.len() < SIZE, "the file is not in the snapshot");
            drop(bench);
            let content = fs::read(&path).unwrap();
            assert_eq!(content[0], first);
            assert!(content[1..].iter().all(|&byte| byte == b'o') && content.len() == SIZE);
        }
    }
}

#[test]
fn a_snapshot_goes_on_with_the_same_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![b'o'; SIZE]).unwrap();
    let engine = SoftEngine::default();
    let mut saved = Vec::new();
    let mut bench = bench_with(&engine, &STORE_AND_SAY, &path, false);
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(1), "X");
    bench.machine.save(&mut saved).unwrap();
    drop(bench);
    let restored =
        |readonly| bench_with(&engine, &REST, &path, readonly).machine.restore(&mut saved.as_slice());
    restored(false).unwrap();
    let line = restored(true).unwrap_err().line();
    assert!(line.contains("was writable and is not"), "{line}");
    fs::File::options().write(true).open(&path).unwrap().set_len(2 * SIZE as u64).unwrap();
    let line = restored(false).unwrap_err().line();
    assert!(line.ends_with(&format!("{} had 2097152 bytes and has 4194304", path.display())), "{line}");
    let without = Bench::with(&engine, &REST, |config| config).machine.restore(&mut saved.as_slice());
    let line = without.unwrap_err().line();
    assert!(line.contains("are not those that were saved"), "{line}");
}
