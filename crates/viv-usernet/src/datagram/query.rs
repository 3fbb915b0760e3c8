//! A question to a name server, which is put to the next one if there is no answer.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Flows, Socket, build};
use crate::core::{Core, Token};
use crate::dns;
use crate::host;
use crate::slots::Id;

/// How long an answer is waited for, and how long a flow lives that has it.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// How many questions of one flow are known at a time: resolvers ask for addresses of both kinds by one socket.
const MAX_OPEN: usize = 4;

/// What a flow to a name server is about.
#[derive(Debug)]
pub(super) struct Query {
    /// Whom it was put to.
    server: SocketAddr,
    /// How many others it was put to before.
    tried: usize,
    /// The messages that are not answered.
    open: Vec<Vec<u8>>,
}

impl Query {
    pub(super) fn new(server: SocketAddr) -> Self {
        Self { server, tried: 0, open: Vec::new() }
    }

    /// The guest asks, or asks again. What is too long is not put to other servers. Returns whether it is the first question
    /// of all that are open, for which there is time from now on.
    pub(super) fn asked(&mut self, message: &[u8]) -> bool {
        let identifier = dns::identifier(message);
        if self.open.iter().any(|open| dns::identifier(open) == identifier) {
            return false;
        }
        let is_first = self.open.is_empty();
        if is_first {
            self.tried = 0;
        }
        if message.len() <= dns::MAX_QUERY {
            if self.open.len() >= MAX_OPEN {
                self.open.remove(0);
            }
            self.open.push(message.to_vec());
        }
        is_first
    }

    /// The server answers.
    pub(super) fn answered(&mut self, message: &[u8]) {
        let identifier = dns::identifier(message);
        self.open.retain(|open| dns::identifier(open) != identifier);
    }

    /// Whether an answer is missing.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }
}

impl Flows {
    /// Puts questions to the next name server; when all were asked, the guest is told that they failed.
    pub(super) fn ask_next(&mut self, core: &mut Core, id: Id) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(query) = flow.query.as_mut().filter(|query| query.is_open()) else { return };
        core.resolvers.failed(query.server);
        query.tried = query.tried.saturating_add(1);
        let next = core.resolvers.current().filter(|_| query.tried < core.resolvers.len());
        let socket = next.and_then(|server| Some((server, host::connect_datagram(server).ok()?)));
        let Some((server, socket)) = socket else {
            let key = flow.key;
            for answer in std::mem::take(&mut query.open).iter().filter_map(|open| dns::failure(open)) {
                let mut bytes = Vec::new();
                if let Some(offload) = build::frame(core, key, &answer, &mut bytes) {
                    core.reply_with(offload, bytes);
                }
            }
            self.remove(id);
            return;
        };
        query.server = server;
        let _ = core.host.watch(&socket, Token::Flow(id));
        for open in &query.open {
            let _ = host::send(&socket, open);
        }
        flow.socket = Socket::Own(socket);
        core.set_alarm(&mut flow.alarm, Token::Flow(id), PATIENCE);
    }
}
