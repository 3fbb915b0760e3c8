//! Random requests of a guest to a server: it must not panic, hang, leave its directory, or know more than it may.
//!
//! As a test, a fixed few guests are made. `cargo xtask fuzz` makes more: `VIV_FUZZ_SEED` is the first one's seed, `VIV_FUZZ_SECONDS` says for how long.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Client, shared};
use crate::fuse::abi::{Opcode, ROOT};
use crate::server::LARGEST_DATA;

/// How many guests a test makes.
const CASES: u64 = 60;
/// How many requests each sends.
const REQUESTS: usize = 250;
/// Names that requests are about: what is there, what is not, and ways out.
const NAMES: [&str; 12] = [
    "a",
    "b",
    "c",
    "dir",
    "link",
    "up",
    "..",
    ".",
    "",
    "a/b",
    "user.x",
    "a name that is somewhat longer than others",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A number as guests have them: of a node or handle, a length, or anything.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => u64::MAX,
            2 => 1 << self.below(64),
            _ => self.below(12) as u64,
        }
    }

    /// A request with a body of numbers and names.
    fn request(&mut self, guest: &Client) -> Vec<u8> {
        let mut body = Vec::new();
        let (kind, opcode) = Opcode::ALL[self.below(Opcode::ALL.len())];
        for _ in 0..self.below(8) {
            // A guest may fill the host's disk, as far as its user may. A test must not.
            let number = if kind == Opcode::Fallocate { self.next() % 4096 } else { self.number() };
            if self.below(2) == 0 {
                body.extend(number.to_ne_bytes());
            } else {
                body.extend((number as u32).to_ne_bytes());
            }
        }
        for _ in 0..self.below(3) {
            body.extend(NAMES[self.below(NAMES.len())].bytes());
            body.push(0);
        }
        let node = if self.below(2) == 0 { ROOT } else { self.number() };
        let mut request = guest.request(opcode, node, &body);
        if self.below(10) == 0 {
            let at = self.below(request.len());
            request[at] ^= 1 << self.below(8);
        }
        if self.below(20) == 0 {
            let length = self.below(request.len());
            request.truncate(length);
        }
        request
    }
}

/// A guest that sends requests of a seed.
fn exercise(seed: u64) {
    let mut random = Random(seed);
    let (home, directory) = shared();
    fs::create_dir(directory.join("dir")).unwrap();
    fs::write(directory.join("a"), "content").unwrap();
    symlink("../secret", directory.join("link")).unwrap();
    symlink("..", directory.join("up")).unwrap();
    let guest = Client::with(&directory, |settings| (settings.nodes, settings.handles) = (8, 8));
    let mut reply = vec![0; LARGEST_DATA + 4096];
    for _ in 0..REQUESTS {
        let request = random.request(&guest);
        let room = if random.below(4) == 0 { random.below(300) } else { reply.len() };
        let answer = guest.server.serve(&request, &mut reply[..room]);
        assert!(
            answer.is_none_or(|length| (16..=room).contains(&length)),
            "an answer of {answer:?} bytes in {room}"
        );
        assert!(guest.server.inodes.len() <= 8);
    }
    give_back(&directory);
    let outside: Vec<_> =
        fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside.len(), 2, "{outside:?}");
    assert_eq!(fs::read_to_string(home.path().join("secret")).unwrap(), "of the host");
}

/// Makes directories such that they can be removed, whatever rights the guest took from them.
fn give_back(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            give_back(&entry.path());
        }
    }
}

mod target {
    use super::*;

    #[test]
    fn share() {
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let first = number("VIV_FUZZ_SEED").unwrap_or(1);
        let end = number("VIV_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut seed = first;
        while end.map_or(seed < first + CASES, |end| Instant::now() < end) {
            if std::panic::catch_unwind(|| exercise(seed)).is_err() {
                panic!("the guest of seed {seed} does harm");
            }
            seed += 1;
        }
        if end.is_some() {
            println!("share: {} guests, seeds {first} to {}", seed - first, seed - 1);
        }
    }
}
