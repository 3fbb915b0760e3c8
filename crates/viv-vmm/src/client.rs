//! The starter's side: a VM process as a child.
//!
//! The child finds the control socket as its standard input. Nothing else is inherited but standard error,
//! for what it says before the socket speaks; the config's descriptors travel over the socket, so that they
//! cannot leak into other children.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::channel::{self, ChannelError, LineReader};
use crate::config::{Fds, MachineConfig};
use crate::process::Confinement;
use crate::protocol::{Message, Request, RequestLine, VERSION};

/// How a VM process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments: those that make it call [`process::main`](crate::process::main) with its standard input, or
    /// [`process::check_jail`](crate::process::check_jail).
    pub arguments: Vec<OsString>,
}

impl Launch {
    /// This very program, with the arguments `vmm --jail=on` or `off`.
    ///
    /// The path is the kernel's link to the running program, so that one replaced on disk meanwhile still
    /// starts its own version.
    #[must_use]
    pub fn this_program(confinement: Confinement) -> Self {
        let jail = match confinement {
            Confinement::Jail => "--jail=on",
            Confinement::None => "--jail=off",
        };
        Self { program: "/proc/self/exe".into(), arguments: vec!["vmm".into(), jail.into()] }
    }

    /// This very program, with the arguments `vmm --check-jail`.
    #[must_use]
    pub fn check_jail() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["vmm".into(), "--check-jail".into()] }
    }
}

/// How long a VM process may leave its requests unread, once there is no room for more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a VM process cannot be started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The process does not start.
    #[error("cannot start the VM process {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// The socket pair cannot be made.
    #[error("cannot make the control socket")]
    Socket(#[source] io::Error),
    /// The conversation failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// A VM process that was started. When it is dropped the control socket closes (unless a [`Controller`] is
/// left), by which the VM process stops its guest and ends; [`VmProcess::wait`] also collects its status.
#[derive(Debug)]
pub struct VmProcess {
    child: Child,
    controller: Controller,
    reader: LineReader,
}

/// Sends requests to a VM process. Clones share the socket; any thread may send.
#[derive(Debug, Clone)]
pub struct Controller {
    shared: Arc<ControllerShared>,
}

#[derive(Debug)]
struct ControllerShared {
    socket: UnixStream,
    next_id: AtomicU64,
    /// Held while a line is written, so that lines do not mix.
    writing: Mutex<()>,
}

impl Controller {
    /// Sends a request and returns its id; the reply comes out of [`VmProcess::next_message`].
    ///
    /// # Errors
    /// When the VM process is gone, or has not read what was sent before for a long time. Nothing can be sent after that.
    pub fn send(&self, request: Request) -> Result<u64, ClientError> {
        self.send_with(request, &[])
    }

    /// Sends a request for which the VM process needs an open file.
    ///
    /// # Errors
    /// As for [`Controller::send`].
    pub fn send_with_file(&self, request: Request, file: impl Into<OwnedFd>) -> Result<u64, ClientError> {
        self.send_with(request, &[file.into()])
    }

    fn send_with(&self, request: Request, fds: &[OwnedFd]) -> Result<u64, ClientError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let _one_at_a_time = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        channel::send_line(self.shared.socket.as_fd(), &RequestLine { id, request }, fds)?;
        Ok(id)
    }
}

/// Starts a VM process and sends it [`Request::Create`], as request 0. `fds` are closed here.
///
/// # Errors
/// When the process does not start. What is wrong with the config comes as the reply.
pub fn spawn(launch: &Launch, config: MachineConfig, fds: Fds) -> Result<VmProcess, ClientError> {
    let (ours, theirs) = UnixStream::pair().map_err(ClientError::Socket)?;
    ours.set_write_timeout(Some(PATIENCE)).map_err(ClientError::Socket)?;
    let child = Command::new(&launch.program)
        .args(&launch.arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        // What a terminal sends to everyone in front of it is the starter's to act on, from the first moment.
        .process_group(0)
        .spawn()
        .map_err(|source| ClientError::Spawn { program: launch.program.clone(), source })?;
    let shared = ControllerShared { socket: ours, next_id: AtomicU64::new(0), writing: Mutex::new(()) };
    let process = VmProcess {
        child,
        controller: Controller { shared: Arc::new(shared) },
        reader: LineReader::without_descriptors(),
    };
    let create = Request::Create { version: VERSION, config: Box::new(config) };
    process.controller.send_with(create, fds.as_slice())?;
    drop(fds);
    Ok(process)
}

impl VmProcess {
    /// The sending side.
    #[must_use]
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next message. `None` once the VM process has closed the socket, which without an
    /// [`Event::Ended`](crate::protocol::Event::Ended) before means that it died.
    ///
    /// # Errors
    /// When what comes is not the protocol.
    pub fn next_message(&mut self) -> Result<Option<Message>, ClientError> {
        Ok(self.reader.wait(self.controller.shared.socket.as_fd())?)
    }

    /// Closes the control socket for all controllers, waits for the process to end, and says how.
    ///
    /// # Errors
    /// When the host does not say.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        // One that is closed already is what is wanted.
        let _ = self.controller.shared.socket.shutdown(std::net::Shutdown::Write);
        self.child.wait()
    }

    /// Ends the process at once, whatever it is doing.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }
}
