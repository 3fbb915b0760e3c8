//! Lines of JSON, with descriptors beside them, over a stream socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Fds;
use crate::protocol::MAX_LINE;

/// Why a line cannot be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("the control socket failed while {action}")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// A line is longer than the protocol allows.
    #[error("a control message is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The other side has gone in the middle of a line.
    #[error("the control socket was closed in the middle of a message")]
    Truncated,
    /// A line is not what the protocol says.
    #[error("a control message is not understood")]
    Malformed(#[source] serde_json::Error),
    /// More descriptors than the protocol allows.
    #[error("more descriptors came with a control message than the protocol allows")]
    TooManyFds,
    /// A value cannot be put into JSON: a path that is not UTF-8.
    #[error("a control message cannot be written; are all paths UTF-8?")]
    Encode(#[source] serde_json::Error),
}

/// `value` as a line.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, ChannelError> {
    let mut line = serde_json::to_vec(value).map_err(ChannelError::Encode)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(ChannelError::TooLong) } else { Ok(line) }
}

/// Sends some of `bytes`, and all of `fds` with the first of them; waits for room unless `flags` say otherwise.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[OwnedFd],
    flags: SendFlags,
) -> io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Fds::MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))
        .map_err(Into::into)
}

/// Sends a whole line, waiting for room.
pub(crate) fn send_line(
    socket: BorrowedFd<'_>,
    value: &impl Serialize,
    fds: &[OwnedFd],
) -> Result<(), ChannelError> {
    let line = encode(value)?;
    let mut rest = line.as_slice();
    let mut fds = fds;
    while !rest.is_empty() {
        let sent = send(socket, rest, fds, SendFlags::empty())
            .map_err(|source| ChannelError::Socket { action: "sending", source })?;
        rest = rest.get(sent..).unwrap_or_default();
        fds = &[];
    }
    Ok(())
}

/// The receiving end: collects bytes into lines.
#[derive(Debug)]
pub(crate) struct LineReader {
    buffer: Vec<u8>,
    /// How much of `buffer` was searched for a newline.
    searched: usize,
    fds: Vec<OwnedFd>,
    /// How many descriptors may come before they are taken.
    most_fds: usize,
}

impl Default for LineReader {
    fn default() -> Self {
        Self { buffer: Vec::new(), searched: 0, fds: Vec::new(), most_fds: Fds::MAX }
    }
}

/// What [`LineReader::fill`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Something came.
    Some,
    /// Nothing is there now.
    WouldBlock,
    /// The other side has closed.
    End,
}

impl LineReader {
    /// One for lines with no descriptors beside them.
    pub(crate) fn without_descriptors() -> Self {
        Self { most_fds: 0, ..Self::default() }
    }

    /// Receives once, waiting unless `flags` say otherwise.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Filled, ChannelError> {
        let mut bytes = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Fds::MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags | RecvFlags::CMSG_CLOEXEC,
            )
        });
        let message = match received {
            Ok(message) => message,
            Err(rustix::io::Errno::AGAIN) => return Ok(Filled::WouldBlock),
            // A peer that died with unread bytes resets the connection: it is gone all the same.
            Err(rustix::io::Errno::CONNRESET) => return Ok(Filled::End),
            Err(errno) => {
                return Err(ChannelError::Socket { action: "receiving", source: errno.into() });
            }
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > self.most_fds {
            return Err(ChannelError::TooManyFds);
        }
        if message.bytes == 0 {
            return Ok(Filled::End);
        }
        self.buffer.extend_from_slice(bytes.get(..message.bytes).unwrap_or_default());
        Ok(Filled::Some)
    }

    /// The next whole line that has come, decoded.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        let unseen = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(found) = unseen.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.buffer.len() >= MAX_LINE { Err(ChannelError::TooLong) } else { Ok(None) };
        };
        let end = self.searched + found + 1;
        self.searched = 0;
        if end > MAX_LINE {
            return Err(ChannelError::TooLong);
        }
        let line: Vec<u8> = self.buffer.drain(..end).collect();
        serde_json::from_slice(&line).map(Some).map_err(ChannelError::Malformed)
    }

    /// Waits for the next line; `None` once the other side has closed.
    pub(crate) fn wait<T: DeserializeOwned>(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<T>, ChannelError> {
        loop {
            if let Some(value) = self.take()? {
                return Ok(Some(value));
            }
            if self.fill(socket, RecvFlags::empty())? == Filled::End {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ChannelError::Truncated) };
            }
        }
    }

    /// The descriptor that has come first and was not taken yet.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        (!self.fds.is_empty()).then(|| self.fds.remove(0))
    }

    /// The descriptors that have come so far.
    pub(crate) fn take_fds(&mut self) -> Fds {
        std::mem::take(&mut self.fds).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lines_and_descriptors_arrive_together() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send_line(a.as_fd(), &"one", &[write]).unwrap();
        send_line(a.as_fd(), &"two", &[]).unwrap();
        drop(a);
        let mut reader = LineReader::default();
        assert_eq!(reader.wait::<String>(b.as_fd()).unwrap().as_deref(), Some("one"));
        let fds = reader.take_fds();
        rustix::io::write(&fds.as_slice()[0], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 1);
        assert_eq!(reader.wait::<String>(b.as_fd()).unwrap().as_deref(), Some("two"));
        assert_eq!(reader.wait::<String>(b.as_fd()).unwrap(), None);
    }

    #[test]
    fn descriptors_are_refused_where_none_are_due() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send_line(a.as_fd(), &"one", &[write]).unwrap();
        let mut reader = LineReader::without_descriptors();
        assert!(matches!(reader.wait::<String>(b.as_fd()), Err(ChannelError::TooManyFds)));
        drop(reader);
        assert_eq!(rustix::io::read(&read, &mut [0]).unwrap(), 0, "it is closed");
    }

    #[test]
    fn endless_lines_and_half_lines_are_refused() {
        let mut reader = LineReader { buffer: vec![b' '; MAX_LINE], ..LineReader::default() };
        assert!(matches!(reader.take::<String>(), Err(ChannelError::TooLong)));

        let (a, b) = UnixStream::pair().unwrap();
        rustix::io::write(&a, b"\"half").unwrap();
        drop(a);
        let mut reader = LineReader::default();
        assert!(matches!(reader.wait::<String>(b.as_fd()), Err(ChannelError::Truncated)));

        let mut reader = LineReader { buffer: b"{]\n".to_vec(), ..LineReader::default() };
        assert!(matches!(reader.take::<String>(), Err(ChannelError::Malformed(_))));
        let huge = "x".repeat(MAX_LINE);
        assert!(matches!(encode(&huge), Err(ChannelError::TooLong)));
    }
}
