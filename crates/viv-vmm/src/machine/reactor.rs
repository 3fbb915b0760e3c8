//! Threads for devices: each waits for descriptors and serves devices, one thing at a time.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::epoll;
use viv_jail::ThreadKind;

use super::core::{Core, Notice};
use super::notify::Notify;

/// Something to wait for.
pub(crate) trait Source: Send {
    /// Readable when there is something to do.
    fn fd(&self) -> BorrowedFd<'_>;

    /// When to be called: by default while the descriptor is readable.
    fn events(&self) -> epoll::EventFlags {
        epoll::EventFlags::IN
    }

    /// Does it. The descriptor must not stay readable for what was done, unless [`Source::events`] are edges.
    fn ready(&mut self);
}

/// A thread for devices. Its sources are served only while the machine's gate is open.
pub(crate) struct Reactor {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// The epoll data of the stop flag; sources are numbered from 0.
const STOP: u64 = u64::MAX;

impl Reactor {
    /// Starts the thread, of this kind and with this name. It ends with the gate, or when this is dropped.
    pub(crate) fn start(
        kind: ThreadKind,
        name: &str,
        sources: Vec<Box<dyn Source>>,
        core: Arc<Core>,
    ) -> io::Result<Self> {
        let stop = Arc::new(Notify::new()?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        for (index, source) in sources.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, source.fd(), data, source.events())?;
        }
        let thread = viv_jail::spawn(kind, name, {
            // The thread keeps the stop flag's descriptor alive as long as its epoll.
            let stop = Arc::clone(&stop);
            move || {
                if let Err(error) = run(&epoll, sources, &core) {
                    core.notice_and_hold(Notice::Failed(format!("cannot wait for devices: {error}")));
                }
                drop(stop);
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(epoll: &OwnedFd, mut sources: Vec<Box<dyn Source>>, core: &Core) -> io::Result<()> {
    let mut events = Vec::with_capacity(16);
    loop {
        events.clear();
        rustix::io::retry_on_intr(|| epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None))?;
        for event in &events {
            let data = event.data;
            if data.u64() == STOP {
                return Ok(());
            }
            let Some(_inside) = core.gate.enter() else { return Ok(()) };
            if let Some(source) = usize::try_from(data.u64()).ok().and_then(|index| sources.get_mut(index)) {
                source.ready();
            }
        }
    }
}
