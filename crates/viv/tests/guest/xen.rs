//! Xen, with Debian as its first domain: a hypervisor that needs no help from the processor.

use crate::installed::Installed;

#[test]
fn xen_runs_debian_as_its_first_domain() {
    let mut debian = Installed::start(&["--firmware", "bios", "--memory", "1G"], "virtio");
    debian.log_in("x");
    debian.is_up();
    let info = debian.run("xl info");
    assert!(info.contains("xen_version            : 4.17."), "{info}");
    let domains = debian.run("xl list");
    assert!(domains.contains("Domain-0"), "{domains}");
    debian.power_off();
}
