//! Commands on the control queue (VIRTIO 1.3, 5.1.6.5).

use super::Net;
use super::filter::MacAddress;
use super::regs::{ANNOUNCE_ACK, GUEST_OFFLOADS_SET, VQ_PAIRS_SET, ack, class, feature, mac, status};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Outcome, RingError};

/// The most addresses that a command may list in one table. A driver that has more asks for all frames.
const MAX_ADDRESSES: u32 = 256;

impl Net {
    /// Carries out a command and says how it went.
    pub(super) fn control(&mut self, chain: &mut Chain) -> Result<Outcome, RingError> {
        let answer = if self.command(chain)? { ack::OK } else { ack::ERR };
        let written = chain.writable.write(&[answer])?;
        Ok(Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX)))
    }

    /// Returns whether the command was carried out.
    fn command(&mut self, chain: &mut Chain) -> Result<bool, RingError> {
        let Some([class, command]) = take(chain)? else { return Ok(false) };
        match (class, command) {
            (class::RX, command) => {
                let Some([on]) = take(chain)? else { return Ok(false) };
                Ok(self.filter.set_mode(command, on != 0))
            }
            (class::MAC, mac::ADDR_SET) => {
                let Some(address) = take(chain)? else { return Ok(false) };
                self.mac = address;
                Ok(true)
            }
            (class::MAC, mac::TABLE_SET) => {
                let Some(unicast) = table(chain)? else { return Ok(false) };
                let Some(multicast) = table(chain)? else { return Ok(false) };
                self.filter.set_tables(&unicast, &multicast);
                Ok(true)
            }
            (class::ANNOUNCE, ANNOUNCE_ACK) => {
                self.status &= !status::ANNOUNCE;
                Ok(true)
            }
            (class::MQ, VQ_PAIRS_SET) => {
                let Some(count) = take(chain)? else { return Ok(false) };
                let count = usize::from(u16::from_le_bytes(count));
                let allowed = self.features & feature::MQ != 0 && (1..=self.pairs.len()).contains(&count);
                if allowed {
                    self.set_active(count);
                }
                Ok(allowed)
            }
            (class::GUEST_OFFLOADS, GUEST_OFFLOADS_SET) => {
                let Some(wanted) = take(chain)? else { return Ok(false) };
                let wanted = u64::from_le_bytes(wanted);
                let allowed = wanted & !self.guest_offload_features() == 0;
                if allowed {
                    self.guest_offloads = Some(wanted);
                    self.apply_offloads();
                }
                Ok(allowed)
            }
            _ => Ok(false),
        }
    }
}

/// The next bytes of a command, if there are as many.
fn take<const N: usize>(chain: &mut Chain) -> Result<Option<[u8; N]>, RingError> {
    let mut bytes = [0; N];
    Ok((chain.readable.read(&mut bytes)? == N).then_some(bytes))
}

/// A table of addresses: their number, 32 bits, and they.
fn table(chain: &mut Chain) -> Result<Option<Vec<MacAddress>>, RingError> {
    let Some(count) = take(chain)?.map(u32::from_le_bytes).filter(|count| *count <= MAX_ADDRESSES) else {
        return Ok(None);
    };
    let mut addresses = Vec::new();
    for _ in 0..count {
        let Some(address) = take(chain)? else { return Ok(None) };
        addresses.push(address);
    }
    Ok(Some(addresses))
}
