//! What a guest tells its host: that its kernel has panicked, and that it is alive.

use crate::debian::run;
use crate::direct::Machine;
use crate::ended::{Ended, feed};

/// Loads the watchdog's driver anew, for it to be quick. It says once why the machine was started.
const DRIVERS: &str = "
bootstatus=$(cat /sys/class/watchdog/watchdog0/bootstatus)
mount -o ro /dev/vda /root
rmmod wdat_wdt
insmod /root/lib/modules/$(uname -r)/kernel/drivers/watchdog/wdat_wdt.ko timeout=3 || poweroff -f
";

#[test]
fn a_kernel_that_panics_ends_the_machine_and_its_console_is_kept() {
    // Without a word to the host, it would stand still for ever.
    let script = "
echo 0 >/proc/sys/kernel/panic; echo the last word; echo c >/proc/sysrq-trigger
";
    let ended = feed(&mut Machine::new(script).run(&[]), b"");
    assert_eq!(ended.status, 125, "{ended:?}");
    let said = ended.text();
    assert!(said.contains("the last word") && said.contains("not syncing: sysrq triggered crash"), "{said}");
    assert_eq!(ended.stderr, "viv: running the virtual machine: the guest's kernel panicked\n");
}

#[test]
fn a_panic_in_an_image_is_told_with_its_reason() {
    let command = ["debian", "--", "sh", "-c", "echo before; echo c >/proc/sysrq-trigger"];
    let ended = feed(&mut run(&command), b"");
    assert_eq!((ended.status, ended.text().as_str()), (125, "before\n"), "{ended:?}");
    assert!(
        ended.stderr.ends_with("the guest's kernel panicked: sysrq triggered crash\n"),
        "{}",
        ended.stderr
    );
}

/// A machine with this watchdog that runs a script.
fn watched(action: &str, script: &str) -> Ended {
    feed(&mut Machine::new(&format!("{DRIVERS}{script}")).run(&["--watchdog", action]), b"")
}

#[test]
fn a_guest_that_hangs_is_ended_by_its_watchdog() {
    let script = "
exec 3>/dev/watchdog
for i in 1 2 3 4 5; do echo . >&3; sleep 1; done
echo alive
while :; do :; done
";
    let ended = watched("poweroff", script);
    assert_eq!((ended.status, ended.text().as_str()), (125, "alive\n"), "{ended:?}");
    assert!(ended.stderr.contains("the guest did not reset its watchdog in time"), "{}", ended.stderr);
}

#[test]
fn a_guest_that_is_reset_by_its_watchdog_learns_it() {
    let script = "
echo bootstatus $bootstatus timeout $(cat /sys/class/watchdog/watchdog0/timeout)
[ $bootstatus = 32 ] && poweroff -f
echo . >/dev/watchdog
sleep 600
";
    let ended = watched("reset", script);
    let text = ended.text();
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("bootstatus")).collect();
    // WDIOF_CARDRESET.
    assert_eq!(said, ["bootstatus 0 timeout 3", "bootstatus 32 timeout 3"], "{ended:?}");
    assert_eq!(ended.status, 0);
}

#[test]
fn a_watchdog_that_is_closed_as_it_should_be_stands_still() {
    let script = "
exec 3>/dev/watchdog; printf V >&3; exec 3>&-
sleep 8
echo over; poweroff -f
";
    let ended = watched("poweroff", script);
    assert!(ended.status == 0 && ended.text().starts_with("over\n"), "{ended:?}");
}
