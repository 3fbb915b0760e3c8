//! Networks without privilege: `viv`'s own, QEMU's, and QEMU's with passt beside it, each between the guest and a server on
//! the host's loopback.
//!
//! Guest, network, server and passt are all on one processor: what is compared is the work that everybody makes, whoever
//! does it.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

use super::{Group, MEMORY, native};
use crate::bench::contender::{Guest, Network, Placement};
use crate::bench::figures::{Place, Workloads};
use crate::bench::places;
use crate::bench::session::Session;
use crate::packages;

/// Runs the rows.
pub fn measure(group: &Group<'_>) -> Result<Workloads> {
    packages::ensure(&["passt"])?;
    let server = Server::start(group)?;
    let port = server.port.to_string();
    let published = free_port()?;
    let guest = Guest {
        bench: group.bench,
        initrd: group.initrd,
        disk: None,
        network: Some(Network {
            published,
            passt: &group.bench.directory.join("passt.socket"),
            by_passt: false,
        }),
        kernel_words: "",
        arguments: &group.words(["network", &port, &published.to_string()]),
        memory: MEMORY,
        placement: Placement::Pinned,
    };
    // On the host itself nothing is published.
    let words = group.words(["network", &port, "0"]);
    places::alternate_in(&Place::ALL, "networks", &guest, || Ok(native(group, &words)))
}

/// The other end of all rows, for as long as this is held.
struct Server {
    port: u16,
    _process: Session,
}

impl Server {
    fn start(group: &Group<'_>) -> Result<Self> {
        let mut process = Session::start(&mut native(group, &["serve".to_owned()]))?;
        let (_, line) = process.next_line()?.context("the server of the network's rows says nothing")?;
        let port = line.strip_prefix("@port ").and_then(|port| port.parse().ok());
        Ok(Self { port: port.context("the server of the network's rows says no port")?, _process: process })
    }
}

/// A port of the loopback that nobody has at this moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}
