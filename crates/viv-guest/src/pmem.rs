//! Files of the host as memory, `/dev/pmem0` and so on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{modules, report};

/// Where the kernel lists virtio devices; each has a file `device`.
const DEVICES: &str = "/sys/bus/virtio/devices";
/// What it says of one that is persistent memory (VIRTIO 1.3, 5.19.1).
const PMEM: &str = "0x001b";
/// The drivers, which are the root file system's: the device's, and that of the disk that the kernel makes of the memory.
const DRIVERS: [&str; 2] = ["virtio_pmem", "nd_pmem"];
/// How long the kernel may take to make the disks.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads the drivers if there is such memory, and waits for its disks.
pub(crate) fn set_up() {
    let count = count();
    if count == 0 {
        return;
    }
    if !modules::request(&DRIVERS) {
        let drivers = DRIVERS.join(" or ");
        return report::problem(&format!("waiting for /dev/pmem0: the kernel has no driver {drivers}"));
    }
    let deadline = Instant::now() + PATIENCE;
    for index in 0..count {
        let disk = format!("/dev/pmem{index}");
        while !Path::new(&disk).exists() {
            if Instant::now() > deadline {
                return report::problem(&format!("waiting for {disk}: it did not appear"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// How many devices of the kind there are.
fn count() -> usize {
    let devices = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    let is_pmem = |path: &Path| fs::read_to_string(path.join("device")).is_ok_and(|id| id.trim() == PMEM);
    devices.filter(|device| is_pmem(&device.path())).count()
}
