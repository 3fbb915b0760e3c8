//! Where things are in a machine of the fuzzer's.
//!
//! RAM is in two parts. The lower one is the system's: descriptors, handlers, stacks, page tables, mapped for the
//! supervisor at [`SYSTEM`] and above. The upper one is what random code runs in and works on: [`PLAY`], mapped in many
//! ways at low addresses.

use viv_arch::paging::PAGE_SIZE;

/// The system's RAM, from physical address 0.
pub const SYSTEM_SIZE: u64 = 0x4_0000;
/// Where it is mapped, by physical address.
pub const SYSTEM: u64 = 0xffff_ff00_0000_0000;

/// The GDT, with the TSS in the same page.
pub const GDT: u64 = 0;
pub const TSS: u64 = 0x800;
pub const IDT: u64 = 0x1000;
/// Entry points of the 256 vectors.
pub const STUBS: u64 = 0x2000;
pub const STUB_SIZE: u64 = 16;
/// What they lead to.
pub const HANDLER: u64 = 0x3000;
/// Where SYSCALL leads to.
pub const SYSCALL: u64 = 0x3800;
/// Where the machine is stopped.
pub const STOP: u64 = 0x3c00;
/// Tables and counters of the handler.
pub const CONTROL: u64 = 0x4000;
/// The events that handlers saw last: 64 bytes each.
pub const LOG: u64 = 0x5000;
/// The stacks of the interrupt-stack table, and that of privilege level 0.
pub const IST1_TOP: u64 = 0x7000;
pub const IST2_TOP: u64 = 0x8000;
pub const IST3_TOP: u64 = 0x9000;
pub const RSP0_TOP: u64 = 0xb000;
/// How much longer random code may run: a word of it for each step that may repeat.
pub const FUEL: u64 = 0xb000;
/// Page tables.
pub const TABLES: u64 = 0x1_0000;
/// The local APIC, in the same linear region.
pub const APIC: u64 = SYSTEM + 0x10_0000;

/// Where [`FUEL`] is for random code.
pub const USER_FUEL: u64 = 0x0fff_0000;

/// The playground: RAM of random code.
pub const PLAY: u64 = 0x20_0000;
pub const PLAY_PAGES: u64 = 56;
pub const PLAY_SIZE: u64 = PLAY_PAGES * PAGE_SIZE;
/// The first pages of it hold code; nothing else leads there but aliases.
pub const CODE_PAGES: u64 = 8;

/// Device memory.
pub const DEVICE: u64 = 0xd000_0000;

/// Linear pages that lead to the playground in both address spaces, which may map them differently.
pub const MAPPED: u64 = 0x1000_0000;
pub const MAPPED_PAGES: u64 = 64;
/// Pages whose mapping changes while code runs.
pub const VOLATILE: u64 = 0x1010_0000;
pub const VOLATILE_PAGES: u64 = 16;
/// Large pages: the playground and what is behind it, where nothing is but devices.
pub const LARGE: [u64; 3] = [0x1020_0000, 0x1040_0000, 0x1060_0000];

/// Selectors in the GDT, in the order that SYSCALL and SYSENTER want.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x18 | 3;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER_CODE64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
    pub const CODE32: u16 = 0x40;
    pub const ALL: [u16; 8] = [0, CODE64, DATA, USER_CODE32, USER_DATA, USER_CODE64, CODE32, USER_DATA & !3];
}

/// Vectors of INT n that have a meaning: to stop, to post an interrupt, and to change a page's mapping.
pub mod service {
    pub const STOP: u8 = 0x81;
    /// Edge-triggered; the next three are level-triggered, NMI and ExtINT.
    pub const EDGE: u8 = 0x82;
    pub const EXTINT: u8 = 0x85;
    pub const REMAP: u8 = 0x86;
}

/// Ports that the platform acts on. Nothing but handlers writes to them, with interrupts disabled and in the shadow of MOV
/// SS, so that where one is taken, an NMI too, does not depend on where an engine looks for them.
pub mod port {
    pub const STOP: u16 = 0x7a30;
    pub const EDGE: u16 = 0x7a31;
    pub const LEVEL: u16 = 0x7a32;
    pub const NMI: u16 = 0x7a33;
    pub const EXTINT: u16 = 0x7a34;
}

/// Offsets in [`CONTROL`].
pub mod control {
    /// Events so far.
    pub const COUNT: u64 = 0;
    /// Where user code goes on after a fault, and where supervisor code does: 32 addresses each.
    pub const RESUME_USER: u64 = 0x100;
    pub const RESUME_SUPERVISOR: u64 = 0x200;
    /// Where its stack then is.
    pub const STACKS: u64 = 0x300;
    /// What some of its registers then are: 64 values.
    pub const POINTERS: u64 = 0x400;
    /// Vectors to post: 32 bytes.
    pub const VECTORS: u64 = 0x600;
    /// What is done about each vector ([`super::class`]): 16 bits each.
    pub const CLASS: u64 = 0x700;
    /// Page-table entries by their addresses, what goes there, and the pages that they map: 32 of each.
    pub const ENTRIES: u64 = 0x900;
    pub const MAPPINGS: u64 = 0xa00;
    pub const REMAPPED: u64 = 0xb00;
}

/// What a handler does about a vector.
pub mod class {
    /// Hides the arithmetic flags, which may be dead where it came.
    pub const HIDES_FLAGS: u16 = 1 << 0;
    /// Goes on elsewhere.
    pub const MOVES: u16 = 1 << 1;
    /// Ends the interrupt at the local APIC.
    pub const ENDS: u16 = 1 << 2;
    /// Sets RF, clears DR6, and TF now and then.
    pub const DEBUG: u16 = 1 << 3;
    /// Ends the run.
    pub const STOPS: u16 = 1 << 4;
    /// Posts an interrupt, to the port whose offset is in the next two bits.
    pub const POSTS: u16 = 1 << 5;
    /// Changes the mapping of a page, and has the TLB forget it.
    pub const REMAPS: u16 = 1 << 8;
}
