//! A machine that is restored is of another generation, and its guest learns it.

use viv_vmm::config::{Boot, FileSource};

use crate::installed;
use crate::resources::Guest;

/// How often the guest was told, as its kernel counts events.
const EVENTS: &str = "awk '{ print $1 }' /sys/firmware/acpi/interrupts/gpe05";

#[test]
fn a_restored_guest_is_told_that_it_is_of_another_generation() {
    let mut guest = Guest::boot();
    assert_eq!(guest.run("cat /sys/bus/acpi/devices/VIVA0001:00/path"), r"\_SB_.VGEN");
    assert_eq!(guest.run(EVENTS), "0");
    let id = "busybox devmem 0xfed01000 64; busybox devmem 0xfed01008 64";
    let before = guest.run(id);
    let directory = tempfile::tempdir().expect("a directory");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    guest.until_it_finds(&format!("[ $({EVENTS}) = 1 ]"));
    assert_ne!(guest.run(id), before);
}

#[test]
fn linux_makes_new_random_numbers_in_a_guest_that_is_restored() {
    let directory = tempfile::tempdir().expect("a directory");
    // Debian's kernel for clouds has no driver.
    let path = installed::kernel(directory.path());
    let mut guest = Guest::boot_with(|config| {
        let Boot::Kernel(kernel) = &mut config.boot else { panic!("it has a kernel") };
        kernel.kernel = FileSource::Path(path);
    });
    let told = "dmesg | grep -c 'crng reseeded due to virtual machine fork' || true";
    assert_eq!(guest.run(told), "0");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    guest.until_it_finds("dmesg | grep -q 'crng reseeded due to virtual machine fork'");
    assert_eq!(guest.run(told), "1");
}
