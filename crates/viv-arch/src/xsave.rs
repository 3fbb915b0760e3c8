//! The XSAVE area in its standard format (SDM vol. 1, 13.4).

/// State component x87.
pub const X87: u64 = 1 << 0;
/// State component SSE: XMM registers and MXCSR.
pub const SSE: u64 = 1 << 1;
/// State component AVX: upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;

/// The components that guests are offered.
pub const SUPPORTED: u64 = X87 | SSE | AVX;

/// Offset of XSTATE_BV in the header.
pub const XSTATE_BV: usize = 512;
/// Offset of XCOMP_BV in the header.
pub const XCOMP_BV: usize = 520;
/// Size of the legacy region and the header.
pub const HEADER_END: usize = 576;
/// Offset of the AVX component.
pub const AVX_OFFSET: usize = 576;
/// Size of the AVX component.
pub const AVX_SIZE: usize = 256;
/// Size of an area with all of [`SUPPORTED`].
pub const AREA_SIZE: usize = AVX_OFFSET + AVX_SIZE;

/// Offset of FCW in the legacy region (SDM vol. 1, table 10-2).
pub const FCW: usize = 0;
/// Offset of FSW.
pub const FSW: usize = 2;
/// Offset of the abridged FTW.
pub const FTW: usize = 4;
/// Offset of FOP.
pub const FOP: usize = 6;
/// Offset of FIP.
pub const FIP: usize = 8;
/// Offset of FDP.
pub const FDP: usize = 16;
/// Offset of MXCSR.
pub const MXCSR: usize = 24;
/// Offset of MXCSR_MASK.
pub const MXCSR_MASK: usize = 28;
/// Offset of ST0/MM0; each register takes 16 bytes.
pub const ST0: usize = 32;
/// Offset of XMM0; each register takes 16 bytes.
pub const XMM0: usize = 160;

/// MXCSR after reset.
pub const MXCSR_INIT: u32 = 0x1f80;
/// The MXCSR bits that may be set.
pub const MXCSR_VALID: u32 = 0xffff;
/// FCW after FNINIT.
pub const FCW_INIT: u16 = 0x037f;
