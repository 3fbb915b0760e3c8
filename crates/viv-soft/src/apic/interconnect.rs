//! The way to the local APICs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use viv_arch::apic::DeliveryMode;
use viv_engine::{ExtIntTarget, Msi, MsiTarget};

use super::base::Mode;
use super::message::{Audience, Message};
use crate::inbox::Inbox;

/// What a local APIC answers to, as all threads see it.
///
/// One word, so that nobody sees half a change: the logical id in the low half, flags above.
#[derive(Debug, Default)]
pub struct ApicAddress(AtomicU64);

const FLAT: u64 = 1 << 32;
const CLUSTER: u64 = 1 << 33;
const X2APIC: u64 = 1 << 34;
const ENABLED: u64 = 1 << 35;
const SOFTWARE_ENABLED: u64 = 1 << 36;

impl ApicAddress {
    /// Called by the owner when anything has changed.
    pub(super) fn publish(&self, mode: Mode, software_enabled: bool, ldr: u32, dfr: u32) {
        let model = match (mode, dfr >> 28) {
            (Mode::Disabled, _) => 0,
            (Mode::X2Apic, _) => X2APIC | ENABLED,
            (Mode::XApic, 0xf) => FLAT | ENABLED,
            (Mode::XApic, 0) => CLUSTER | ENABLED,
            (Mode::XApic, _) => ENABLED,
        };
        let software = if software_enabled { SOFTWARE_ENABLED } else { 0 };
        self.0.store(u64::from(ldr >> 24) | model | software, Ordering::Release);
    }

    /// Whether the APIC with this address and this id is meant.
    fn matches(&self, id: u32, audience: Audience) -> bool {
        let state = self.0.load(Ordering::Acquire);
        if state & ENABLED == 0 {
            return false;
        }
        match audience {
            Audience::All => true,
            Audience::Itself(only) | Audience::Physical(only) => id == only,
            Audience::AllBut(source) => id != source,
            Audience::Logical(destination) if state & X2APIC != 0 => {
                let own = logical_x2apic_id(id);
                own >> 16 == destination >> 16 && own & destination & 0xffff != 0
            }
            Audience::Logical(destination) => {
                let (own, Ok(destination)) = (state as u8, u8::try_from(destination)) else { return false };
                if state & FLAT != 0 {
                    own & destination != 0
                } else {
                    let cluster = destination >> 4;
                    state & CLUSTER != 0
                        && (cluster == own >> 4 || cluster == 0xf)
                        && own & destination & 0xf != 0
                }
            }
        }
    }

    fn is_software_enabled(&self) -> bool {
        self.0.load(Ordering::Acquire) & SOFTWARE_ENABLED != 0
    }
}

/// The logical id in x2APIC mode (SDM vol. 3, 11.12.10.2): cluster of 16, and the bit in it.
pub(super) const fn logical_x2apic_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// Delivers interrupt messages to the inboxes of the vCPUs whose APICs they are for. Any thread may use it.
#[derive(Debug, Default)]
pub struct Interconnect {
    /// Indexed by APIC id.
    ports: Box<[Port]>,
    /// Where the next search for a lowest-priority destination begins.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Port {
    address: Arc<ApicAddress>,
    inbox: Arc<Inbox>,
}

impl Interconnect {
    /// One between these vCPUs; the APIC id of each is its index.
    pub fn new(vcpus: impl IntoIterator<Item = (Arc<ApicAddress>, Arc<Inbox>)>) -> Self {
        let ports = vcpus.into_iter().map(|(address, inbox)| Port { address, inbox }).collect();
        Self { ports, turn: AtomicUsize::new(0) }
    }

    /// Delivers `message`. What is for nobody is dropped, and so are SMIs, which no vCPU has, and ExtINTs: the
    /// 8259's request is a line here ([`ExtIntTarget`]).
    pub fn deliver(&self, message: &Message) {
        let Message { mode, vector, level, audience } = *message;
        match mode {
            DeliveryMode::Fixed => self.for_each(audience, |inbox| inbox.post_vector(vector, level)),
            DeliveryMode::LowestPriority => {
                if let Some(port) = self.choose(audience) {
                    port.inbox.post_vector(vector, level);
                }
            }
            DeliveryMode::Nmi => self.for_each(audience, Inbox::post_nmi),
            DeliveryMode::Init => self.for_each(audience, Inbox::post_init),
            DeliveryMode::StartUp => self.for_each(audience, |inbox| inbox.post_sipi(vector)),
            DeliveryMode::Smi | DeliveryMode::ExtInt => {}
        }
    }

    fn for_each(&self, audience: Audience, post: impl Fn(&Inbox)) {
        if let Audience::Itself(id) | Audience::Physical(id) = audience {
            if let Some(port) = self.ports.get(id as usize)
                && port.address.matches(id, audience)
            {
                post(&port.inbox);
            }
            return;
        }
        for (id, port) in self.ports.iter().enumerate() {
            if port.address.matches(id as u32, audience) {
                post(&port.inbox);
            }
        }
    }

    /// One of the destinations, in turn: which has the lowest priority is for the platform to say (SDM vol. 3,
    /// 11.6.2.4), and the priorities of the moment would not be those at delivery.
    fn choose(&self, audience: Audience) -> Option<&Port> {
        let count = self.ports.len();
        let start = self.turn.load(Ordering::Relaxed);
        let chosen = (0..count).map(|step| (start.wrapping_add(step)) % count).find(|&index| {
            let address = &self.ports[index].address;
            address.matches(index as u32, audience) && address.is_software_enabled()
        })?;
        self.turn.store(chosen + 1, Ordering::Relaxed);
        Some(&self.ports[chosen])
    }
}

impl MsiTarget for Interconnect {
    fn send_msi(&self, msi: Msi) {
        if let Some(message) = Message::from_msi(msi) {
            self.deliver(&message);
        }
    }
}

impl ExtIntTarget for Interconnect {
    /// INTR goes to LINT0 of every APIC; only those set up for it listen ([`LocalApic::accepts_extint`]).
    ///
    /// [`LocalApic::accepts_extint`]: super::LocalApic::accepts_extint
    fn set_extint(&self, asserted: bool) {
        for port in &self.ports {
            port.inbox.set_extint(asserted);
        }
    }
}
