//! Rows that programs of the root file system do.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

use crate::inputs;
use crate::{Outcome, Work};

/// Where the input is, and what comes out.
const INPUT: &str = "/tmp/input";
const OUTPUT: &str = "/tmp/output";
/// Shared libraries.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Bytes that are compressed: 4 MB.
const COMPRESSED: usize = 4_000_000;

/// Movements of three bodies, which attract each other.
const NBODY: &str = r#"
import sys
bodies = [[0.0, 0.0, 0.0, 0.0, 39.47], [4.84, -1.16, 0.6, 2.8, 0.037], [8.34, 4.12, -1.01, 1.82, 0.011]]
pairs = [(bodies[i], bodies[j]) for i in range(3) for j in range(i)]
for _ in range(int(sys.argv[1])):
    for a, b in pairs:
        dx = a[0] - b[0]
        dy = a[1] - b[1]
        force = 0.001 / ((dx * dx + dy * dy) ** 1.5)
        a[2] -= dx * b[4] * force
        a[3] -= dy * b[4] * force
        b[2] += dx * a[4] * force
        b[3] += dy * a[4] * force
    for body in bodies:
        body[0] += 0.001 * body[2]
        body[1] += 0.001 * body[3]
print(bodies)
"#;

/// A loop over strings, numbers and a hash.
const PERL: &str = r#"
    my (%seen, $sum); local $/; my $text = <STDIN>;
    $seen{$_}++ for split /\s+/, $text;
    $sum += $seen{$_} * length for sort keys %seen;
    for my $i (1 .. 2000000) { $sum = ($sum * 33 + $i) % 1000003 }
    print "$sum\n";
"#;

pub fn python_nbody() -> Work {
    read_in(&["/usr/lib/python3.11/encodings"]);
    program(&["/usr/bin/python3", "-I", "-S", "-c", NBODY, "100000"], &[])
}

/// Hashes of blocks of 8 KiB.
pub fn openssl_sha256() -> Work {
    program(&["/usr/local/bin/openssl-blocks", "sha256", "49152"], &[])
}

/// Blocks of 8 KiB, encrypted and authenticated.
pub fn openssl_aes_gcm() -> Work {
    program(&["/usr/local/bin/openssl-blocks", "aes-128-gcm", "131072"], &[])
}

/// Not OpenSSL's: C without vectors.
pub fn sha256sum() -> Work {
    program(&["/usr/bin/sha256sum"], &inputs::text(COMPRESSED).repeat(10))
}

pub fn xz() -> Work {
    program(&["/usr/bin/xz", "-3"], &inputs::text(COMPRESSED))
}

pub fn gzip() -> Work {
    program(&["/usr/bin/gzip", "-6", "-n"], &inputs::text(COMPRESSED))
}

pub fn sqlite() -> Work {
    program(&["/usr/bin/sqlite3", "-batch", "-init", "/dev/null", "/tmp/bench.db"], inputs::sql().as_bytes())
}

/// To an object file: the compiler and the assembler.
pub fn gcc() -> Work {
    read_in(&["/usr/lib/gcc/x86_64-linux-gnu/12", "/usr/bin/as"]);
    program(&["/usr/bin/gcc", "-O2", "-c", "-x", "c", "-", "-o", OUTPUT], inputs::c_source().as_bytes())
}

pub fn perl() -> Work {
    program(&["/usr/bin/perl", "-e", PERL], &inputs::text(COMPRESSED / 2))
}

pub fn sort() -> Work {
    program(&["/usr/bin/sort"], &inputs::text(4 * COMPRESSED))
}

/// A shell that starts a small program again and again.
pub fn bash_fork() -> Work {
    read_in(&["/usr/bin/true"]);
    program(&["/usr/bin/bash", "-c", "for i in {1..300}; do /usr/bin/true; done"], &[])
}

/// The whole tree six times, with what is known of each file, when the kernel has it all in memory.
pub fn find() -> Work {
    const WORDS: &[&str] =
        &["/usr/bin/find", "/usr", "/usr", "/usr", "/usr", "/usr", "/usr", "-printf", "%p %s %m %T@\\n"];
    program(WORDS, &[])();
    program(WORDS, &[])
}

/// A program, ready to run over this input.
fn program(words: &'static [&'static str], input: &[u8]) -> Work {
    read_in(&[words[0]]);
    fs::write(INPUT, input).expect("room for the input");
    let words = words.to_vec();
    Box::new(move || {
        let status = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .envs([("PATH", "/usr/bin"), ("HOME", "/tmp"), ("LC_ALL", "C")])
            .stdin(File::open(INPUT).expect("it was written"))
            .stdout(File::create(OUTPUT).expect("room for the output"))
            .stderr(Stdio::inherit())
            .status()
            .expect("the program starts");
        assert!(status.success(), "{} ends with {status}", words[0]);
        Outcome::File(OUTPUT)
    })
}

/// Reads programs, and the files of directories, so that the kernel has them in memory; shared libraries too.
pub fn read_in(paths: &[&str]) {
    static LIBRARIES_ARE: Once = Once::new();
    LIBRARIES_ARE.call_once(|| read_files(&[LIBRARIES]));
    read_files(paths);
}

fn read_files(paths: &[&str]) {
    let read = |path: &Path| {
        if path.is_file() {
            io::copy(&mut File::open(path).expect("it is there"), &mut io::sink()).expect("it can be read");
        }
    };
    for path in paths.iter().map(Path::new) {
        match fs::read_dir(path) {
            Ok(entries) => entries.for_each(|entry| read(&entry.expect("an entry").path())),
            Err(_) => read(path),
        }
    }
}
