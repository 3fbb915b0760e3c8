//! The thread that speaks with a back end, so that nobody waits for it longer than he wants.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost::vhost_user::Frontend;
use viv_jail::ThreadKind;

use crate::error::Lost;

/// The most queues that a back end is asked for.
const MAX_QUEUES: u64 = 64;

/// Something to say to a back end, and to hear from it.
type Order = Box<dyn FnOnce(&mut Frontend) + Send>;

/// The way to a back end.
pub(crate) struct Link {
    socket: UnixStream,
    orders: Sender<Order>,
    lost: Mutex<Option<Lost>>,
    patience: Duration,
}

impl Link {
    /// Starts the thread, which ends with the link.
    pub(crate) fn start(socket: UnixStream, patience: Duration) -> io::Result<Self> {
        let mut frontend = Frontend::from_stream(socket.try_clone()?, MAX_QUEUES);
        let (orders, taken) = mpsc::channel::<Order>();
        viv_jail::spawn(ThreadKind::BackEnd, "vhost-user", move || {
            for order in taken {
                order(&mut frontend);
            }
        })?;
        Ok(Self { socket, orders, lost: Mutex::default(), patience })
    }

    /// Has the thread carry `talk` out, whose purpose is to `action`, and waits for it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        talk: impl FnOnce(&mut Frontend) -> vhost::Result<T> + Send + 'static,
    ) -> Result<T, Lost> {
        self.ask_within(self.patience, action, talk)
    }

    /// As [`Link::ask`], and for no longer than `patience`.
    pub(crate) fn ask_within<T: Send + 'static>(
        &self,
        patience: Duration,
        action: &'static str,
        talk: impl FnOnce(&mut Frontend) -> vhost::Result<T> + Send + 'static,
    ) -> Result<T, Lost> {
        let patience = patience.min(self.patience);
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let order: Order = Box::new(move |frontend| {
            // Who asked may have gone on.
            let _ = answer.send(talk(frontend));
        });
        let _ = self.orders.send(order);
        match answered.recv_timeout(patience) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.lose(Lost::Failed { action, why: error.to_string() })),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.lose(Lost::Silent { action, seconds: patience.as_secs() }))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.lose(Lost::HungUp)),
        }
    }

    /// Ends the conversation, whatever the thread is doing. The first reason stays.
    pub(crate) fn lose(&self, why: Lost) -> Lost {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.guard().get_or_insert(why).clone()
    }

    /// Why the conversation is over, if it is.
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.guard().clone()
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    fn guard(&self) -> MutexGuard<'_, Option<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
