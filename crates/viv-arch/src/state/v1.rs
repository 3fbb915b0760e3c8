//! Version 1 of the saved form.

use serde::Deserialize;

use super::{AcceptedEvent, PendingEvents, RunState, VcpuState};
use crate::control::{Cr0, Cr4, Efer};
use crate::flags::Rflags;
use crate::segment::{DescriptorTable, Segment};

/// A [`VcpuState`] that was saved in version 1, which had no place for [`VcpuState::pdptes`],
/// [`VcpuState::woken`] and [`PendingEvents::accepted`].
#[derive(Debug, Deserialize)]
pub struct VcpuStateV1(#[serde(with = "Fields")] pub VcpuState);

#[derive(Deserialize)]
#[serde(remote = "VcpuState")]
struct Fields {
    gpr: [u64; 16],
    rip: u64,
    rflags: Rflags,
    segments: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: DescriptorTable,
    idtr: DescriptorTable,
    cr0: Cr0,
    cr2: u64,
    cr3: u64,
    cr4: Cr4,
    cr8: u64,
    xcr0: u64,
    debug: [u64; 6],
    efer: Efer,
    msrs: Vec<(u32, u64)>,
    xsave: Vec<u8>,
    apic: Vec<u8>,
    tsc: u64,
    #[serde(with = "PendingFields")]
    pending: PendingEvents,
    run_state: RunState,
    #[serde(skip)]
    pdptes: Option<[u64; 4]>,
    #[serde(skip)]
    woken: bool,
}

#[derive(Deserialize)]
#[serde(remote = "PendingEvents")]
struct PendingFields {
    nmi: bool,
    nmi_blocked: bool,
    interrupt_shadow: bool,
    #[serde(skip)]
    accepted: Option<AcceptedEvent>,
}
