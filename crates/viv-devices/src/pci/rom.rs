//! Expansion ROMs (PCI 3.0, 6.3.1).

/// How an image begins.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Where an image has the offset of its PCI data structure, 16 bits.
const DATA_POINTER: usize = 0x18;
/// How a PCI data structure begins; vendor and device id follow.
const DATA_SIGNATURE: [u8; 4] = *b"PCIR";
/// The least and the most that a function can offer.
const SIZES: std::ops::RangeInclusive<usize> = 1 << 11..=1 << 24;

/// An expansion ROM's content.
#[derive(Debug, Clone)]
pub struct ExpansionRom {
    bytes: Vec<u8>,
    vendor: u16,
    device: u16,
}

impl ExpansionRom {
    /// Takes a ROM's content, such as a file holds it.
    ///
    /// # Errors
    /// When its first image has not the form of one for PCI, or it is too long; one line says why.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.get(..2) != Some(&SIGNATURE) {
            return Err("it does not begin with 55 aa".to_owned());
        }
        if bytes.len() > *SIZES.end() {
            return Err(format!("it has {} bytes, more than {}", bytes.len(), SIZES.end()));
        }
        let data = word(&bytes, DATA_POINTER).map(usize::from);
        let data = data.and_then(|data| bytes.get(data..)).unwrap_or_default();
        match (data.get(..4), word(data, 4), word(data, 6)) {
            (Some(signature), Some(vendor), Some(device)) if signature == DATA_SIGNATURE => {
                Ok(Self { bytes, vendor, device })
            }
            _ => Err("it has no PCI data structure".to_owned()),
        }
    }

    /// The vendor and device it says it is for.
    #[must_use]
    pub fn made_for(&self) -> (u16, u16) {
        (self.vendor, self.device)
    }

    /// The size of the place that it needs, for [`ConfigSpace::add_rom`](super::ConfigSpace::add_rom).
    #[must_use]
    pub fn size(&self) -> u32 {
        let size = self.bytes.len().max(*SIZES.start()).next_power_of_two();
        u32::try_from(size).unwrap_or(u32::MAX)
    }

    /// Reads at `offset`; behind the content are ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(offset..).unwrap_or_default();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(index).copied().unwrap_or(0xff);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rom_says_what_it_is_for() {
        let mut bytes = vec![0; 0x900];
        assert!(ExpansionRom::new(bytes.clone()).unwrap_err().contains("55 aa"));
        bytes[..2].copy_from_slice(&SIGNATURE);
        bytes[0x18..0x1a].copy_from_slice(&0x8fa_u16.to_le_bytes());
        assert!(ExpansionRom::new(bytes.clone()).unwrap_err().contains("data structure"));
        bytes[0x18..0x1a].copy_from_slice(&0x8f8_u16.to_le_bytes());
        bytes[0x8f8..0x900].copy_from_slice(b"PCIR\x34\x12\x11\x11");
        let rom = ExpansionRom::new(bytes).unwrap();
        assert_eq!((rom.made_for(), rom.size()), ((0x1234, 0x1111), 0x1000));
        let mut data = [0; 4];
        rom.read(0x8fe, &mut data);
        assert_eq!(data, [0x11, 0x11, 0xff, 0xff]);
        assert!(ExpansionRom::new(vec![0; 1]).is_err());
    }
}
