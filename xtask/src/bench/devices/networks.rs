//! Networks without privilege: `viv`'s own, QEMU's, and QEMU's with passt beside it, each between the guest and a server on
//! the host's loopback.
//!
//! Guest, network, server and passt are all on one processor: what is compared is the work that everybody makes, whoever
//! does it.

use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::{Group, MEMORY, native};
use crate::bench::contender::{Disk, Guest, Network, Placement};
use crate::bench::figures::{Place, Workloads};
use crate::bench::session::{Running, Session};
use crate::bench::{image_name, places, rootfs};
use crate::packages;

/// Runs the rows.
pub fn measure(group: &Group<'_>) -> Result<Workloads> {
    packages::ensure(&["iperf3", "passt"])?;
    // The guest's iperf3 is there.
    let disk = rootfs::provide(group.root, &group.bench.directory, image_name()?)?;
    let server = Server::start(group)?;
    let iperf3 = Iperf3::start(group)?;
    let [port, iperf3_port] = [server.port, iperf3.port].map(|port| port.to_string());
    let published = free_port()?;
    let guest = Guest {
        bench: group.bench,
        initrd: group.initrd,
        disk: Some(Disk { file: &disk, writable: false }),
        network: Some(Network {
            published,
            passt: &group.bench.directory.join("passt.socket"),
            by_passt: false,
        }),
        share: None,
        kernel_words: "",
        arguments: &group.words(["network", &port, &published.to_string(), &iperf3_port]),
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    // On the host itself nothing is published.
    let words = group.words(["network", &port, "0", &iperf3_port]);
    places::alternate_in(&Place::ALL, "networks", &guest, || Ok(native(group, guest.placement, &words)))
}

/// The other end of all rows, for as long as this is held.
struct Server {
    port: u16,
    _process: Session,
}

impl Server {
    fn start(group: &Group<'_>) -> Result<Self> {
        let mut process = Session::start(&mut native(group, Placement::Pinned, &["serve".to_owned()]))?;
        let (_, line) = process.next_line()?.context("the server of the network's rows says nothing")?;
        let port = line.strip_prefix("@port ").and_then(|port| port.parse().ok());
        Ok(Self { port: port.context("the server of the network's rows says no port")?, _process: process })
    }
}

/// iperf3's own other end, for as long as this is held.
struct Iperf3 {
    port: u16,
    _process: Running,
}

impl Iperf3 {
    fn start(group: &Group<'_>) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &group.bench.processor.to_string()]);
        command.args([
            "iperf3",
            "--server",
            "--forceflush",
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ]);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut process = Running(spawned.context("starting iperf3's server")?);
        let mut said = BufReader::new(process.0.stdout.take().context("the output of iperf3's server")?);
        let mut line = String::new();
        while !line.starts_with("Server listening") {
            line.clear();
            let length = said.read_line(&mut line).context("reading what iperf3's server says")?;
            ensure!(length > 0, "iperf3's server has ended");
        }
        // What it says of each test nobody wants to know, but it has to get rid of it.
        thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        Ok(Self { port, _process: process })
    }
}

/// A port of the loopback that nobody has at this moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}
