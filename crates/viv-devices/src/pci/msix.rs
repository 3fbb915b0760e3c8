//! MSI-X: a table of messages, one per vector, with masks and pending bits (PCI 3.0, 6.8.2).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use viv_engine::{Msi, MsiTarget};

/// Message control: the function sends messages and leaves its INTx# alone.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: no vector sends.
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: this vector does not send.
const VECTOR_MASK: u32 = 1 << 0;
/// Bytes of a table entry.
const ENTRY: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address_low: u32,
    address_high: u32,
    data: u32,
    control: u32,
    pending: bool,
}

impl Entry {
    /// As after a reset.
    const MASKED: Self =
        Self { address_low: 0, address_high: 0, data: 0, control: VECTOR_MASK, pending: false };

    fn message(self) -> Msi {
        Msi { address: u64::from(self.address_low) | (u64::from(self.address_high) << 32), data: self.data }
    }

    fn register(&mut self, within: u64) -> Option<&mut u32> {
        match within {
            0 => Some(&mut self.address_low),
            4 => Some(&mut self.address_high),
            8 => Some(&mut self.data),
            12 => Some(&mut self.control),
            _ => None,
        }
    }
}

/// A function's MSI-X table and pending bits. The capability itself lies in the configuration space: the
/// function hands on what is written to it, by [`MsiX::set_control`].
pub struct MsiX {
    entries: Vec<Entry>,
    control: u16,
    target: Arc<dyn MsiTarget>,
}

impl MsiX {
    /// The part of the capability that the guest can write, for
    /// [`ConfigSpace::add_capability`](super::ConfigSpace::add_capability).
    pub const WRITABLE: [u8; 2] = (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes();

    /// A table with `vectors` entries, 1 to 2048.
    #[must_use]
    pub fn new(vectors: u16, target: Arc<dyn MsiTarget>) -> Self {
        let vectors = usize::from(vectors.clamp(1, 2048));
        Self { entries: vec![Entry::MASKED; vectors], control: 0, target }
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// The capability after its two bytes of header, with table and pending bits in BAR `bar` at offsets that
    /// are multiples of 8.
    #[must_use]
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        let fields = self.vectors().saturating_sub(1).to_le_bytes().into_iter();
        let fields = fields.chain((table | u32::from(bar)).to_le_bytes());
        let fields = fields.chain((pending | u32::from(bar)).to_le_bytes());
        for (byte, field) in body.iter_mut().zip(fields) {
            *byte = field;
        }
        body
    }

    /// Whether the guest has switched it on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.control & CONTROL_ENABLE != 0
    }

    /// Takes over the message control register. What had to wait and need not any longer is sent.
    pub fn set_control(&mut self, control: u16) {
        self.control = control;
        self.send_pending();
    }

    /// Sends a vector's message, or notes that it is due. A vector that does not exist sends nothing.
    pub fn signal(&mut self, vector: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector))
            && self.control & CONTROL_ENABLE != 0
        {
            entry.pending = true;
            self.send_pending_of(usize::from(vector));
        }
    }

    fn send_pending(&mut self) {
        for vector in 0..self.entries.len() {
            self.send_pending_of(vector);
        }
    }

    fn send_pending_of(&mut self, vector: usize) {
        let may_send = self.control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK) == CONTROL_ENABLE;
        if let Some(entry) = self.entries.get_mut(vector)
            && may_send
            && entry.pending
            && entry.control & VECTOR_MASK == 0
        {
            entry.pending = false;
            self.target.send_msi(entry.message());
        }
    }

    /// Reads the table: 4 or 8 bytes, aligned; anything else reads as zeroes.
    pub fn read_table(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, part) in registers(offset, data.len()).zip(data.chunks_exact_mut(4)) {
            if let Some(register) = self.register(at) {
                part.copy_from_slice(&register.to_le_bytes());
            }
        }
    }

    /// Writes the table: 4 or 8 bytes, aligned; anything else is dropped. A vector that is unmasked by it
    /// sends what is pending.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        for (at, part) in registers(offset, data.len()).zip(data.chunks_exact(4)) {
            if let (Some(register), Ok(value)) = (self.register(at), part.try_into()) {
                *register = u32::from_le_bytes(value);
            }
            self.send_pending_of(usize::try_from(at / ENTRY).unwrap_or(usize::MAX));
        }
    }

    fn register(&mut self, offset: u64) -> Option<&mut u32> {
        self.entries.get_mut(usize::try_from(offset / ENTRY).ok()?)?.register(offset % ENTRY)
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let first = usize::try_from(offset.saturating_mul(8)).unwrap_or(usize::MAX);
        let mut entries = self.entries.iter().skip(first);
        for byte in data {
            *byte = 0;
            for (bit, entry) in entries.by_ref().take(8).enumerate() {
                *byte |= u8::from(entry.pending) << bit;
            }
        }
    }

    /// As after power-on: off, everything masked, nothing pending.
    pub fn reset(&mut self) {
        self.control = 0;
        self.entries.fill(Entry::MASKED);
    }

    /// Its state.
    #[must_use]
    pub fn save(&self) -> MsiXState {
        MsiXState { entries: self.entries.clone(), control: self.control }
    }

    /// Takes over a state; nothing is sent. Returns false, and changes nothing, if its table has another size.
    #[must_use]
    pub fn restore(&mut self, state: &MsiXState) -> bool {
        let fits = state.entries.len() == self.entries.len();
        if fits {
            self.entries.clone_from(&state.entries);
            self.control = state.control;
        }
        fits
    }
}

/// The offsets of the registers that an access covers: none if it is not an aligned one of 4 or 8 bytes.
fn registers(offset: u64, length: usize) -> impl Iterator<Item = u64> {
    let fits = matches!(length, 4 | 8) && offset.is_multiple_of(4);
    [offset, offset.saturating_add(4)].into_iter().take(if fits { length / 4 } else { 0 })
}

/// A saved [`MsiX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiXState {
    entries: Vec<Entry>,
    control: u16,
}
