//! Xen, with Debian as its first domain: a hypervisor that needs no help from the processor.

use crate::installed::Installed;

/// The arrow down, in a terminal's keys (ECMA-48, 8.3.19): from GRUB's first entry to its second.
const DOWN: &str = "\x1b[B";

#[test]
fn xen_runs_debian_as_its_first_domain() {
    let mut debian = Installed::start(&["--firmware", "bios", "--memory", "1G"], "virtio");
    debian.log_in(DOWN);
    let state = debian.run("systemctl is-system-running --wait");
    assert!(state.contains("running\r\n"), "{state} {}", debian.run("systemctl --failed --no-pager"));
    let info = debian.run("xl info");
    assert!(info.contains("xen_version            : 4.17"), "{info}");
    let domains = debian.run("xl list");
    assert!(domains.contains("Domain-0"), "{domains}");
    debian.power_off();
}
