//! Standard streams: between the program's pipes and the host's ports.
//!
//! The program gets pipes, not the ports themselves. A port can be opened once, so `echo > /dev/stderr`
//! would fail on it, and one whose host end has closed blocks its writers instead of breaking their pipe.

use std::io::{self, Read, Write};
use std::sync::mpsc::Sender;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::port::Port;
use crate::supervise::Event;

/// Bytes moved at a time; the driver takes no more in one write.
const PIECE: usize = 32 * 1024;

/// Carries what the host sends to the program, until either end closes.
pub(crate) fn input(port: Port, mut pipe: impl Write + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = vec![0; PIECE];
        // Dropping the pipe at the end is the program's end of file. A program that has closed its input
        // shows as an error on the next write; nobody wants the rest.
        while let Ok(count @ 1..) = port.read(&mut buffer) {
            if pipe.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Carries what the program writes to the host until the last writer is gone, then says so. If the host
/// closes its end first the pipe is closed, and writers find it broken.
pub(crate) fn output(
    name: &str,
    mut pipe: impl Read + std::os::fd::AsFd + Send + 'static,
    port: Port,
    done: Sender<Event>,
) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(move || {
        let mut buffer = vec![0; PIECE];
        while wait_for_data(&pipe, &port)
            && let Ok(count @ 1..) = pipe.read(&mut buffer)
            && port.write_all(buffer.get(..count).unwrap_or_default()).is_ok()
        {}
        drop(pipe);
        // The supervisor outlives its pumps.
        let _ = done.send(Event::OutputDone);
    })?;
    Ok(())
}

/// Waits for data or the end of it in the pipe; `false` if the host closed its end meanwhile.
fn wait_for_data(pipe: &impl std::os::fd::AsFd, port: &Port) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN), PollFd::new(port, PollFlags::empty())];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return !fds[1].revents().contains(PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
