use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::Access;

const SIZE: u64 = 3 * CLUSTER + 3 * 512;

struct Bench {
    directory: tempfile::TempDir,
    contents: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8 | 1).collect();
        std::fs::write(directory.path().join("base"), &contents).unwrap();
        Self { directory, contents }
    }

    fn base(&self) -> RawDisk {
        RawDisk::open(&self.directory.path().join("base"), Access::ReadOnly).unwrap()
    }

    fn overlay(&self) -> PathBuf {
        self.directory.path().join("overlay")
    }
}

fn read_all(disk: &mut OverlayDisk) -> Vec<u8> {
    let mut data = vec![0; SIZE as usize];
    disk.read_at(0, &mut data).unwrap();
    data
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Read(u64, u64),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..SIZE).prop_flat_map(|offset| (Just(offset), 0..=(SIZE - offset)));
    let step = prop_oneof![
        4 => (range.clone(), 1..=255u8).prop_map(|((o, l), fill)| Step::Write(o, l, fill)),
        4 => (0..SIZE / 512, 1..=255u8).prop_map(|(sector, fill)| Step::Write(sector * 512, 512, fill)),
        2 => (range.clone(), any::<bool>()).prop_map(|((o, l), unmap)| Step::Zero(o, l, unmap)),
        2 => range.clone().prop_map(|(o, l)| Step::Discard(o, l)),
        3 => range.prop_map(|(o, l)| Step::Read(o, l)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

fn run(bench: &Bench, mut disk: OverlayDisk, steps: &[Step]) -> OverlayDisk {
    let mut model = bench.contents.clone();
    let part = |o: u64, l: u64| o as usize..(o + l) as usize;
    for step in steps {
        match *step {
            Step::Write(o, l, fill) => {
                disk.write_at(o, &vec![fill; l as usize]).unwrap();
                model[part(o, l)].fill(fill);
            }
            Step::Zero(o, l, may_unmap) => {
                disk.write_zeroes(o, l, may_unmap).unwrap();
                model[part(o, l)].fill(0);
            }
            Step::Discard(o, l) => {
                disk.discard(o, l).unwrap();
                let now = read_all(&mut disk);
                for i in part(o, l) {
                    assert!(now[i] == 0 || now[i] == model[i], "byte {i}");
                    model[i] = now[i];
                }
            }
            Step::Read(o, l) => {
                let mut data = vec![0xee; l as usize];
                disk.read_at(o, &mut data).unwrap();
                assert!(data == model[part(o, l)]);
            }
            Step::Flush => disk.flush().unwrap(),
            Step::Reopen if disk.kept => {
                disk.flush().unwrap();
                drop(disk);
                disk = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap();
            }
            Step::Reopen => {}
        }
    }
    assert!(read_all(&mut disk) == model);
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_overlay_is_a_disk(steps in steps(), kept in any::<bool>()) {
        let bench = Bench::new();
        let disk = if kept {
            OverlayDisk::create(bench.base(), &bench.overlay())
        } else {
            OverlayDisk::throw_away(bench.base(), bench.directory.path())
        };
        drop(run(&bench, disk.unwrap(), &steps));
        prop_assert!(std::fs::read(bench.directory.path().join("base")).unwrap() == bench.contents);
        prop_assert_eq!(bench.overlay().exists(), kept);
        prop_assert_eq!(std::fs::read_dir(bench.directory.path()).unwrap().count(), 1 + usize::from(kept));
    }
}

#[test]
fn what_was_flushed_outlives_the_process_and_zeroes_hide_what_was_not() {
    let bench = Bench::new();
    let disk = OverlayDisk::create(bench.base(), &bench.overlay()).unwrap();
    disk.write_at(0, &[0xaa; 512]).unwrap();
    disk.flush().unwrap();
    disk.write_at(CLUSTER, &[0xbb; CLUSTER as usize]).unwrap();
    drop(disk);
    let mut disk = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap();
    let now = read_all(&mut disk);
    assert_eq!(now[..512], [0xaa; 512]);
    assert!(now[512..] == bench.contents[512..], "the base shows where nothing was flushed");
    disk.write_zeroes(CLUSTER, CLUSTER, true).unwrap();
    let now = read_all(&mut disk);
    assert!(now[CLUSTER as usize..2 * CLUSTER as usize].iter().all(|&byte| byte == 0));
}

#[test]
fn a_base_that_changed_is_refused() {
    let bench = Bench::new();
    drop(OverlayDisk::create(bench.base(), &bench.overlay()).unwrap());
    let base = || std::fs::OpenOptions::new().append(true).open(bench.directory.path().join("base")).unwrap();

    let time = base().metadata().unwrap().modified().unwrap();
    base().set_modified(time + std::time::Duration::from_nanos(4_000_000)).unwrap();
    let error = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap_err();
    assert!(matches!(&error, DiskError::BaseChanged { what, .. } if what.contains("time")), "{error}");

    base().write_all(&[0; 512]).unwrap();
    base().set_modified(time).unwrap();
    let error = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap_err();
    assert!(matches!(&error, DiskError::BaseChanged { what, .. } if what.contains("bytes")), "{error}");
}

#[test]
fn a_file_that_is_no_overlay_is_refused_and_left_as_it_is() {
    let bench = Bench::new();
    for contents in [&b""[..], b"short", &[0x55; 8192]] {
        std::fs::write(bench.overlay(), contents).unwrap();
        let error = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap_err();
        assert!(matches!(error, DiskError::BadOverlay { .. }), "{error}");
        let error = OverlayDisk::create(bench.base(), &bench.overlay()).unwrap_err();
        assert!(matches!(error, DiskError::Io { action: "name", .. }), "{error}");
        assert_eq!(std::fs::read(bench.overlay()).unwrap(), contents);
    }
}

#[test]
fn a_truncated_overlay_is_refused() {
    let bench = Bench::new();
    drop(OverlayDisk::create(bench.base(), &bench.overlay()).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(bench.overlay()).unwrap();
    file.set_len(5000).unwrap();
    let error = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap_err();
    assert!(matches!(&error, DiskError::BadOverlay { reason, .. } if reason.contains("5000")), "{error}");
}

#[test]
fn bases_are_shared_and_overlays_are_not() {
    let bench = Bench::new();
    let first = OverlayDisk::create(bench.base(), &bench.overlay()).unwrap();
    let _other = OverlayDisk::throw_away(bench.base(), bench.directory.path()).unwrap();
    let error = OverlayDisk::open(bench.base(), &bench.overlay()).unwrap_err();
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
    assert!(RawDisk::open(&bench.directory.path().join("base"), Access::ReadWrite).is_err());
    drop(first);
    OverlayDisk::open(bench.base(), &bench.overlay()).unwrap();
}

#[test]
fn ranges_outside_are_refused() {
    let bench = Bench::new();
    let disk = OverlayDisk::throw_away(bench.base(), bench.directory.path()).unwrap();
    assert!(disk.read_at(SIZE - 1, &mut [0; 2]).is_err());
    assert!(disk.write_at(u64::MAX, &[0; 2]).is_err());
    assert!(disk.discard(SIZE, 1).is_err());
    assert!(disk.write_zeroes(1, u64::MAX, true).is_err());
}
