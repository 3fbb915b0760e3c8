//! The header page of an overlay file.
//!
//! All numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | cluster size in bytes, 65,536 |
//! | 16 | 8 | size of the base in bytes |
//! | 24 | 8 | 1 if the next two hold, 0 if the base has no time of change |
//! | 32 | 8 | when the base was changed last, seconds |
//! | 40 | 8 | and nanoseconds |
//! | 48 | 8 | FNV-1a hash (64 bits) of the bytes before |

use super::layout::CLUSTER;

/// How an overlay file begins.
pub(super) const MAGIC: [u8; 8] = *b"VIVOVL\r\n";
const VERSION: u32 = 1;
const HASHED: usize = 48;

/// Bytes of the page that are in use.
pub(super) const LENGTH: usize = HASHED + 8;

/// What an overlay says about the base it was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The base's size.
    pub(super) size: u64,
    /// When the base was changed last, if it says: seconds and nanoseconds.
    pub(super) modified: Option<(i64, i64)>,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (seconds, nanoseconds) = self.modified.unwrap_or_default();
        let mut page = Vec::with_capacity(LENGTH);
        page.extend(MAGIC);
        page.extend(VERSION.to_le_bytes());
        page.extend((CLUSTER as u32).to_le_bytes());
        page.extend(self.size.to_le_bytes());
        page.extend(u64::from(self.modified.is_some()).to_le_bytes());
        page.extend(seconds.to_le_bytes());
        page.extend(nanoseconds.to_le_bytes());
        page.extend(fnv1a(&page).to_le_bytes());
        page
    }

    /// Reads a header, or says what is wrong with it.
    pub(super) fn decode(page: &[u8; LENGTH]) -> Result<Self, String> {
        let mut rest = page.as_slice();
        if take(&mut rest) != MAGIC {
            return Err("it does not begin like one".into());
        }
        let version = u32::from_le_bytes(take(&mut rest));
        if version != VERSION {
            return Err(format!("its format has version {version}; this program knows version {VERSION}"));
        }
        let hash = page.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if hash != fnv1a(page.get(..HASHED).unwrap_or_default()) {
            return Err("its header is damaged".into());
        }
        let cluster = u32::from_le_bytes(take(&mut rest));
        if u64::from(cluster) != CLUSTER {
            return Err(format!("its clusters have {cluster} bytes instead of {CLUSTER}"));
        }
        let size = u64::from_le_bytes(take(&mut rest));
        let has_time = u64::from_le_bytes(take(&mut rest)) != 0;
        let seconds = i64::from_le_bytes(take(&mut rest));
        let nanoseconds = i64::from_le_bytes(take(&mut rest));
        Ok(Self { size, modified: has_time.then_some((seconds, nanoseconds)) })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((head, tail)) => {
            *rest = tail;
            *head
        }
        None => [0; N],
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damaged_byte_is_noticed() {
        for modified in [None, Some((1_700_000_000, 999_999_999)), Some((-1, 0))] {
            let header = Header { size: 1 << 30, modified };
            let page: [u8; LENGTH] = header.encode().try_into().unwrap();
            assert_eq!(Header::decode(&page), Ok(header));
            for i in 0..LENGTH {
                let mut damaged = page;
                damaged[i] ^= 0x10;
                assert!(Header::decode(&damaged).is_err(), "byte {i}");
            }
        }
    }
}
