//! The VM process: one machine, driven over its control socket.
//!
//! One thread waits for requests, for what the machine cannot decide by itself, for the streams to be written
//! out at the end, and for SIGTERM. The process outlives neither its machine nor its starter.
//!
//! It is two processes: the one with the machine is in a jail before the guest's first instruction, and the one that was
//! started waits for it and tells if it died. What the config names is opened before ([`Opened`](crate::machine::Opened)).

mod check;
mod files;
mod outgoing;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::net::SendFlags;
use signal_hook::consts::{SIGTERM, SIGXFSZ};
use viv_jail::{Fate, Forked, Supervisor};

pub use self::check::{check_jail, jail_lacks};

use self::server::Server;
use crate::channel;
use crate::engine;
use crate::protocol::{End, Event, Message};

/// The exit status after a panic, which Rust uses for it as well.
const PANICKED: i32 = 101;

/// Whether a VM process goes to jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// It does: what a guest makes of it reaches nothing but what is open.
    Jail,
    /// It does not, for those who look into it with a debugger. A guest that takes it over has all that its user has.
    None,
}

/// Runs the VM process to its end: takes requests from `control`, builds the machine, runs it.
///
/// To be called once, on the main thread of a process that does nothing else and has no other thread: it takes over signals,
/// panics and descriptors, and with a jail it splits the process in two. Never leaves a machine behind: when it returns,
/// everything is stopped.
#[must_use]
pub fn main(control: OwnedFd, confinement: Confinement) -> ExitCode {
    // The name of the file that was executed says nothing where that is a link in /proc. It is for people only.
    let _ = rustix::thread::set_name(c"viv-vmm");
    match serve_or_wait(control, confinement) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(%error, "the VM process cannot begin");
            ExitCode::FAILURE
        }
    }
}

fn serve_or_wait(control: OwnedFd, confinement: Confinement) -> io::Result<ExitCode> {
    viv_jail::close_others(&[control.as_fd()]);
    // Both processes are told of SIGTERM by the same stream, of which the one in the jail has the end to read.
    let terminate = follow_signals()?;
    let inmate = match confinement {
        Confinement::None => None,
        Confinement::Jail => match viv_jail::fork()? {
            Forked::Inmate(inmate) => Some(inmate),
            Forked::Supervisor(supervisor) => return supervise(supervisor, &control),
        },
    };
    end_on_panic(&control, confinement)?;
    let end = Server::new(control, terminate, &engine::make, inmate).run();
    Ok(ExitCode::from(end.exit_code()))
}

/// Waits for the process in the jail, and tells the starter if it died.
fn supervise(supervisor: Supervisor, control: &OwnedFd) -> io::Result<ExitCode> {
    match supervisor.wait()? {
        Fate::Exited(code) => Ok(ExitCode::from(code)),
        Fate::Died(why) => {
            tell_last(control.as_fd(), format!("the VM process died: {why}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A stream that becomes readable on SIGTERM. A write past the limit on files is to fail, and no more than that.
fn follow_signals() -> io::Result<UnixStream> {
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let (ours, theirs) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, theirs)?;
    Ok(ours)
}

/// Makes a panic in any thread end the process, with a last message to the starter: a machine that lacks a
/// thread must not go on, and nobody waits for one that hangs.
fn end_on_panic(control: &OwnedFd, confinement: Confinement) -> io::Result<()> {
    let control = control.try_clone()?;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        match confinement {
            // The usual one reads the program's file for a backtrace.
            Confinement::Jail => tracing::error!("{panic}"),
            Confinement::None => usual(panic),
        }
        let message = format!("the VM process has a fault and cannot go on: {panic}").replace('\n', " ");
        tell_last(control.as_fd(), message);
        std::process::exit(PANICKED);
    }));
    Ok(())
}

/// Tells the starter why the machine is over, as the last message.
fn tell_last(control: BorrowedFd<'_>, message: String) {
    let last = Message::Event(Event::Ended(End::Failed { message }));
    if let Ok(line) = channel::encode(&last) {
        // There is nobody left to tell if this fails.
        let _ = channel::send(control, &line, &[], SendFlags::DONTWAIT);
    }
}
