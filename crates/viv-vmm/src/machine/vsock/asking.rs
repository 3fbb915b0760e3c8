//! Asking the starter for connections, with few questions under way at a time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::VsockHost;

use crate::connector;

/// How many questions are under way: fewer than a socket holds.
const UNDER_WAY: usize = 16;

/// The way to the starter. Clones share it.
#[derive(Clone)]
pub(super) struct Asking {
    socket: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Connections for which nobody was asked yet, each with its port: as many as the device has at the most.
    waiting: VecDeque<(u64, u32)>,
    /// Those whose answers are to come, in the order in which they will.
    asked: VecDeque<u64>,
    /// Nobody answers any more.
    ended: bool,
}

impl Asking {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Arc::new(socket), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next answer that has come: for which connection, and what it is.
    pub(super) fn answer(&self) -> Option<(u64, Option<OwnedFd>)> {
        let mut state = self.state();
        let answer = if state.ended { Ok(None) } else { connector::answer(self.as_fd()) };
        let stream = match answer {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => {
                state.ended = true;
                None
            }
        };
        let connection = state.asked.pop_front();
        self.ask(&mut state);
        connection.map(|connection| (connection, stream))
    }

    /// Asks as much as may be.
    fn ask(&self, state: &mut State) {
        while state.asked.len() < UNDER_WAY
            && let Some((connection, port)) = state.waiting.pop_front()
        {
            if !state.ended && connector::ask(self.as_fd(), port).is_err() {
                if !state.asked.is_empty() {
                    // Once more after the next answer.
                    return state.waiting.push_front((connection, port));
                }
                state.ended = true;
            }
            state.asked.push_back(connection);
        }
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.socket).as_fd()
    }
}

impl VsockHost for Asking {
    fn connect(&mut self, connection: u64, port: u32) -> bool {
        let mut state = self.state();
        if state.ended {
            return false;
        }
        state.waiting.push_back((connection, port));
        self.ask(&mut state);
        if state.ended {
            state.asked.retain(|asked| *asked != connection);
        }
        !state.ended
    }

    fn forget(&mut self, connection: u64) {
        self.state().waiting.retain(|(waiting, _)| *waiting != connection);
    }
}
