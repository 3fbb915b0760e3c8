//! Snapshots inside an image.

use super::bad;
use super::header::Header;
use crate::DiskError;
use crate::bytes::{be16, be32, be64, index};
use crate::storage::Storage;

/// The largest snapshot table, in bytes.
const MAX_TABLE: u64 = 16 << 20;
/// Bytes of an entry before what has no fixed length.
const FIXED: usize = 40;

/// An entry of the snapshot table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) id: String,
    pub(super) name: String,
    /// When it was made, in seconds since 1970.
    pub(super) seconds: u32,
    /// Bytes of a machine's state that were saved with it.
    pub(super) vm_state: u64,
}

/// The table of an image's snapshots, and how many bytes it has.
pub(super) fn read(file: &dyn Storage, header: &Header) -> Result<(Vec<Entry>, u64), DiskError> {
    let mut entries = Vec::new();
    let mut at = 0_u64;
    for number in 0..header.snapshots {
        let place = header.snapshots_offset.saturating_add(at);
        let mut fixed = vec![0; FIXED];
        file.read_at(place, &mut fixed)?;
        let lengths = [be32(&fixed, 36), be16(&fixed, 12).into(), be16(&fixed, 14).into()];
        let length = lengths.iter().fold(0_u64, |sum, length| sum.saturating_add((*length).into()));
        at = at.saturating_add(FIXED as u64).saturating_add(length).saturating_add(7) & !7;
        if at > MAX_TABLE {
            return Err(bad(file, format!("its snapshot table is too large at entry {number}")));
        }
        let mut rest = vec![0; index(length)];
        file.read_at(place.saturating_add(FIXED as u64), &mut rest)?;
        let [extra, id, name] = lengths.map(|length| index(length.into()));
        let (extra, rest) = rest.split_at_checked(extra).unwrap_or_default();
        let (id, name) = (rest.get(..id), rest.get(id..id.saturating_add(name)));
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        entries.push(Entry {
            l1_offset: be64(&fixed, 0),
            l1_size: be32(&fixed, 8),
            id: text(id),
            name: text(name),
            seconds: be32(&fixed, 16),
            vm_state: if extra.len() >= 8 { be64(extra, 0) } else { be32(&fixed, 32).into() },
        });
    }
    Ok((entries, at))
}
