//! A whole machine as bytes.
//!
//! A snapshot is a head, a `SavedMachine` and the pages of RAM that are not zero:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `vivsnap`, 0 |
//! | 2 | the version of this form, little-endian as all that follows |
//! | 2 | [`VcpuState::VERSION`] |
//! | 4 | length of the state |
//! | … | the state, in postcard's format |
//! | 12 + 4096 n | a run of pages: number of the first (8), n (4), the pages; any number of runs, ascending |
//! | 12 | the end: how many pages there were (8), 0 (4) |
//!
//! A snapshot may come from anywhere. Every length is checked before anything is allocated for it, every page
//! before it is written, and what devices and engines make of their states is theirs to check.

mod memory;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use viv_arch::state::VcpuStateV1;
use viv_arch::{CpuidTable, VcpuState};
use viv_devices::SavedState;

pub(crate) use memory::{PageSet, read_pages, write_pages};

/// How a snapshot begins.
const MAGIC: [u8; 8] = *b"vivsnap\0";
/// The version of the form.
const VERSION: u16 = 1;
/// The longest state that is taken: well above 254 vCPUs and all disks.
const MAX_STATE: u32 = 64 << 20;

/// Everything of a machine but its RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedMachine<V = VcpuState> {
    /// The machine's name, for messages.
    pub(crate) name: String,
    /// RAM in bytes.
    pub(crate) memory_bytes: u64,
    /// What CPUID answers.
    pub(crate) cpuid: CpuidTable,
    /// Frequency of the TSC.
    pub(crate) tsc_khz: u32,
    /// Guest time in nanoseconds.
    pub(crate) clock: u64,
    /// How often the machine was reset.
    pub(crate) resets: u64,
    /// The vCPUs, by index.
    pub(crate) vcpus: Vec<V>,
    /// The devices.
    pub(crate) devices: Vec<SavedState>,
}

impl From<SavedMachine<VcpuStateV1>> for SavedMachine {
    fn from(saved: SavedMachine<VcpuStateV1>) -> Self {
        let SavedMachine { name, memory_bytes, cpuid, tsc_khz, clock, resets, vcpus, devices } = saved;
        let vcpus = vcpus.into_iter().map(|VcpuStateV1(state)| state).collect();
        Self { name, memory_bytes, cpuid, tsc_khz, clock, resets, vcpus, devices }
    }
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file or stream failed.
    #[error("cannot {action} the snapshot")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("this is no snapshot of a machine")]
    NoSnapshot,
    /// It is from another version of the program.
    #[error("the snapshot has version {found}; this program knows version {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Its vCPU states are from another version of the program.
    #[error(
        "the snapshot's vCPU states have version {found}; this program knows version {}",
        VcpuState::VERSION
    )]
    VcpuVersion {
        /// The version found.
        found: u16,
    },
    /// It contradicts itself.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// Its state does not decode.
    #[error("the snapshot is damaged: its state does not decode")]
    Decode(#[source] postcard::Error),
    /// The state does not encode.
    #[error("the machine's state cannot be written")]
    Encode(#[source] postcard::Error),
}

impl SnapshotError {
    fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early"),
            _ => Self::Io { action, source },
        }
    }
}

/// Writes the head and the state; [`write_pages`] goes on.
pub(crate) fn write_state(out: &mut impl Write, state: &SavedMachine) -> Result<(), SnapshotError> {
    let bytes = postcard::to_stdvec(state).map_err(SnapshotError::Encode)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|&length| length <= MAX_STATE)
        .ok_or(SnapshotError::Encode(postcard::Error::SerializeBufferFull))?;
    let mut head = Vec::from(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(VcpuState::VERSION.to_le_bytes());
    head.extend(length.to_le_bytes());
    out.write_all(&head).and_then(|()| out.write_all(&bytes)).map_err(SnapshotError::io("write"))
}

/// Reads the head and the state; [`read_pages`] goes on.
pub(crate) fn read_state(input: &mut impl Read) -> Result<SavedMachine, SnapshotError> {
    if read_array::<8>(input)? != MAGIC {
        return Err(SnapshotError::NoSnapshot);
    }
    let found = u16::from_le_bytes(read_array(input)?);
    if found != VERSION {
        return Err(SnapshotError::Version { found });
    }
    let vcpu_version = u16::from_le_bytes(read_array(input)?);
    if !(1..=VcpuState::VERSION).contains(&vcpu_version) {
        return Err(SnapshotError::VcpuVersion { found: vcpu_version });
    }
    let length = u32::from_le_bytes(read_array(input)?);
    if length > MAX_STATE {
        return Err(SnapshotError::Damaged("its state is longer than any machine's"));
    }
    let mut bytes = Vec::new();
    // Grows with what is there, not with what is announced.
    input.take(length.into()).read_to_end(&mut bytes).map_err(SnapshotError::io("read"))?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(SnapshotError::Damaged("it ends too early"));
    }
    match vcpu_version {
        1 => postcard::from_bytes::<SavedMachine<VcpuStateV1>>(&bytes).map(SavedMachine::from),
        _ => postcard::from_bytes(&bytes),
    }
    .map_err(SnapshotError::Decode)
}

fn read_array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], SnapshotError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(SnapshotError::io("read"))?;
    Ok(bytes)
}
