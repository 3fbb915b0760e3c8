//! Programs that try the processor, compiled here and run in one guest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::debian::debian;
use crate::ended::feed;

/// Perl is a large program that stores little in what it prints; the same here and in the guest.
const PERL: &str = r#"
my @list = map { ($_ * 7919) % 1009 } 1 .. 3000;
my %seen; $seen{$_ % 97} .= chr(65 + $_ % 26) for @list;
print join(",", map { "$_=" . length $seen{$_} } sort { $a <=> $b } keys %seen), "\n";
my ($x, $s) = (0.1, ""); for (1 .. 200) { $x = 3.7 * $x * (1 - $x); $s .= sprintf "%.15g %a ", $x, $x }
print unpack("%32C*", $s), " $s\n";
print join(" ", map { sprintf "%.17g", $_ } sqrt 2, exp 1, log 10, sin 1e6, cos 1e-3, atan2(1, 3), 1e308 * 10, 2 ** 0.5), "\n";
print join(" ", unpack "H*", pack "nNvVqQfd>w", 258, 16909060, 258, 16909060, -5, ~0, 1.5, -2.25, 300), "\n";
print "$1:$2\n" while "k1=v1;k22=v22;;k333=" =~ /(\w+)=(\w*)/g;
my $r = ""; $r = reverse($r) . $_ for "a" .. "zz"; print length $r, substr($r, 100, 20), "\n";
print 18446744073709551615 % 1000000007, " ", -7 / 2, " ", int(-7 / 2), " ", 1 << 40, " ", 0xffffffff * 0xffffffff, "\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; 1 while 1 }; print $@;
"#;

/// What the guest does with its input, an archive of the programs and of what they work on.
const SCRIPT: &str = r#"
cd /tmp && tar x || exit 99
run() { echo "@@ $1"; shift; "$@" 2>&1; echo "@= $?"; }
run i386-static ./i386-static
run i386-dynamic ./ld-linux.so.2 --library-path . ./i386-dynamic
for part in vectors aes faults jit storm threads clocks; do run $part ./amd64 $part; done
run perl perl script.pl
run gunzip sh -c 'gzip -dc data.gz | cmp - data && echo same'
run gzip sh -c 'gzip -9c data | tee again.gz | gzip -dc | cmp - data && gzip -tv again.gz'
run sha256 sha256sum data
run openssl sh -c 'openssl enc -aes-256-ctr -K 00 -iv 00 <data 2>&- | openssl enc -d -aes-256-ctr -K 00 -iv 00 2>&- | cmp - data && openssl dgst -sha512 -r data'
run checksums sh -c 'md5sum data; cksum data; sort -R --random-source=data data | sort | md5sum'
"#;

/// Everything that the guest is given.
struct Work(TempDir);

impl Work {
    fn new() -> Self {
        let work = Self(TempDir::new().expect("a directory"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/programs");
        let compile = |name: &str, source: &str, options: &[&str]| {
            let mut gcc = Command::new("gcc");
            gcc.args(["-O1", "-pthread", "-o", name]).arg(sources.join(source)).args(options).arg("-lm");
            work.run(&mut gcc);
        };
        compile("i386-static", "i386.c", &["-m32", "-static"]);
        compile("i386-dynamic", "i386.c", &["-m32"]);
        let features = ["-mavx2", "-mfma", "-maes", "-mpclmul", "-mf16c", "-mcx16", "-msse4.2"];
        // Flags are pushed by hand, below the stack pointer's back.
        compile("amd64", "amd64.c", &[&features[..], &["-static", "-mno-red-zone"]].concat());
        for library in ["ld-linux.so.2", "libc.so.6", "libm.so.6"] {
            let path: PathBuf = Path::new("/lib32").join(library);
            std::fs::copy(&path, work.path(library)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
        let text: String = (0..40_000_u64).map(|n| format!("{} of {n}\n", n * n % 65_537)).collect();
        std::fs::write(work.path("data"), text).expect("written");
        std::fs::write(work.path("script.pl"), PERL).expect("written");
        work.run(Command::new("gzip").args(["-k", "-n", "data"]));
        work
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program of the host here; what it prints.
    fn run(&self, command: &mut Command) -> Vec<u8> {
        let output = command
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{command:?}: {complaint}; cargo xtask test installs what is needed"
        );
        output.stdout
    }

    fn text(&self, program: &str, arguments: &[&str]) -> String {
        String::from_utf8(self.run(Command::new(program).args(arguments))).expect("text")
    }
}

/// What each program printed in the guest, and its status; and what some of them print here.
struct Results {
    guest: HashMap<String, (String, String)>,
    perl: String,
    sha256: String,
    checksums: String,
}

static RESULTS: LazyLock<Results> = LazyLock::new(|| {
    let work = Work::new();
    let archive = work.run(Command::new("tar").args(["c", "."]));
    let ended = feed(&mut debian(&["bash", "-c", SCRIPT]), &archive);
    let text = ended.succeeded();
    let sections = text.split("@@ ").skip(1).map(|section| {
        let (name, rest) = section.split_once('\n').expect("a name");
        let (said, status) = rest.rsplit_once("@= ").expect("a status");
        (name.to_owned(), (said.to_owned(), status.trim().to_owned()))
    });
    let checksums = "md5sum data; cksum data; sort -R --random-source=data data | sort | md5sum";
    Results {
        guest: sections.collect(),
        perl: work.text("perl", &["script.pl"]),
        sha256: work.text("sha256sum", &["data"]),
        checksums: work.text("sh", &["-c", checksums]),
    }
});

/// Asserts that a program succeeded in the guest; what it printed.
fn said(name: &str) -> &'static str {
    let (said, status) = RESULTS.guest.get(name).unwrap_or_else(|| panic!("{name} did not run"));
    assert_eq!(status, "0", "{name}: {said}");
    said
}

/// A test by name for each part that prints nothing but that it is well.
macro_rules! parts {
    ($($test:ident: $name:literal,)*) => {$(
        #[test]
        fn $test() {
            assert_eq!(said($name), "ok\n");
        }
    )*};
}

parts! {
    static_32_bit_programs_run: "i386-static",
    dynamic_32_bit_programs_run: "i386-dynamic",
    vectors_of_256_bits_are_right: "vectors",
    ciphers_are_right: "aes",
    faults_come_with_their_registers: "faults",
    code_that_is_written_is_run_as_written: "jit",
    processes_have_memory_of_their_own: "storm",
    threads_share_theirs: "threads",
    time_goes_forward_and_timers_fire: "clocks",
}

#[test]
fn perl_computes_as_here() {
    assert_eq!(said("perl"), RESULTS.perl);
}

#[test]
fn files_are_packed_and_unpacked() {
    assert_eq!(said("gunzip"), "same\n");
    assert!(said("gzip").contains("OK"));
}

#[test]
fn checksums_are_the_same_as_here() {
    assert_eq!(said("sha256"), RESULTS.sha256);
    assert_eq!(said("checksums"), RESULTS.checksums);
    assert_eq!(said("openssl").split_whitespace().last(), Some("*data"));
}
