//! Debian on the kvm engine, where the host's processor carries it.

use viv_vmm::host::{HostFacts, KvmBacking};

use crate::debian::viv;
use crate::ended::{feed, not_tested};

/// Whether guest kernels run on this host's KVM. Otherwise says that `what` was not tested.
fn on_hardware(what: &str) -> bool {
    let found = HostFacts::read().kvm == KvmBacking::Hardware { accessible: true };
    if !found {
        not_tested(&format!("{what}: there is no /dev/kvm here that hardware backs and this user may open"));
    }
    found
}

#[test]
fn debian_comes_to_a_shell() {
    if !on_hardware("Debian on the kvm engine") {
        return;
    }
    let commands =
        b"uname -m; cat /sys/hypervisor/type 2>/dev/null; systemd-detect-virt 2>/dev/null || true\n\
        cat /sys/devices/system/clocksource/clocksource0/current_clocksource; exit 7\n";
    let ended = feed(&mut viv(&["run", "--engine", "kvm", "debian"]), commands);
    let said = ended.text();
    assert!(said.starts_with("x86_64\n"), "{said}");
    assert_eq!(ended.status, 7);
}

#[test]
fn four_processors_start_and_see_no_lockups() {
    if !on_hardware("several processors on the kvm engine") {
        return;
    }
    let script = "nproc; for n in 0 1 2 3; do taskset -c $n true; done; \
        dmesg | grep -iE 'lockup|rcu.*stall|clocksource.*unstable|tsc.*(warp|unsync)' || true";
    let mut guest = viv(&["run", "--engine", "kvm", "--cpus", "4", "debian", "--", "sh", "-c", script]);
    assert_eq!(feed(&mut guest, b"").succeeded(), "4\n");
}
