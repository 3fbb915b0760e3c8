//! Both directions of one stream, under one wake-up flag.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Inlet, Outlet, Received};
use crate::machine::notify::Notify;

/// The host's end of a byte stream, as a device uses it. Nothing here blocks.
#[derive(Debug)]
pub(crate) struct HostStream {
    inlet: Option<Inlet>,
    outlet: Option<Outlet>,
    wake: Arc<Notify>,
}

/// What [`HostStream::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing at the moment.
    Nothing,
    /// Nothing any more.
    End,
}

impl HostStream {
    /// Starts to read `input` and write `output`, as far as they are there. `drained` is set whenever all
    /// output is written.
    pub(crate) fn start(
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        drained: &Arc<Notify>,
    ) -> io::Result<Self> {
        let wake = Arc::new(Notify::new()?);
        let inlet = input.map(|fd| Inlet::start(fd, Arc::clone(&wake))).transpose()?;
        let outlet =
            output.map(|fd| Outlet::start(fd, Arc::clone(&wake), Arc::clone(drained))).transpose()?;
        Ok(Self { inlet, outlet, wake })
    }

    /// Hands input to `take`, which says how many of the bytes it took, for as long as it takes all.
    pub(crate) fn pump_input(&self, mut take: impl FnMut(&[u8]) -> usize) {
        let Some(inlet) = &self.inlet else { return };
        while let Received::Bytes(bytes) = inlet.peek(4096) {
            let taken = take(&bytes);
            inlet.consume(taken);
            if taken < bytes.len() {
                return;
            }
        }
    }

    /// Fills `data` with input as far as there is any.
    pub(crate) fn read(&self, data: &mut [u8]) -> Read {
        let Some(inlet) = &self.inlet else { return Read::End };
        match inlet.peek(data.len()) {
            Received::Bytes(bytes) => {
                for (to, from) in data.iter_mut().zip(&bytes) {
                    *to = *from;
                }
                inlet.consume(bytes.len());
                Read::Bytes(bytes.len())
            }
            Received::Nothing => Read::Nothing,
            Received::End => Read::End,
        }
    }

    /// Takes as many of `bytes` as there is room for. With no output, or no reader any more, they are dropped.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        self.outlet.as_ref().map_or(bytes.len(), |outlet| outlet.write(bytes))
    }

    /// Whether there was a reader and it has gone.
    pub(crate) fn reader_gone(&self) -> bool {
        self.outlet.as_ref().is_some_and(Outlet::is_gone)
    }

    /// Whether all output is written, or never will be.
    pub(crate) fn is_drained(&self) -> bool {
        self.outlet.as_ref().is_none_or(Outlet::is_drained)
    }

    /// The flag that says that there is something to do: input, its end, room for output after there was
    /// none, a reader that has gone.
    pub(crate) fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
