//! Where things are in a test machine. The first 2 MiB are mapped where they are, page by page.

/// The GDT: one page.
pub const GDT: u64 = 0x1000;
/// The IDT: one page.
pub const IDT: u64 = 0x2000;
/// The TSS.
pub const TSS: u64 = 0x3000;
/// Entry points of the 256 vectors.
pub const STUBS: u64 = 0x4000;
/// Bytes between two entry points.
pub const STUB_SIZE: u64 = 16;
/// What they lead to.
pub const HANDLER: u64 = 0x6000;
/// How many events were recorded, then the events.
pub const LOG: u64 = 0x7000;
/// What is to be done after an event, one word for each vector (see [`super::Action`]).
pub const ACTIONS: u64 = 0x8000;
/// The stack at privilege level 0.
pub const STACK_TOP: u64 = 0x1_0000;
/// The stack for events that come from user mode.
pub const RSP0_TOP: u64 = 0x1_2000;
/// The stack of interrupt-stack-table entry 1.
pub const IST1_TOP: u64 = 0x1_4000;
/// Supervisor code.
pub const CODE: u64 = 0x2_0000;
/// Supervisor data: four pages.
pub const DATA: u64 = 0x3_0000;
/// User code.
pub const USER_CODE: u64 = 0x4_0000;
/// User data: four pages.
pub const USER_DATA: u64 = 0x5_0000;
/// The user stack.
pub const USER_STACK_TOP: u64 = 0x6_0000;
/// The local APIC's registers, mapped here.
pub const APIC: u64 = 0x7_0000;
/// A page of device memory, mapped here.
pub const MMIO: u64 = 0x7_1000;
/// Where that page is.
pub const MMIO_PHYS: u64 = 0xd000_0000;
/// Page tables: the first is CR3's.
pub const TABLES: u64 = 0x10_0000;
/// The first address that is not mapped, and free RAM from there.
pub const FREE: u64 = 0x20_0000;
/// Size of RAM.
pub const RAM_SIZE: u64 = 0x100_0000;

/// Selectors in the GDT, in the order that SYSCALL and SYSENTER want.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x18 | 3;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER_CODE64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
    pub const CODE32: u16 = 0x40;
    /// The first of the entries that are free for tests.
    pub const FREE: u16 = 0x48;
}

/// Writing to this port stops the machine.
pub const PORT_STOP: u16 = 0xf4;
/// Writing to this port calls the test.
pub const PORT_HOOK: u16 = 0xf5;
/// The vector by which user code stops the machine.
pub const VECTOR_STOP: u8 = 0x81;
