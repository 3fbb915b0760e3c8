//! Further consoles, in files and on Unix sockets.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use viv_vmm::config::Stream;

use crate::cli::ConsoleArg;
use crate::failure::Failure;
use crate::session::Plan;

/// How long at the end of the machine a program has for what its guest said last.
const PATIENCE: Duration = Duration::from_secs(1);

/// A console on a Unix socket. Dropped, it has written what the guest said, and the socket is no more.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    /// Closed when all that the guest said is written.
    written: Receiver<()>,
}

/// Gives the machine the consoles that are asked for.
pub fn open(args: &[ConsoleArg], plan: &mut Plan) -> Result<Vec<Served>, Failure> {
    let mut served = Vec::new();
    for arg in args {
        let failed = |error: io::Error| {
            let failure = Failure::of(format!("--console {arg}"), &error);
            match (arg, error.kind()) {
                (ConsoleArg::Socket(_), io::ErrorKind::AddrInUse) => {
                    failure.remedy("remove it, or give another path")
                }
                _ => failure,
            }
        };
        let stream = match arg {
            ConsoleArg::File(path) => {
                let file = File::create(path).map_err(failed)?;
                Stream { input: None, output: Some(plan.fds.add(file)) }
            }
            ConsoleArg::Socket(path) => {
                let (from_user, input) = io::pipe().map_err(failed)?;
                let (output, to_user) = io::pipe().map_err(failed)?;
                served.push(serve(path.clone(), input, output).map_err(failed)?);
                Stream { input: Some(plan.fds.add(from_user)), output: Some(plan.fds.add(to_user)) }
            }
        };
        plan.config.consoles.push(stream);
    }
    Ok(served)
}

/// Joins a console to whoever connects to a socket, one program at a time.
fn serve(path: PathBuf, input: PipeWriter, output: PipeReader) -> io::Result<Served> {
    let path = std::path::absolute(path)?;
    let listener = UnixListener::bind(&path)?;
    let (end, written) = mpsc::channel();
    let served = Served { path, written };
    let user = Arc::<User>::default();
    let theirs = Arc::clone(&user);
    thread::Builder::new().name("console-in".into()).spawn(move || take_input(&listener, input, &theirs))?;
    thread::Builder::new().name("console-out".into()).spawn(move || {
        give_output(output, &user);
        drop(end);
    })?;
    Ok(served)
}

/// Who is connected to a console.
#[derive(Default)]
struct User(Mutex<Option<Arc<UnixStream>>>);

impl User {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on what users type, one user after the other.
fn take_input(listener: &UnixListener, mut input: PipeWriter, user: &User) {
    while let Ok((stream, _)) = listener.accept() {
        let stream = Arc::new(stream);
        *user.lock() = Some(Arc::clone(&stream));
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = (&*stream).read(&mut bytes) {
            let Some(typed) = bytes.get(..count) else { break };
            if input.write_all(typed).is_err() {
                return;
            }
        }
        // Who types no more goes on reading, until somebody else comes or the writing fails.
    }
}

/// Passes on what the guest says. While nobody is connected it is lost, as on a serial line that ends in nothing; a user
/// that does not read holds the guest back.
fn give_output(mut output: PipeReader, user: &User) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut bytes) {
        let Some(stream) = user.lock().clone() else { continue };
        if (&*stream).write_all(bytes.get(..count).unwrap_or_default()).is_err() {
            user.lock().take_if(|known| Arc::ptr_eq(known, &stream));
        }
    }
    if let Some(stream) = &*user.lock() {
        // One that is gone already is what is wanted.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Nothing is ever sent: it ends with the thread, or with the patience.
        let _ = self.written.recv_timeout(PATIENCE);
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_one_after_the_other_and_get_what_is_said_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let (mut from_user, input) = io::pipe().unwrap();
        let (output, mut to_user) = io::pipe().unwrap();
        let served = serve(path.clone(), input, output).unwrap();
        let mut byte = [0];
        for name in [b'a', b'b'] {
            let mut user = UnixStream::connect(&path).unwrap();
            user.write_all(&[name]).unwrap();
            from_user.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [name]);
            // What has come from it says that it is there.
            to_user.write_all(&[name + 1]).unwrap();
            user.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [name + 1]);
        }
        let mut last = UnixStream::connect(&path).unwrap();
        last.write_all(b"c").unwrap();
        from_user.read_exact(&mut byte).unwrap();
        to_user.write_all(b"bye").unwrap();
        drop(to_user);
        drop(served);
        let mut said = String::new();
        last.read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), path.exists()), ("bye", false));
    }
}
