//! Connections to the host's Unix sockets, made for a VM process that cannot reach them.
//!
//! A guest's connection to port P of the host leads to the socket `PATH_P`. Its VM process is in a jail, where there is no
//! path, and must not be let out by a directory that is left open to it: from there `..` leads everywhere. So the starter
//! connects. It is asked over a socket of its own, by messages of a port each ([`ask`]), and answers them in their order:
//! a message, and with it the connection if there is one ([`answer`]). It can be asked for nothing else than the guest can.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Bytes of a request: a port.
const REQUEST: usize = 4;
/// An answer, for an empty message would be the end. What it says is whether there is a descriptor with it.
const ANSWER: [u8; 1] = [0];
/// How long a listener may let a connection wait. A guest waits for two seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket at which a port of the host's is expected.
#[must_use]
pub fn socket_of(path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("_{port}"));
    name.into()
}

/// Starts to connect the guest of a VM process to sockets at [`socket_of`] `path`. What is returned goes to that process,
/// beside its config; with it the thread that connects ends.
///
/// # Errors
/// When the host gives no sockets or no thread.
pub fn start(path: PathBuf) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    thread::Builder::new().name("connector".into()).spawn(move || serve(ours.as_fd(), &path))?;
    Ok(theirs)
}

/// Answers until nobody asks any more.
fn serve(socket: BorrowedFd<'_>, path: &Path) {
    let mut request = [0; REQUEST];
    while let Ok((REQUEST, _)) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut request, RecvFlags::empty()))
    {
        let connection = connect(&socket_of(path, u32::from_le_bytes(request))).and_then(|connection| {
            rustix::io::ioctl_fionbio(&connection, true)?;
            Ok(connection)
        });
        if let Err(error) = &connection {
            tracing::debug!(%error, port = u32::from_le_bytes(request), "the guest is refused");
        }
        if send_answer(socket, connection.ok().as_ref()).is_err() {
            return;
        }
    }
}

/// A connection to a Unix socket whose listener does not let it wait for long.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It is what a full backlog is waited for.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

fn send_answer(socket: BorrowedFd<'_>, connection: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = connection.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = || rustix::net::sendmsg(socket, &[IoSlice::new(&ANSWER)], &mut control, SendFlags::NOSIGNAL);
    rustix::io::retry_on_intr(sent)?;
    Ok(())
}

/// Asks for a connection to a port. An error of [`io::ErrorKind::WouldBlock`] says to ask again after an answer.
pub(crate) fn ask(socket: BorrowedFd<'_>, port: u32) -> io::Result<()> {
    rustix::net::send(socket, &port.to_le_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next answer: a connection, or that there is none. An error of [`io::ErrorKind::WouldBlock`] says that it has not
/// come yet.
pub(crate) fn answer(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut said = ANSWER;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut said)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fds = control.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // A descriptor for which this process has no room is lost: then there is no connection either.
    Ok(fds.flatten().last())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn wait(socket: &OwnedFd) -> Option<OwnedFd> {
        poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
        answer(socket.as_fd()).unwrap()
    }

    #[test]
    fn ports_lead_to_sockets_beside_the_path_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        let listener = UnixListener::bind(socket_of(&path, 52)).unwrap();
        let connector = start(path).unwrap();
        assert_eq!(answer(connector.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for port in [7, 52, u32::MAX] {
            ask(connector.as_fd(), port).unwrap();
        }
        assert!(wait(&connector).is_none());
        let mut ours = UnixStream::from(wait(&connector).unwrap());
        assert!(wait(&connector).is_none());

        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(b"hello").unwrap();
        let mut said = [0; 5];
        ours.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        assert_eq!(ours.read(&mut said).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
