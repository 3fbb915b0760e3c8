//! What writing the code of a trace takes.

use iced_x86::{Encoder, InstructionInfoFactory};

use super::asm::{Asm, Label};
use super::emit::{Cold, Emitted, PendingEdge};
use super::extents::Extents;
use super::retreat;

/// It is costly to make, and so is kept.
pub struct Tools {
    pub encoder: Encoder,
    pub info: InstructionInfoFactory,
    pub(super) room: Room,
    pub(super) emitted: Emitted,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            room: Room::default(),
            emitted: Emitted::default(),
        }
    }
}

/// Room for what is known of a trace while its code is written, used again for every trace.
#[derive(Default)]
pub(super) struct Room {
    pub asm: Asm,
    pub extents: Extents,
    pub cold: Vec<Cold>,
    pub edges: Vec<PendingEdge>,
    pub fault_sites: Vec<(u64, Label)>,
    pub retreats: Vec<retreat::Entry>,
    pub joins: Vec<(usize, Label, bool)>,
}

impl Room {
    /// Forgets what was known of the last one, but for what begins anew by itself.
    pub fn clear(&mut self) {
        self.cold.clear();
        self.edges.clear();
        self.fault_sites.clear();
        self.retreats.clear();
        self.joins.clear();
    }
}
