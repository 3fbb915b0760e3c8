//! The VM process: one machine, driven over its control socket.
//!
//! One thread waits for requests, for what the machine cannot decide by itself, for the streams to be written
//! out at the end, and for SIGTERM. The process outlives neither its machine nor its starter.

mod files;
mod outgoing;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use rustix::net::SendFlags;
use signal_hook::consts::SIGTERM;

use self::server::Server;
use crate::channel;
use crate::engine;
use crate::protocol::{End, Event, Message};

/// The exit status after a panic, which Rust uses for it as well.
const PANICKED: i32 = 101;

/// Runs the VM process to its end: takes requests from `control`, builds the machine, runs it.
///
/// To be called once, on the main thread of a process that does nothing else: it takes over signals and
/// panics. Never leaves a machine behind: when it returns, everything is stopped.
#[must_use]
pub fn main(control: OwnedFd) -> ExitCode {
    // The name of the file that was executed says nothing where that is a link in /proc. It is for people only.
    let _ = rustix::thread::set_name(c"viv-vmm");
    let served = end_on_panic(&control)
        .and_then(|()| follow_signals())
        .map(|terminate| Server::new(control, terminate, &engine::make).run());
    match served {
        Ok(end) => ExitCode::from(end.exit_code()),
        Err(error) => {
            tracing::error!(%error, "the VM process cannot begin");
            ExitCode::FAILURE
        }
    }
}

/// A stream that becomes readable on SIGTERM.
fn follow_signals() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, theirs)?;
    Ok(ours)
}

/// Makes a panic in any thread end the process, with a last message to the starter: a machine that lacks a
/// thread must not go on, and nobody waits for one that hangs.
fn end_on_panic(control: &OwnedFd) -> io::Result<()> {
    let control = control.try_clone()?;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        usual(panic);
        let message = format!("the VM process has a fault and cannot go on: {panic}").replace('\n', " ");
        let last = Message::Event(Event::Ended(End::Failed { message }));
        if let Ok(line) = channel::encode(&last) {
            // There is nobody left to tell if this fails.
            let _ = channel::send(control.as_fd(), &line, &[], SendFlags::DONTWAIT);
        }
        std::process::exit(PANICKED);
    }));
    Ok(())
}
