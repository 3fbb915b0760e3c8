//! Devices whose work another process does, by vhost-user: what each's own thread waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll;
use viv_devices::virtio::{VhostUser, VhostUserKind};
use viv_vhost::{BackEnd, PATIENCE};

use super::core::{Core, Notice};
use super::reactor::Source;
use crate::connector;
use crate::error::MachineError;

/// A socket at whose other end there is a back end.
pub(crate) struct BackEndSocket {
    socket: UnixStream,
    /// Where it is, for messages.
    name: String,
}

impl BackEndSocket {
    /// Connects to the back end that listens at `path`.
    pub(crate) fn connect(path: &Path) -> Result<Self, MachineError> {
        let socket = connector::connect(path).map_err(|source| MachineError::Open {
            what: "back end's socket",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::connected(socket, path.display().to_string()))
    }

    /// One that is connected to a back end for this.
    pub(crate) fn connected(socket: OwnedFd, name: String) -> Self {
        Self { socket: socket.into(), name }
    }
}

/// A device, with what its thread waits for besides its doorbell.
pub(crate) struct BackEndThread {
    pub(crate) device: BackEndDevice,
    pub(crate) sources: Vec<Box<dyn Source>>,
}

/// A device whose work another process does. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct BackEndDevice(Arc<Mutex<VhostUser>>);

impl BackEndThread {
    /// A device of this kind.
    pub(crate) fn new(
        kind: VhostUserKind,
        BackEndSocket { socket, name }: BackEndSocket,
        core: &Arc<Core>,
    ) -> Result<Self, MachineError> {
        let failed = |source| MachineError::BackEnd { name: name.clone(), source };
        let back_end = BackEnd::connect(socket, VhostUser::MAX_QUEUES, PATIENCE).map_err(failed)?;
        let device = VhostUser::new(kind, back_end).map_err(failed)?;
        let (called, socket) = (Box::new(device.called()), device.hang_up().map_err(failed)?);
        let device = BackEndDevice(Arc::new(Mutex::new(device)));
        let core = Arc::clone(core);
        let called = Called { device: device.clone(), called };
        let hang_up = HangUp { device: device.clone(), socket, name, core };
        Ok(Self { device, sources: vec![Box::new(called), Box::new(hang_up)] })
    }
}

impl BackEndDevice {
    /// The device, for its function.
    pub(crate) fn device(&self) -> Arc<Mutex<VhostUser>> {
        Arc::clone(&self.0)
    }

    /// Has the back end leave guest memory alone.
    pub(crate) fn rest(&self) {
        self.lock().rest();
    }

    /// Has it work again.
    pub(crate) fn go_on(&self) {
        self.lock().go_on();
    }

    fn lock(&self) -> MutexGuard<'_, VhostUser> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the back end has used.
struct Called {
    device: BackEndDevice,
    called: Box<dyn AsFd + Send>,
}

impl Source for Called {
    fn fd(&self) -> BorrowedFd<'_> {
        self.called.as_fd()
    }

    /// The counter is the other side's as well, and stays as it is.
    fn events(&self) -> epoll::EventFlags {
        epoll::EventFlags::IN | epoll::EventFlags::ET
    }

    fn ready(&mut self) {
        self.device.lock().process_called();
    }
}

/// The end of the conversation.
struct HangUp {
    device: BackEndDevice,
    socket: UnixStream,
    name: String,
    core: Arc<Core>,
}

impl Source for HangUp {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Once. Answers are somebody else's.
    fn events(&self) -> epoll::EventFlags {
        epoll::EventFlags::RDHUP | epoll::EventFlags::ET | epoll::EventFlags::ONESHOT
    }

    fn ready(&mut self) {
        let why = self.device.lock().process_loss();
        self.core.notice(Notice::Warning(format!("{}: {why}; its device is out of order", self.name)));
    }
}
