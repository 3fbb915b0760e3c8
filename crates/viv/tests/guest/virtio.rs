//! A driver in a guest that means harm to its devices: the VM process lives, the guest goes on, and each device works again.
//!
//! `VIV_VIRTIO_SEED` is the first seed, `VIV_VIRTIO_ROUNDS` how often each device is set up and sent what it does not expect.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::debian::is_tortured;
use crate::direct::Machine;
use crate::ended::feed;

/// Loads the drivers that the initial RAM disk may lack, and runs the program, which the second disk carries at first.
const SCRIPT: &str = "
mount -o ro /dev/vda /root
for driver in virtio/virtio_balloon virtio/virtio_mem char/hw_random/virtio-rng; do
    insmod /root/lib/modules/$(uname -r)/kernel/drivers/$driver.ko 2>/dev/null
done
for driver in libnvdimm nd_virtio virtio_pmem nd_btt nd_pmem; do
    insmod /root/lib/modules/$(uname -r)/kernel/drivers/nvdimm/$driver.ko
done
insmod /root/lib/modules/$(uname -r)/kernel/net/packet/af_packet.ko 2>/dev/null
cat /dev/vdb >/program; chmod +x /program
/program @SEED @ROUNDS; echo status $?
md5sum /busybox | cut -c 1-32
dmesg | grep -E 'BUG:|Oops|lockup|nobody cared'
poweroff -f
";

/// Kinds of devices that are there, by their numbers in the specification.
const KINDS: [(&str, &str); 6] = [
    ("1", "network"),
    ("2", "disk"),
    ("4", "entropy"),
    ("5", "balloon"),
    ("24", "memory"),
    ("27", "persistent memory"),
];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What a guest with this many processors says at the end.
fn torment(cpus: &str, seed: u64) -> String {
    let rounds = number("VIV_VIRTIO_ROUNDS", if is_tortured() { 10 } else { 120 });
    let script = SCRIPT.replace("@SEED", &seed.to_string()).replace("@ROUNDS", &rounds.to_string());
    let machine = Machine::new(&script);
    let disk = machine.path("disk");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/programs/virtio.c");
    let built = Command::new("gcc").args(["-O1", "-static", "-o"]).arg(&disk).arg(source).status();
    assert!(built.expect("gcc").success());
    let file = fs::OpenOptions::new().write(true).open(&disk).expect("the program");
    file.set_len(4 << 20).expect("longer");
    drop(file);
    fs::File::create(machine.path("pmem")).and_then(|file| file.set_len(16 << 20)).expect("sparse");
    let memory = ["--memory", "512M,max=768M", "--pmem", "pmem"];
    let options = [&["--disk", "disk", "--net", "user", "--cpus", cpus][..], &memory].concat();
    feed(&mut machine.run(&options), b"").succeeded()
}

#[test]
fn devices_work_after_what_no_driver_sends() {
    let busybox = md5_of_busybox();
    let first = number("VIV_VIRTIO_SEED", 1);
    for (cpus, seed) in [("1", first), ("2", first + 1)] {
        let said = torment(cpus, seed);
        assert!(
            said.contains("status 0") && said.contains(&busybox),
            "seed {seed}, {cpus} processors: {said}"
        );
        assert!(!said.contains("BUG:") && !said.contains("Oops") && !said.contains("nobody"), "{said}");
        let lines = said.lines().filter_map(|line| line.strip_prefix("virtio ")?.split_once(" at "));
        let found: HashMap<&str, &str> = lines.collect();
        for (kind, name) in KINDS {
            let line = found.get(kind).unwrap_or_else(|| panic!("no {name}: {said}"));
            assert!(line.contains(": works after"), "{name}, seed {seed}: {line}");
            // It was not all refused.
            assert!(is_tortured() || !line.contains(", 0 chains"), "{name}, seed {seed}: {line}");
        }
    }
}

/// What of the guest's memory is to be as it was.
fn md5_of_busybox() -> String {
    let output = Command::new("md5sum").arg("/bin/busybox").output().expect("md5sum");
    String::from_utf8_lossy(&output.stdout).chars().take(32).collect()
}
