//! iperf3, against its own server on the host.

use std::net::SocketAddr;
use std::process::Command;

/// Has it send so many bytes, or with `reverse` receive them, by so many streams: how many were asked for.
pub fn run(server: SocketAddr, bytes: u64, streams: usize, reverse: bool) -> u64 {
    let mut iperf3 = Command::new("iperf3");
    iperf3.args(["--client", &server.ip().to_string(), "--port", &server.port().to_string()]);
    iperf3.args(["--bytes", &bytes.to_string(), "--parallel", &streams.to_string()]);
    iperf3.args(reverse.then_some("--reverse"));
    let output = iperf3.output().expect("iperf3 is installed");
    assert!(output.status.success(), "iperf3: {}", String::from_utf8_lossy(&output.stderr));
    bytes
}
