//! Random requests of a guest to a server: it must not panic, hang, leave its directory, or know more than it may.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use viv_fuzz::Random;

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

/// What a guest says by a seed.
struct Guest(Random);

impl Guest {
    /// A number as guests have them: of a node or handle, a length, or anything.
    fn number(&mut self) -> u64 {
        match self.0.below(6) {
            0 => self.0.number(),
            1 => u64::MAX,
            2 => 1 << self.0.below(64),
            _ => self.0.below(12),
        }
    }

    /// A request with a body of numbers and names.
    fn request(&mut self, client: &Client) -> Vec<u8> {
        let mut body = Vec::new();
        let (kind, opcode) = self.0.one_of(Opcode::ALL);
        for _ in 0..self.0.below(8) {
            // A guest may fill the host's disk, as far as its user may. A test must not.
            let number = if kind == Opcode::Fallocate { self.0.below(4096) } else { self.number() };
            if self.0.below(2) == 0 {
                body.extend(number.to_ne_bytes());
            } else {
                body.extend((number as u32).to_ne_bytes());
            }
        }
        for _ in 0..self.0.below(3) {
            body.extend(self.0.one_of(&NAMES).bytes());
            body.push(0);
        }
        let node = if self.0.below(2) == 0 { ROOT } else { self.number() };
        let mut request = client.request(opcode, node, &body);
        if self.0.below(10) == 0 {
            let at = self.0.index(request.len());
            request[at] ^= 1 << self.0.below(8);
        }
        if self.0.below(20) == 0 {
            let length = self.0.index(request.len());
            request.truncate(length);
        }
        request
    }
}

/// A guest that sends requests of a seed.
fn exercise(seed: u64) {
    let mut guest = Guest(Random::new(seed));
    let (home, directory) = shared();
    fs::create_dir(directory.join("dir")).unwrap();
    fs::write(directory.join("a"), "content").unwrap();
    symlink("../secret", directory.join("link")).unwrap();
    symlink("..", directory.join("up")).unwrap();
    let client = Client::with(&directory, |settings| (settings.nodes, settings.handles) = (8, 8));
    let mut reply = vec![0; LARGEST_DATA + 4096];
    for _ in 0..REQUESTS {
        let request = guest.request(&client);
        let room = if guest.0.chance(4) { guest.0.index(300) } else { reply.len() };
        let answer = client.server.serve(&request, &mut reply[..room]);
        assert!(
            answer.is_none_or(|length| (16..=room).contains(&length)),
            "an answer of {answer:?} bytes in {room}"
        );
        assert!(client.server.inodes.len() <= 8);
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
        viv_fuzz::run("share", CASES, exercise);
    }
}
