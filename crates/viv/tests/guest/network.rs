//! Network interfaces, on a host's network of the test's own.

use std::fs;

use crate::debian::{around, is_tortured};
use crate::ended::feed;

/// The host's side: a tap interface, a way to fetch the data and a way to bring it.
const HOST: &str = r#"
set -e
ip link set lo up
ip tuntap add tap0 mode tap vnet_hdr $MULTI_QUEUE
ip address add 10.77.0.1/24 dev tap0
ip link set tap0 up
busybox nc -l -p 5000 <data &
busybox nc -l -p 5001 >back &
"$VIV" run --cpus "$CPUS" --net "tap=tap0,mac=02:00:00:00:00:07,address=10.77.0.2/24,gateway=10.77.0.1,dns=10.77.0.1$OPTIONS" debian -- bash -c "$GUEST" &
viv=$!
for attempt in $(seq 600); do
    if busybox ping -c 1 -W 1 10.77.0.2 >/dev/null; then echo pinged; break; fi
done
wait $viv
cmp data back && echo same
"#;

const GUEST: &str = r#"
set -e
ip -brief address show to 10.77.0.0/24
ip route show default
cat /sys/class/net/*/address | grep ^02
tail -n 1 /etc/resolv.conf
cat </dev/tcp/10.77.0.1/5000 >/root/data
cat /root/data >/dev/tcp/10.77.0.1/5001
"#;

fn exchange(cpus: &str, multi_queue: &str, options: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() || !fs::exists("/dev/net/tun").unwrap_or(false) {
        eprintln!("NOT TESTED: network interfaces take root and /dev/net/tun");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let megabytes = if is_tortured() { 1 } else { 100 };
    let data: Vec<u8> = (0..megabytes << 18).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    fs::write(directory.path().join("data"), data).expect("written");
    let mut host = around("unshare");
    host.args(["--net", "sh", "-c", HOST])
        .current_dir(directory.path())
        .env("GUEST", GUEST)
        .envs([("CPUS", cpus), ("MULTI_QUEUE", multi_queue), ("OPTIONS", options)]);
    Some(feed(&mut host, b"").succeeded())
}

#[test]
fn a_guest_on_a_tap_interface_is_reached_and_reaches_out() {
    let Some(said) = exchange("1", "", "") else { return };
    let mut lines: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    let name = lines.iter().find_map(|line| line.strip_suffix(" UP 10.77.0.2/24")).unwrap_or_else(|| panic!("{said}"));
    let expected = [
        "02:00:00:00:00:07",
        &format!("default via 10.77.0.1 dev {name} proto boot"),
        &format!("{name} UP 10.77.0.2/24"),
        "nameserver 10.77.0.1",
        "pinged",
        "same",
    ];
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert_eq!(lines, expected, "{said}");
}

#[test]
fn two_processors_share_two_pairs_of_queues() {
    let Some(said) = exchange("2", "multi_queue", ",queues=2,mtu=9000") else { return };
    assert!(said.contains("pinged") && said.contains("same"), "{said}");
}
