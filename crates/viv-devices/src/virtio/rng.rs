//! virtio-rng: the host's random numbers (VIRTIO 1.3, 5.4).

use rustix::rand::GetRandomFlags;

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use crate::{DeviceError, SavedState};

/// The most that one request gets. A driver that wants more asks again.
const MAX_REQUEST: usize = 4096;

/// Fills a buffer from its beginning, and says how far.
type Source = fn(&mut [u8]) -> usize;

/// An entropy source. Requests are served on the vCPU's thread, which takes microseconds.
pub struct Entropy {
    source: Source,
    queue: Option<Virtqueue>,
}

impl Entropy {
    /// One that gives the kernel's random numbers (`getrandom`).
    #[must_use]
    pub fn new() -> Self {
        Self::with_source(kernel)
    }

    /// One that gives what `source` does.
    pub(crate) fn with_source(source: Source) -> Self {
        Self { source, queue: None }
    }
}

impl Default for Entropy {
    fn default() -> Self {
        Self::new()
    }
}

fn kernel(buffer: &mut [u8]) -> usize {
    rustix::rand::getrandom(buffer, GetRandomFlags::empty()).unwrap_or_else(|error| {
        tracing::warn!(%error, "getrandom failed");
        0
    })
}

impl VirtioDevice for Entropy {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: 0x00_ff_00 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn start_queue(
        &mut self,
        resources: QueueResources,
        features: u64,
        state: QueueState,
    ) -> Result<(), RingError> {
        self.queue = Some(Virtqueue::new(resources, features, state)?);
        Ok(())
    }

    fn stop_queue(&mut self, _index: u16) -> Option<QueueState> {
        Some(self.queue.take()?.state())
    }

    fn process_queue(&mut self, _index: u16) {
        let Self { source, queue: Some(queue) } = self else { return };
        queue.serve(|chain| {
            let mut data = [0; MAX_REQUEST];
            let wanted = usize::try_from(chain.writable.remaining()).unwrap_or(MAX_REQUEST).min(MAX_REQUEST);
            let buffer = data.get_mut(..wanted).unwrap_or_default();
            let got = source(buffer);
            let written = chain.writable.write(buffer.get(..got).unwrap_or_default())?;
            Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
        });
    }

    fn is_inline(&self) -> bool {
        true
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode("virtio-rng", 1, &())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        state.decode(1)
    }
}
