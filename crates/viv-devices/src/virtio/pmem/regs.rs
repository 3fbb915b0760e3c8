//! Names and numbers of virtio-pmem (VIRTIO 1.3, 5.19).

/// The device id (5.19.1).
pub(super) const ID: u16 = 27;
/// Memory of no further description.
pub(super) const CLASS: u32 = 0x05_80_00;

/// What a request asks (5.19.6): what was written to the memory is to last.
pub(super) const FLUSH: u32 = 0;
/// Bytes of a request: its type.
pub(super) const REQUEST: usize = 4;

/// What an answer says (5.19.7): it was done.
pub(super) const DONE: u32 = 0;
/// It was not.
pub(super) const FAILED: u32 = u32::MAX;

/// The configuration space (5.19.4): where the memory begins, and its bytes.
pub(super) fn config(start: u64, size: u64) -> Vec<u8> {
    [start, size].into_iter().flat_map(u64::to_le_bytes).collect()
}
