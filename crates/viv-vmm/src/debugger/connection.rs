//! The connection to a debugger: a stream socket, of whatever kind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use gdbstub::conn::Connection;
use rustix::net::sockopt::{Timeout, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

/// How long a debugger may take to read an answer, while the machine's owner waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the next connection of `listener`.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<Stream> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    // Packets are small and each is waited for. Other kinds of socket do not know of it.
    let _ = set_tcp_nodelay(&socket, true);
    Ok(Stream { socket: Arc::new(socket), unsent: Vec::new() })
}

/// One end of the connection. Clones are the same end, with what they have not sent yet apart.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    socket: Arc<OwnedFd>,
    unsent: Vec<u8>,
}

impl Stream {
    /// Readable when the debugger has said something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What the debugger has said: `None` if there is nothing yet, an error at the connection's end.
    pub(super) fn receive<'a>(&self, room: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match rustix::net::recv(&self.socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((count, _)) => Ok(room.get(..count)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Connection for Stream {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.unsent.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        let mut rest = unsent.as_slice();
        while !rest.is_empty() {
            let sent =
                rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL))?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}
