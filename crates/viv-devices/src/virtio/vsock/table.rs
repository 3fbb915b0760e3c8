//! All connections, and what the guest is to be told of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::connection::{BUFFER, Connection, Packet, Phase, Ports};
use super::host::{VsockHost, VsockStream};
use super::regs::{HOST_CID, Header, STREAM, op};

/// The most connections at a time. Each holds at most [`BUFFER`] bytes.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// How many refusals may wait for the guest to take them.
const MAX_REFUSALS: usize = 64;
/// The host's ports of connections that the host asks for, as Firecracker has them.
pub(super) const HOST_PORTS: Range<u32> = 1 << 30..1 << 31;

/// The connections of a device.
pub(super) struct Table {
    pub(super) guest_cid: u64,
    host: Box<dyn VsockHost>,
    connections: BTreeMap<u64, Connection>,
    /// Those that the guest knows, by their ports.
    by_ports: BTreeMap<Ports, u64>,
    /// Never given twice.
    next_id: u64,
    /// The host's port of the next connection that the host asks for.
    pub(super) next_port: u32,
    /// Connections that may have something for the guest, each once.
    line: VecDeque<u64>,
    /// What the guest is told of connections that there are not.
    refusals: VecDeque<Header>,
}

impl Table {
    /// The most bytes that a packet of the guest's can have: its credit.
    pub(super) const LONGEST: usize = BUFFER as usize;

    pub(super) fn new(guest_cid: u64, host: Box<dyn VsockHost>) -> Self {
        Self {
            guest_cid,
            host,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            next_id: 0,
            next_port: HOST_PORTS.start,
            line: VecDeque::new(),
            refusals: VecDeque::new(),
        }
    }

    /// Whether the guest has something to lose.
    pub(super) fn is_empty(&self) -> bool {
        self.by_ports.is_empty() && self.refusals.is_empty()
    }

    /// Whether packets of the guest's have to wait, because there is no room for what it would be told.
    pub(super) fn is_full(&self) -> bool {
        self.refusals.len() >= MAX_REFUSALS
    }

    /// Closes all connections, and tells nobody.
    pub(super) fn clear(&mut self) {
        for (id, connection) in std::mem::take(&mut self.connections) {
            if connection.phase == Phase::Asked {
                self.host.forget(id);
            }
        }
        self.by_ports.clear();
        self.line.clear();
        self.refusals.clear();
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        id
    }

    /// Forgets a connection, of which nothing is left behind.
    fn remove(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if connection.in_line {
            self.line.retain(|waiting| *waiting != id);
        }
        if connection.phase == Phase::Asked {
            self.host.forget(id);
        }
    }

    /// The host asks for a connection. `None` when there are too many.
    pub(super) fn offer(&mut self, stream: Box<dyn VsockStream>, guest: u32) -> Option<u64> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        // More ports than connections, so one is free.
        let ports = loop {
            let ports = Ports { guest, host: self.next_port };
            let next = self.next_port.wrapping_add(1);
            self.next_port = if HOST_PORTS.contains(&next) { next } else { HOST_PORTS.start };
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        let id = self.insert(Connection::offered(ports, stream));
        self.enqueue(id);
        Some(id)
    }

    /// The host has answered what the guest asked.
    pub(super) fn answer(&mut self, id: u64, stream: Option<Box<dyn VsockStream>>) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|known| known.phase == Phase::Asked) {
            connection.answer(stream);
            self.enqueue(id);
        }
    }

    /// Something happened to a connection's stream.
    pub(super) fn process_stream(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.process_stream();
        if connection.is_over() {
            self.remove(id);
        }
        self.enqueue(id);
    }

    /// The guest has said something, with `data` behind it, or with more than there may be.
    pub(super) fn receive(&mut self, header: &Header, data: Option<&[u8]>) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let ports = Ports { guest: header.src_port, host: header.dst_port };
        let known = self.by_ports.get(&ports).copied().filter(|_| header.kind == STREAM);
        let Some(id) = known else {
            if header.kind == STREAM && header.op == op::REQUEST && self.connections.len() < MAX_CONNECTIONS {
                let id = self.insert(Connection::asked(ports, header));
                if !self.host.connect(id, ports.host) {
                    self.answer(id, None);
                }
            } else if header.op != op::RST {
                let refusal = Header { kind: header.kind, ..ports.header(self.guest_cid, op::RST) };
                self.refusals.push_back(refusal);
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if header.op == op::RST {
            let stays = connection.abandon();
            self.by_ports.remove(&ports);
            if !stays {
                self.remove(id);
            }
            return;
        }
        match data {
            Some(data) => connection.receive(header, data),
            None => connection.break_off(),
        }
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.has_packet()
            && !connection.in_line
        {
            connection.in_line = true;
            self.line.push_back(id);
        }
    }

    /// What to tell the guest next, each connection in its turn. Bytes that follow go into `data`.
    pub(super) fn next_packet(&mut self, data: &mut [u8]) -> Option<Header> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        while let Some(id) = self.line.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.in_line = false;
            let Some(Packet { header, is_last }) = connection.next_packet(self.guest_cid, data) else {
                continue;
            };
            if is_last {
                let ports = connection.ports;
                self.by_ports.remove(&ports);
                self.remove(id);
            } else {
                self.enqueue(id);
            }
            return Some(header);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that answers nothing.
    struct Silent;

    impl VsockHost for Silent {
        fn connect(&mut self, _: u64, _: u32) -> bool {
            true
        }

        fn forget(&mut self, _: u64) {}
    }

    #[test]
    fn a_guest_that_takes_nothing_leaves_nothing_behind() {
        let mut table = Table::new(3, Box::new(Silent));
        let ports = Ports { guest: 7, host: 8 };
        let says =
            |op| Header { src_cid: 3, dst_cid: HOST_CID, src_port: 7, dst_port: 8, ..ports.header(3, op) };
        for _ in 0..10 {
            // The second is a mistake, of which the guest is to be told.
            for op in [op::REQUEST, op::REQUEST, op::RST] {
                table.receive(&says(op), Some(&[]));
            }
        }
        assert_eq!((table.connections.len(), table.line.len(), table.refusals.len()), (0, 0, 0));
    }
}
