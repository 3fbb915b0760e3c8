//! virtio-rng: the host's random numbers (VIRTIO 1.3, 5.4).

use rustix::rand::GetRandomFlags;

use super::device::{Kind, QueueResources, QueueState, VirtioDevice};
use super::queue::{Outcome, RingError, Virtqueue};
use super::throttle::{Paid, Throttle};
use crate::{DeviceError, SavedState};

/// The most that one request gets. A driver that wants more asks again.
const MAX_REQUEST: usize = 4096;

/// Fills a buffer from its beginning, and says how far.
type Source = fn(&mut [u8]) -> usize;

/// An entropy source. Requests are served on the vCPU's thread, which takes microseconds. Those that a limit holds back
/// wait in the ring.
pub struct Entropy {
    source: Source,
    throttle: Option<Throttle>,
    queue: Option<Virtqueue>,
}

const NAME: &str = "virtio-rng";
/// Version 1 was of sources without limits, and held nothing.
const VERSION: u16 = 2;

impl Entropy {
    /// One that gives the kernel's random numbers (`getrandom`), as many as `throttle` lets through.
    #[must_use]
    pub fn new(throttle: Option<Throttle>) -> Self {
        Self::with_source(kernel, throttle)
    }

    /// One that gives what `source` does.
    pub(crate) fn with_source(source: Source, throttle: Option<Throttle>) -> Self {
        Self { source, throttle, queue: None }
    }

    /// Goes on with what had to wait for the limit.
    pub fn resume(&mut self) {
        self.process_queue(0);
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
        let Self { source, throttle, queue: Some(queue) } = self else { return };
        queue.serve(|chain| {
            if throttle.as_ref().is_some_and(|throttle| !throttle.is_open()) {
                return Ok(Outcome::Later);
            }
            let mut data = [0; MAX_REQUEST];
            let wanted = usize::try_from(chain.writable.remaining()).unwrap_or(MAX_REQUEST).min(MAX_REQUEST);
            let buffer = data.get_mut(..wanted).unwrap_or_default();
            let got = source(buffer);
            let written = chain.writable.write(buffer.get(..got).unwrap_or_default())?;
            if let Some(throttle) = throttle {
                throttle.charge(1, written as u64);
            }
            Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
        });
    }

    fn is_inline(&self) -> bool {
        true
    }

    /// What is used up of the limit stays so.
    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        let paid = self.throttle.as_ref().map(Throttle::paid).unwrap_or_default();
        SavedState::encode(NAME, VERSION, &paid)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let paid: Paid = if state.version == 1 {
            state.decode::<()>(1)?;
            Paid::default()
        } else {
            state.decode(VERSION)?
        };
        if let Some(throttle) = &mut self.throttle {
            throttle.set_paid(paid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::{Arc, Mutex};

    use viv_engine::time::ManualClock;

    use super::*;
    use crate::testing::Alarm;
    use crate::virtio::Limits;
    use crate::virtio::testing::{Driver, RING_FEATURES};

    fn limited(clock: &Arc<ManualClock>, alarm: &Arc<Alarm>) -> Entropy {
        let limits = Limits { requests: None, bytes: NonZeroU64::new(1000) };
        let throttle = Throttle::new(limits, clock.clone(), alarm.clone());
        Entropy::with_source(|data| data.len(), Some(throttle))
    }

    #[test]
    fn what_is_too_much_waits_and_is_not_forgotten_when_saved() {
        let (clock, alarm) = (Arc::<ManualClock>::default(), Arc::<Alarm>::default());
        let device = Arc::new(Mutex::new(limited(&clock, &alarm)));
        let mut driver = Driver::new(device.clone());
        driver.start(RING_FEATURES);
        for _ in 0..40 {
            let address = driver.buffer(100);
            driver.add(0, &[(address, 100, true)]);
        }
        driver.kick(0);
        let served = driver.used(0);
        assert!(served.iter().all(|(_, length)| *length == 100));
        assert_eq!(served.len(), 11, "a second's worth, and the one that has begun");
        assert_eq!(alarm.deadline(), Some(100_000_000));
        clock.advance(500_000_000);
        device.lock().unwrap().resume();
        assert_eq!(driver.used(0).len(), 5);

        let other = Arc::new(Mutex::new(limited(&clock, &alarm)));
        let mut driver = driver.move_to(other.clone());
        driver.worker.process();
        assert_eq!(driver.used(0).len(), 0);
        clock.advance(1_000_000_000);
        other.lock().unwrap().resume();
        assert_eq!(driver.used(0).len(), 10);

        let old = SavedState::encode(NAME, 1, &()).unwrap();
        other.lock().unwrap().restore(&old).unwrap();
        other.lock().unwrap().resume();
        assert_eq!(driver.used(0).len(), 11);
    }
}
