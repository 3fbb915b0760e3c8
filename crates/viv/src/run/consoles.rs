//! Further consoles, in files and on Unix sockets.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use viv_vmm::config::Stream;

use super::socket::SocketFile;
use crate::cli::ConsoleArg;
use crate::failure::Failure;
use crate::session::Plan;

/// How long at the end of the machine a program has for what its guest said last.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it is waited for descriptors when there are none.
const PAUSE: Duration = Duration::from_millis(100);

/// A console on a Unix socket. Dropped, the socket is no more.
#[derive(Debug)]
pub struct Served {
    _file: SocketFile,
    /// Closed when all that the guest said is written.
    written: Receiver<()>,
}

/// Gives the machine the consoles that are asked for.
pub fn open(args: &[ConsoleArg], plan: &mut Plan) -> Result<Vec<Served>, Failure> {
    let mut served = Vec::new();
    for arg in args {
        let option = format!("--console {arg}");
        let failed = |error: io::Error| Failure::of(&option, &error);
        let stream = match arg {
            ConsoleArg::File(path) => {
                let file = File::create(path).map_err(failed)?;
                Stream { input: None, output: Some(plan.fds.add(file)) }
            }
            ConsoleArg::Socket(path) => {
                let (from_user, input) = io::pipe().map_err(failed)?;
                let (output, to_user) = io::pipe().map_err(failed)?;
                let (listener, file) = SocketFile::listen(&option, path)?;
                served.push(serve(listener, file, input, output).map_err(failed)?);
                Stream { input: Some(plan.fds.add(from_user)), output: Some(plan.fds.add(to_user)) }
            }
        };
        plan.config.consoles.push(stream);
    }
    Ok(served)
}

/// Joins a console to whoever connects to a socket, one program at a time.
fn serve(
    listener: UnixListener,
    file: SocketFile,
    input: PipeWriter,
    output: PipeReader,
) -> io::Result<Served> {
    let (end, written) = mpsc::channel();
    let served = Served { _file: file, written };
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
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(error) => {
                tracing::debug!(%error, "nobody can connect to a console");
                thread::sleep(PAUSE);
                continue;
            }
        };
        if let Some(former) = user.lock().replace(Arc::clone(&stream)) {
            // It may be what the guest is held back by. One that is gone already is what is wanted.
            let _ = former.shutdown(Shutdown::Both);
        }
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

impl Served {
    /// Waits until what the guest said is written, when its machine is no more.
    pub fn finish(&self) {
        // Nothing is ever sent: it ends with the thread, or with the patience.
        let _ = self.written.recv_timeout(PATIENCE);
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
        let (listener, file) = SocketFile::listen("--console x", &path).unwrap();
        let served = serve(listener, file, input, output).unwrap();
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
        served.finish();
        drop(served);
        let mut said = String::new();
        last.read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), path.exists()), ("bye", false));
    }
}
