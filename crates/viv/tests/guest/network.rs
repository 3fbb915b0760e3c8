//! Networks: a host's of the test's own, and the one in the VM process.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::debian::{around, is_tortured, viv};
use crate::ended::{feed, start, wait};

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
ip -brief address show to 10.77.0.0/24 | tr -s ' ' | cut -d ' ' -f 3
ip route show default
cat /sys/class/net/*/address | grep ^02
tail -n 1 /etc/resolv.conf
cat </dev/tcp/10.77.0.1/5000 >/root/data
cat /root/data >/dev/tcp/10.77.0.1/5001
"#;

/// Whether this host may have networks of a test's own. Says so if not.
fn has_networks() -> bool {
    let may = rustix::process::geteuid().is_root() && fs::exists("/dev/net/tun").unwrap_or(false);
    if !may {
        eprintln!("NOT TESTED: network interfaces take root and /dev/net/tun");
    }
    may
}

fn exchange(cpus: &str, multi_queue: &str, options: &str) -> Option<String> {
    if !has_networks() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let megabytes = if is_tortured() { 1 } else { 100 };
    let data: Vec<u8> =
        (0..megabytes << 18).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    fs::write(directory.path().join("data"), data).expect("written");
    let mut host = around("unshare");
    host.args(["--net", "sh", "-c", HOST]).current_dir(directory.path()).env("GUEST", GUEST).envs([
        ("CPUS", cpus),
        ("MULTI_QUEUE", multi_queue),
        ("OPTIONS", options),
    ]);
    Some(feed(&mut host, b"").succeeded())
}

#[test]
fn a_guest_on_a_tap_interface_is_reached_and_reaches_out() {
    let Some(said) = exchange("1", "", "") else { return };
    let mut lines: Vec<_> = said.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    let expected = [
        "02:00:00:00:00:07",
        "10.77.0.2/24",
        "default via 10.77.0.1 dev eth0",
        "nameserver 10.77.0.1",
        "pinged",
        "same",
    ];
    assert_eq!(lines, expected, "{said}");
}

#[test]
fn two_processors_share_two_pairs_of_queues() {
    let Some(said) = exchange("2", "multi_queue", ",queues=2,mtu=9000") else { return };
    assert!(said.contains("pinged") && said.contains("same"), "{said}");
}

/// A bridge with a DHCP server, whose leases are to be renewed after three seconds.
const BRIDGE: &str = r#"
set -e
ip link set lo up
ip link add br0 type bridge
ip address add 10.78.0.1/24 dev br0
ip link set br0 up
dnsmasq --no-daemon --user=root --conf-file=/dev/null --port=0 --interface=br0 --dhcp-leasefile=leases \
    --dhcp-range=10.78.0.50,10.78.0.60,120 --dhcp-host=02:00:00:00:00:09,10.78.0.55 \
    --dhcp-option-force=option:T1,3 --dhcp-option=option:dns-server,10.78.0.9 2>log &
server=$!
"$VIV" run --net bridge=br0,mac=02:00:00:00:00:09 debian -- bash -c "$GUEST"
kill $server
grep -c 'DHCPDISCOVER' log
"#;

/// What a guest has from there, and whether it has more time for it again after a while.
const LEASED: &str = r#"
set -e
left() { ip -4 address show eth0 | sed -n 's/.*valid_lft \([0-9]*\)sec.*/\1/p'; }
ip -brief -4 address show eth0 | tr -s ' ' | cut -d ' ' -f 3
ip route show default
tail -n 1 /etc/resolv.conf
(: </dev/tcp/10.78.0.1/9) 2>&1 | grep -o -m 1 'Connection refused'
before=$(left)
while now=$(left); [ "$now" -le "$before" ]; do before=$now; sleep 0.1; done
echo renewed
"#;

#[test]
fn a_guest_without_an_address_gets_one_by_dhcp_and_keeps_it() {
    if !has_networks() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut host = around("unshare");
    host.args(["--net", "sh", "-c", BRIDGE]).current_dir(directory.path()).env("GUEST", LEASED);
    let said = feed(&mut host, b"").succeeded();
    let lines: Vec<_> = said.lines().map(str::trim_end).collect();
    let expected = [
        "10.78.0.55/24",
        "default via 10.78.0.1 dev eth0",
        "nameserver 10.78.0.9",
        "Connection refused",
        "renewed",
        // Nothing but the first address was asked of everybody.
        "1",
    ];
    assert_eq!(lines, expected, "{said}");
}

#[test]
fn a_guest_reaches_the_host_where_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a guest");
        stream.write_all(&vec![b'x'; 3_000_000]).expect("sent");
    });
    let script = format!(
        "ip -brief address show to 10.0.2.0/24 | tr -s ' ' | cut -d ' ' -f 3; cat /etc/resolv.conf | grep ^n; \
         cat </dev/tcp/10.0.2.2/{port} | wc -c"
    );
    let mut viv = viv(&["run", "--host-access", "debian", "--", "bash", "-c", &script]);
    assert_eq!(feed(&mut viv, b"").succeeded(), "10.0.2.15/24\nnameserver 10.0.2.3\n3000000\n");
    server.join().expect("served");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let script =
        format!("if cat </dev/tcp/10.0.2.2/{port}; then echo reached; else echo refused; fi 2>/dev/null");
    assert_eq!(debian_says(&["run", "debian", "--", "bash", "-c", &script]), "refused\n");
}

#[test]
fn a_published_port_leads_to_the_guest() {
    const SERVE: &str = r#"
        use IO::Socket::INET;
        my $listener = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die;
        my $peer = $listener->accept; print $peer scalar(<$peer>), "bye\n";"#;
    // Free at this moment; nobody else is given it soon.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let publish = format!("{port}:80");
    let mut viv = viv(&["run", "--publish", &publish, "debian", "--", "perl", "-e", SERVE]);
    let mut child = start(&mut viv);
    let answer = loop {
        assert_eq!(child.try_wait().expect("a child"), None, "it has ended");
        // The router listens before the guest does.
        let said = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.write_all(b"hello\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        });
        match said {
            Ok(said) if !said.is_empty() => break said,
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    assert_eq!(answer, "hello\nbye\n");
    wait(child).succeeded();
}

#[test]
fn a_guest_may_have_no_network() {
    let said = debian_says(&["run", "--net", "none", "debian", "--", "ls", "/sys/class/net"]);
    assert_eq!(said, "lo\n");
}

fn debian_says(arguments: &[&str]) -> String {
    feed(&mut viv(arguments), b"").succeeded()
}
