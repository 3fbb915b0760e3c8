//! Saving and restoring.

use serde::{Deserialize, Serialize};

use super::filter::{Filter, MacAddress};
use super::pair::Waiting;
use super::regs::status;
use super::{MAX_FRAME, Net};
use crate::virtio::throttle::Paid;
use crate::{DeviceError, SavedState};

const NAME: &str = "virtio-net";
const VERSION: u16 = 2;

/// What an interface has besides its queues.
#[derive(Serialize, Deserialize)]
struct NetState {
    registers: NetStateV1,
    /// How much of its limits is used up, of what goes to the guest and of what comes from it.
    paid: [Paid; 2],
}

/// Version 1, of interfaces without limits.
#[derive(Serialize, Deserialize)]
struct NetStateV1 {
    mac: MacAddress,
    status: u16,
    mtu: Option<u16>,
    active: u16,
    guest_offloads: Option<u64>,
    filter: Filter,
    /// Frames that wait for buffers, for each pair of queues.
    waiting: Vec<Option<Waiting>>,
}

impl Net {
    pub(super) fn save_state(&self) -> Result<SavedState, DeviceError> {
        let registers = NetStateV1 {
            mac: self.mac,
            status: self.status,
            mtu: self.mtu,
            active: u16::try_from(self.active).unwrap_or(u16::MAX),
            guest_offloads: self.guest_offloads,
            filter: self.filter.clone(),
            waiting: self.pairs.iter().map(|pair| pair.waiting().cloned()).collect(),
        };
        let paid = self.throttles.as_ref().map(|both| [both.receive.paid(), both.transmit.paid()]);
        SavedState::encode(NAME, VERSION, &NetState { registers, paid: paid.unwrap_or_default() })
    }

    pub(super) fn restore_state(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let NetState { registers: state, paid } = match state.version {
            1 => NetState { registers: state.decode(1)?, paid: Default::default() },
            _ => state.decode(VERSION)?,
        };
        let invalid = |reason| Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        if state.waiting.len() != self.pairs.len() {
            let (had, has) = (state.waiting.len(), self.pairs.len());
            return invalid(format!("it had {had} pairs of queues and has {has}"));
        }
        if state.mtu != self.mtu {
            return invalid(format!("its MTU was {:?} and is {:?}", state.mtu, self.mtu));
        }
        let offloads = state.guest_offloads.unwrap_or_default();
        if !(1..=self.pairs.len()).contains(&usize::from(state.active))
            || offloads & !self.offered().guest_features() != 0
            || state.status & !(status::LINK_UP | status::ANNOUNCE) != 0
            || !state.filter.is_valid()
            || state.waiting.iter().flatten().any(|waiting| waiting.length() > MAX_FRAME)
        {
            return invalid("it contradicts itself".to_owned());
        }
        self.mac = state.mac;
        self.status = state.status;
        self.guest_offloads = state.guest_offloads;
        self.filter = state.filter;
        if let Some(throttles) = &mut self.throttles {
            let [receive, transmit] = paid;
            throttles.receive.set_paid(receive);
            throttles.transmit.set_paid(transmit);
        }
        self.set_active(usize::from(state.active));
        for (pair, waiting) in self.pairs.iter_mut().zip(state.waiting) {
            pair.set_waiting(waiting);
        }
        Ok(())
    }
}
