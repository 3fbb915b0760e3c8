//! Names and numbers of virtio-mem (VIRTIO 1.3, 5.15).

/// Feature bit (5.15.3): the driver must not look at memory that is not plugged.
pub(super) const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// What a request asks (5.15.6).
pub(super) mod request {
    pub const PLUG: u16 = 0;
    pub const UNPLUG: u16 = 1;
    pub const UNPLUG_ALL: u16 = 2;
    pub const STATE: u16 = 3;
}

/// Bytes of a request: type and padding (8), address (8), number of blocks (2) and padding.
pub(super) const REQUEST: usize = 24;
/// Bytes of a response: type and padding (8), state (2).
pub(super) const RESPONSE: usize = 10;

/// How a request went (5.15.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Ack,
    State(State),
    Nack,
    Error,
}

impl Answer {
    pub fn encode(self) -> [u8; RESPONSE] {
        let (kind, state) = match self {
            Self::Ack => (0, 0),
            Self::State(state) => (0, state as u8),
            Self::Nack => (1, 0),
            Self::Error => (3, 0),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}

/// What the blocks of a range are, of which a request for their state tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// The configuration space (5.15.4); there are no nodes, and the whole region can be used at any time.
pub(super) fn config(start: u64, size: u64, plugged: u64, requested: u64) -> Vec<u8> {
    let words = [super::BLOCK, 0, start, size, size, plugged, requested];
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}
