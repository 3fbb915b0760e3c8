//! A process that is killed while it writes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::testing::history::filled;
use crate::testing::model::read_all;

const SIZE: u64 = 8 << 20;
const CLUSTER: u64 = 4096;

/// What the child is told by the environment.
const PATH: &str = "VIV_QCOW2_VICTIM";

/// Not a test by itself: the process that is killed. It writes to random clusters the number of the write, and prints what
/// was flushed.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let disk = Qcow2Disk::open(&PathBuf::from(path), Access::ReadWrite).unwrap();
    let mut random = Random::new(setting("VIV_QCOW2_SEED", 1));
    let mut out = std::io::stdout();
    for value in 1_u32.. {
        let cluster = random.below(SIZE / CLUSTER);
        disk.write_at(cluster * CLUSTER, &filled(value, CLUSTER)).unwrap();
        if random.chance(8) {
            disk.discard(random.below(SIZE / CLUSTER) * CLUSTER, CLUSTER).unwrap();
        }
        if random.chance(16) {
            disk.flush().unwrap();
            writeln!(out, "flushed {value}").unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_a_whole_image() {
    let qemu = tool::is_there();
    let first = setting("VIV_QCOW2_SEED", 1);
    for seed in first..first + setting("VIV_QCOW2_KILLS", 24) {
        kill_one(seed, qemu);
    }
}

fn kill_one(seed: u64, qemu: bool) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    create(&path, SIZE, &CreateOptions { cluster_size: CLUSTER, ..CreateOptions::default() }).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["qcow2::tests::killed::victim", "--exact", "--nocapture"])
        .env(PATH, &path)
        .env("VIV_QCOW2_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut random = Random::new(seed);
    let mut flushed = 0;
    let mut wanted = random.below(30) + 1;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(value) = line.unwrap().strip_prefix("flushed ").map(|value| value.parse::<u32>().unwrap())
        else {
            continue;
        };
        flushed = value;
        wanted = wanted.saturating_sub(1);
        if wanted == 0 {
            std::thread::sleep(Duration::from_micros(random.below(2000)));
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    let found = findings(&path);
    assert_eq!(found.errors, 0, "seed {seed}: {:?}", found.notes);
    if qemu {
        tool::check(Format::Qcow2, &path);
    }

    // The same again, in memory.
    let mut random = Random::new(seed);
    let mut allowed = vec![vec![0]; (SIZE / CLUSTER) as usize];
    for value in 1..=flushed.saturating_add(100_000) {
        let values = &mut allowed[random.below(SIZE / CLUSTER) as usize];
        if value <= flushed {
            values.clear();
        }
        values.push(value);
        if random.chance(8) {
            allowed[random.below(SIZE / CLUSTER) as usize].push(0);
        }
        random.chance(16);
    }
    let disk = reopen(&path);
    for (cluster, (bytes, allowed)) in read_all(&disk).chunks(CLUSTER as usize).zip(&allowed).enumerate() {
        let value = u32::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == filled(value, CLUSTER), "seed {seed}: cluster {cluster} is torn");
        assert!(
            allowed.contains(&value),
            "seed {seed}: cluster {cluster} holds {value}, flushed were {flushed}"
        );
    }
}
