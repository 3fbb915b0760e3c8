//! SMBIOS tables (DSP0134, SMBIOS 3.0): who made the machine, and what is in it.
//!
//! [`build`] makes the structures. Where they lie, an anchor says: [`Tables::anchor_64`], or, for those who only know
//! SMBIOS 2, [`Tables::anchor_32`]. Firmware that takes the tables over makes the addresses in the anchors its own;
//! without firmware, [`Tables::placed`] has all of it for a place in the BIOS area, where systems look.

mod structure;
mod structures;

#[cfg(test)]
mod tests;

use std::ops::Range;

use viv_engine::GuestMemory;

use crate::map;

/// The file of QEMU's firmware configuration device with the anchor.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";
/// The file with the structures.
pub const STRUCTURES_FILE: &str = "etc/smbios/smbios-tables";

/// Where a guest that finds no other way looks for an anchor (5.2.1): at multiples of 16 from here to 1 MiB.
pub const ANCHOR_AREA: Range<u64> = 0xf_0000..0x10_0000;

/// The longest string that a guest is given.
const LONGEST_STRING: usize = 255;

/// The version of SMBIOS that the 64-bit anchor announces: 3.0.
const VERSION_64: [u8; 3] = [3, 0, 0];
/// The version that the 32-bit anchor announces: 2.8.
const VERSION_32: [u8; 2] = [2, 8];

const ANCHOR_64_SIZE: usize = 24;
const ANCHOR_32_SIZE: usize = 31;
/// Where the second part of the 32-bit anchor begins, with a checksum of its own.
const INTERMEDIATE: usize = 16;

/// Where [`Tables::placed`] has the 32-bit anchor, and where the structures.
const PLACED_ANCHOR_32: usize = 0x20;
const PLACED_STRUCTURES: usize = 0x40;

/// Why a machine cannot be described.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SmbiosError {
    /// A string that no table can hold.
    #[error(
        "the machine's {what} is {text:?}, which no SMBIOS table can hold: it must have at most {LONGEST_STRING} \
         bytes and no zero among them"
    )]
    String {
        /// What it is.
        what: &'static str,
        /// The string.
        text: String,
    },
    /// The tables need more room than there is.
    #[error("the SMBIOS tables need {size} bytes, their room has {room}")]
    NoRoom {
        /// How much they need.
        size: u64,
        /// How much there is.
        room: u64,
    },
}

/// Who the machine is. An empty string says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Who made it.
    pub manufacturer: String,
    /// What it is called.
    pub product: String,
    /// The product's version.
    pub version: String,
    /// The machine's serial number.
    pub serial: String,
    /// The machine's UUID, in the order of its text; all zeroes if it has none.
    pub uuid: [u8; 16],
    /// The product's number in a catalogue.
    pub sku: String,
    /// What products it belongs to.
    pub family: String,
}

impl Default for SystemIdentity {
    /// A machine that nobody gave a name.
    fn default() -> Self {
        Self {
            manufacturer: "Vivarium".to_owned(),
            product: "Vivarium PC".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            serial: String::new(),
            uuid: [0; 16],
            sku: String::new(),
            family: String::new(),
        }
    }
}

/// All that the tables say about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbiosParameters {
    /// Who it is.
    pub identity: SystemIdentity,
    /// How many vCPUs there are.
    pub cpus: u32,
    /// The ranges of RAM, none empty.
    pub memory: Vec<Range<u64>>,
}

impl SmbiosParameters {
    /// Those of a machine with `memory`.
    #[must_use]
    pub fn new(identity: SystemIdentity, cpus: u32, memory: &GuestMemory) -> Self {
        Self { identity, cpus, memory: map::ram(memory).collect() }
    }

    fn check(&self) -> Result<(), SmbiosError> {
        let SystemIdentity { manufacturer, product, version, serial, uuid: _, sku, family } = &self.identity;
        for (what, text) in [
            ("manufacturer", manufacturer),
            ("product name", product),
            ("version", version),
            ("serial number", serial),
            ("SKU number", sku),
            ("family", family),
        ] {
            if text.len() > LONGEST_STRING || text.contains('\0') {
                return Err(SmbiosError::String { what, text: text.clone() });
            }
        }
        Ok(())
    }
}

/// The tables of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    structures: Vec<u8>,
    count: u16,
    largest: u16,
}

/// Makes the tables of a machine.
///
/// # Errors
/// When a string cannot be expressed, or there is more than an anchor can announce.
pub fn build(parameters: &SmbiosParameters) -> Result<Tables, SmbiosError> {
    parameters.check()?;
    let all = structures::all(parameters);
    let room = u64::from(u16::MAX);
    let size: usize = all.iter().map(Vec::len).sum();
    if size as u64 > room {
        return Err(SmbiosError::NoRoom { size: size as u64, room });
    }
    // Structures are at least six bytes long, so neither number is larger than their size.
    let largest = all.iter().map(Vec::len).max().unwrap_or(0) as u16;
    Ok(Tables { count: all.len() as u16, largest, structures: all.concat() })
}

impl Tables {
    /// The structures, one after the other: [`STRUCTURES_FILE`] to firmware.
    #[must_use]
    pub fn structures(&self) -> &[u8] {
        &self.structures
    }

    /// The 64-bit anchor (5.2.2) of structures at `address`: [`ANCHOR_FILE`] to firmware, which puts in another
    /// address.
    #[must_use]
    pub fn anchor_64(&self, address: u64) -> [u8; ANCHOR_64_SIZE] {
        let mut anchor = [0; ANCHOR_64_SIZE];
        anchor[..5].copy_from_slice(b"_SM3_");
        anchor[6] = ANCHOR_64_SIZE as u8;
        anchor[7..10].copy_from_slice(&VERSION_64);
        anchor[10] = 1; // the entry point's revision
        anchor[12..16].copy_from_slice(&(self.structures.len() as u32).to_le_bytes());
        anchor[16..].copy_from_slice(&address.to_le_bytes());
        anchor[5] = checksum(&anchor);
        anchor
    }

    /// The 32-bit anchor (5.2.1) of structures at `address`.
    #[must_use]
    pub fn anchor_32(&self, address: u32) -> [u8; ANCHOR_32_SIZE] {
        let mut anchor = [0; ANCHOR_32_SIZE];
        anchor[..4].copy_from_slice(b"_SM_");
        anchor[5] = ANCHOR_32_SIZE as u8;
        anchor[6..8].copy_from_slice(&VERSION_32);
        anchor[8..10].copy_from_slice(&self.largest.to_le_bytes());
        anchor[INTERMEDIATE..][..5].copy_from_slice(b"_DMI_");
        anchor[22..24].copy_from_slice(&(self.structures.len() as u16).to_le_bytes());
        anchor[24..28].copy_from_slice(&address.to_le_bytes());
        anchor[28..30].copy_from_slice(&self.count.to_le_bytes());
        anchor[30] = VERSION_32[0] << 4 | VERSION_32[1];
        anchor[21] = checksum(&anchor[INTERMEDIATE..]);
        anchor[4] = checksum(&anchor);
        anchor
    }

    /// Both anchors and the structures, for `place`, which begins at a multiple of 16 in the first 4 GiB.
    ///
    /// # Errors
    /// When it is too small.
    pub fn placed(&self, place: &Range<u64>) -> Result<Vec<u8>, SmbiosError> {
        let size = (PLACED_STRUCTURES + self.structures.len()) as u64;
        let room = place.end.saturating_sub(place.start);
        if size > room {
            return Err(SmbiosError::NoRoom { size, room });
        }
        let address = place.start + PLACED_STRUCTURES as u64;
        let mut bytes = self.anchor_64(address).to_vec();
        bytes.resize(PLACED_ANCHOR_32, 0);
        bytes.extend(self.anchor_32(address as u32));
        bytes.resize(PLACED_STRUCTURES, 0);
        bytes.extend(&self.structures);
        Ok(bytes)
    }
}

/// What makes the sum of `bytes`, where it is zero still, a multiple of 256.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}
