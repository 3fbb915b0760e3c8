//! The network of a guest that is saved and goes on in another process.

use std::net::TcpListener;

use viv_vmm::config::{NetworkBackend, NetworkConfig, UserNetwork};

use crate::resources::Guest;

/// Has the card ready, for which images of old have no driver in their initial RAM disks.
const SET_UP: &str = "for driver in net/core/failover drivers/net/net_failover drivers/net/virtio_net; do \
    insmod /root/lib/modules/$(uname -r)/kernel/$driver.ko 2>/dev/null; done; ifconfig eth0 10.0.2.15";

#[test]
fn a_connection_that_only_waits_is_reset_after_a_move() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut guest = Guest::boot_with(|config| {
        let user = UserNetwork { host_access: true, publish: Vec::new() };
        let mac = [2, 0, 0, 0, 0, 7];
        config.networks.push(NetworkConfig {
            mac,
            mtu: None,
            bps: None,
            pps: None,
            backend: NetworkBackend::User(user),
        });
    });
    guest.run(SET_UP);
    // Its input never ends, and it sends nothing.
    guest.run(&format!(
        "mkfifo /tmp/input; ( (nc 10.0.2.2 {port} <>/tmp/input >/tmp/output; touch /tmp/over) & )"
    ));
    let (_stream, _) = listener.accept().expect("a guest");
    guest.until_it_finds("[ ! -e /tmp/over ]");

    let directory = tempfile::tempdir().expect("a directory");
    let mut guest = guest.move_by(&directory.path().join("snapshot"));
    guest.until_it_finds("[ -e /tmp/over ]");
    // And it can have new ones.
    guest.run(&format!("(nc 10.0.2.2 {port} <>/tmp/input >/tmp/output &)"));
    listener.accept().expect("the guest again");
}
