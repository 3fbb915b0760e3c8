//! Sockets between the guest and its host, which are Unix sockets here.
//!
//! Programs of the host connect to one socket, and say `CONNECT port` first ([`greeting`]); it is answered by `OK` and the
//! host's port, or by the end. The guest's connections lead to sockets that the starter connects to ([`asking`]): after
//! the jail there is no path.
//!
//! Everything is done by one thread, which waits for all sockets by an epoll of its own within that of the thread.

mod asking;
mod greeting;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{Timespec, epoll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use viv_devices::virtio::Vsock;

use self::asking::Asking;
use self::greeting::{Greeting, Heard};
use self::stream::SocketStream;
use super::reactor::Source;
use crate::config::{Fds, VsockConfig};
use crate::error::MachineError;

/// How many events are taken at a time.
const EVENTS: usize = 64;

/// What can happen to a socket that is listened to, once each time.
const LISTENS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

/// What can happen to a stream, once each time.
const WHAT_HAPPENS: epoll::EventFlags = epoll::EventFlags::IN
    .union(epoll::EventFlags::OUT)
    .union(epoll::EventFlags::RDHUP)
    .union(epoll::EventFlags::ET);

/// A device, and what its thread waits for besides its doorbell.
pub(crate) type Connected = (Arc<Mutex<Vsock>>, Box<dyn Source>);

/// Makes the device, with what its thread waits for besides its doorbell.
pub(crate) fn connect(config: &VsockConfig, fds: &Fds) -> Result<Connected, MachineError> {
    let asking = Asking::new(fds.get(config.connector)?);
    let device = Arc::new(Mutex::new(Vsock::new(config.cid, Box::new(asking.clone()))));
    let sockets = Sockets::new(Arc::clone(&device), fds.get(config.listener)?, asking);
    Ok((device, Box::new(sockets.map_err(MachineError::host("wait for the guest's sockets"))?)))
}

/// What an event is about: the low bits of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Answers,
    Greeting(u64),
    Connection(u64),
}

impl Token {
    fn data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Listener => 0,
            Self::Answers => 1,
            Self::Greeting(number) => number << 2 | 2,
            Self::Connection(number) => number << 2 | 3,
        })
    }

    fn of(data: epoll::EventData) -> Self {
        let number = data.u64();
        match number & 3 {
            0 => Self::Listener,
            1 => Self::Answers,
            2 => Self::Greeting(number >> 2),
            _ => Self::Connection(number >> 2),
        }
    }
}

/// The sockets, as their thread sees them.
struct Sockets {
    device: Arc<Mutex<Vsock>>,
    epoll: OwnedFd,
    listener: OwnedFd,
    asking: Asking,
    greetings: BTreeMap<u64, Greeting>,
    /// The number of the next greeting.
    next: u64,
}

impl Sockets {
    fn new(device: Arc<Mutex<Vsock>>, listener: OwnedFd, asking: Asking) -> io::Result<Self> {
        fcntl_setfl(&listener, fcntl_getfl(&listener)? | OFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, Token::Listener.data(), LISTENS)?;
        epoll::add(&epoll, &asking, Token::Answers.data(), LISTENS)?;
        Ok(Self { device, epoll, listener, asking, greetings: BTreeMap::new(), next: 0 })
    }

    /// Waits for what can happen to a stream. A closed socket is forgotten by itself.
    fn watch(&self, socket: &OwnedFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token.data(), WHAT_HAPPENS)?)
    }

    /// Lets programs of the host in, some at a time. When too many are silent, the one that has been so for longest has to
    /// go.
    fn accept(&mut self) {
        for _ in 0..VsockConfig::GREETINGS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(_) => return,
            };
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            if self.watch(&socket, Token::Greeting(number)).is_ok() {
                if self.greetings.len() >= VsockConfig::GREETINGS {
                    self.greetings.pop_first();
                }
                self.greetings.insert(number, Greeting::new(socket));
            }
        }
        // There may be more, of which this tells anew.
        let _ = epoll::modify(&self.epoll, &self.listener, Token::Listener.data(), LISTENS);
    }

    fn hear(&mut self, number: u64) {
        let Some(greeting) = self.greetings.get_mut(&number) else { return };
        let heard = greeting.hear();
        if heard == Heard::Part {
            return;
        }
        if let (Heard::Port(port), Some(greeting)) = (heard, self.greetings.remove(&number)) {
            self.offer(&greeting.socket, port);
        }
    }

    /// Connects a program of the host to the guest.
    fn offer(&self, socket: &Arc<OwnedFd>, port: u32) {
        let mut device = lock(&self.device);
        let Some(connection) = device.connect(Box::new(SocketStream::new(Arc::clone(socket))), port) else {
            return;
        };
        let data = Token::Connection(connection).data();
        if epoll::modify(&self.epoll, socket, data, WHAT_HAPPENS).is_err() {
            // One that cannot be waited for is as good as gone.
            let _ = shutdown(socket, Shutdown::Both);
            device.process_stream(connection);
        }
    }

    /// Passes the starter's answers on.
    fn take_answers(&self) {
        while let Some((connection, socket)) = self.asking.answer() {
            let socket = socket.map(Arc::new);
            let watched =
                socket.as_ref().filter(|socket| self.watch(socket, Token::Connection(connection)).is_ok());
            let stream = watched.map(|socket| Box::new(SocketStream::new(Arc::clone(socket))) as Box<_>);
            lock(&self.device).answer(connection, stream);
        }
    }
}

impl Source for Sockets {
    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn ready(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let room = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, room, Some(&now)).is_err() {
            return;
        }
        for event in events {
            match Token::of(event.data) {
                Token::Listener => self.accept(),
                Token::Answers => self.take_answers(),
                Token::Greeting(number) => self.hear(number),
                Token::Connection(connection) => lock(&self.device).process_stream(connection),
            }
        }
    }
}

fn lock(device: &Mutex<Vsock>) -> MutexGuard<'_, Vsock> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
