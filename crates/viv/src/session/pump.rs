//! Threads that carry bytes between this process's own streams and the pipes to the VM process.
//!
//! One blocking thread per direction: a standard stream may be anything, and its flags are shared with other
//! processes, so it cannot be made non-blocking. A thread that hangs in a stream nobody reads ends with the
//! process.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use super::Event;
use crate::escape::Escape;

/// Bytes carried at a time.
const CHUNK: usize = 64 << 10;

/// Where the guest's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// This process's standard output.
    Stdout,
    /// This process's standard error.
    Stderr,
}

impl Sink {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
        }
    }
}

/// Carries standard input to the guest, up to its end, which closes `to_guest`.
///
/// With `keyboard`, standard input is a raw terminal: the escape is looked for, and an end of input is the
/// terminal's hangup.
pub fn input(mut to_guest: PipeWriter, keyboard: bool, events: SyncSender<Event>) -> io::Result<()> {
    let carry = move || {
        let mut escape = Escape::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let typed = match read(rustix::stdio::stdin(), &mut chunk) {
                // The end; and what a terminal that was hung up answers, or what is not open for reading.
                Ok(0) | Err(Errno::IO | Errno::BADF) => break,
                Ok(count) => &chunk[..count],
                Err(error) => {
                    let _ = events.send(Event::InputFailed(error.into()));
                    return;
                }
            };
            let escaped = if keyboard { escape.feed(typed, Instant::now()) } else { None };
            if escaped.is_some() && events.send(Event::Escape).is_err() {
                return;
            }
            // What is typed behind the escape is not meant for the guest any more.
            let typed = &typed[..escaped.unwrap_or(typed.len())];
            if to_guest.write_all(typed).is_err() {
                // The VM process has closed this stream; why is for its own messages to tell.
                return;
            }
        }
        if keyboard {
            let _ = events.send(Event::TerminalClosed);
        }
    };
    thread::Builder::new().name("input".into()).spawn(carry).map(drop)
}

/// Carries what the guest says to `sink`, up to its end, and tells when that was reached.
pub fn output(mut from_guest: PipeReader, sink: Sink, events: SyncSender<Event>) -> io::Result<()> {
    let carry = move || {
        let mut chunk = vec![0; CHUNK];
        let done = loop {
            let said = match from_guest.read(&mut chunk) {
                Ok(0) => break Ok(()),
                Ok(count) => &chunk[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            if let Err(error) = write_all(sink.fd(), said) {
                break Err(error.into());
            }
        };
        // Closed before the event: the guest's program may sleep in a write to it.
        drop(from_guest);
        let _ = events.send(Event::OutputDone(sink, done));
    };
    thread::Builder::new().name("output".into()).spawn(carry).map(drop)
}

/// Reads, waiting for something to come even if the stream was made non-blocking by another process.
fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
            Err(Errno::AGAIN) => wait(fd, PollFlags::IN)?,
            other => return other,
        }
    }
}

/// Writes all of `bytes`, waiting for room even if the stream was made non-blocking by another process.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(fd, bytes)) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Errno> {
    retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)], None)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_stream_made_non_blocking_by_others_still_carries_everything() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let sent: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
        let reader = {
            let length = sent.len();
            theirs.set_nonblocking(true).expect("non-blocking");
            thread::spawn(move || {
                let mut got = Vec::new();
                let mut chunk = [0; 4096];
                while got.len() < length {
                    let count = read(theirs.as_fd(), &mut chunk).expect("read");
                    got.extend_from_slice(&chunk[..count]);
                }
                got
            })
        };
        write_all(ours.as_fd(), &sent).expect("write");
        assert_eq!(reader.join().expect("reader"), sent);
    }

    #[test]
    fn a_closed_reader_is_told_as_such() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        drop(theirs);
        assert_eq!(write_all(ours.as_fd(), b"x"), Err(Errno::PIPE));
    }
}
