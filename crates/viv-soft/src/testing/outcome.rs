//! What came of executing something, and how two such outcomes differ.

use std::fmt::Write as _;

use iced_x86::Instruction;
use viv_arch::Exception;

use super::DATA;
use crate::hostexec::ExecState;

/// Everything that instructions can change, and the exception that kept one from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Registers.
    pub state: ExecState,
    /// Contents of [`DATA`].
    pub data: Vec<u8>,
    /// The exception, if there was one.
    pub fault: Option<Exception>,
}

/// The flags that the manual calls undefined after the instruction.
#[must_use]
pub fn undefined_flags(instruction: &Instruction) -> u64 {
    flags(instruction.rflags_undefined())
}

/// The decoder's names of arithmetic flags as bits of RFLAGS.
#[must_use]
pub fn flags(bits: u32) -> u64 {
    use iced_x86::RflagsBits as Bits;
    [(Bits::CF, 0), (Bits::PF, 2), (Bits::AF, 4), (Bits::ZF, 6), (Bits::SF, 7), (Bits::OF, 11)]
        .into_iter()
        .filter(|(flag, _)| bits & flag != 0)
        .fold(0, |flags, (_, bit)| flags | 1 << bit)
}

/// What differs between two outcomes that began alike, in words: each with its name.
#[must_use]
pub fn difference(
    (state, data): (&ExecState, &[u8]),
    (name, expected): (&str, &Outcome),
    (other, actual): (&str, &Outcome),
) -> String {
    let mut text = String::new();
    let mut differ = |what: &str, [before, left, right]: [String; 3]| {
        if left != right {
            let _ = write!(text, "\n  {what}: {before} -> {name} {left}, {other} {right}");
        }
    };
    let states = [state, &expected.state, &actual.state];
    differ(
        "exception",
        ["none".to_owned(), format!("{:x?}", expected.fault), format!("{:x?}", actual.fault)],
    );
    differ("rip", states.map(|state| format!("{:x}", state.rip)));
    differ("rflags", states.map(|state| format!("{:x}", state.rflags)));
    for n in 0..16 {
        differ(&format!("gpr {n}"), states.map(|state| format!("{:x}", state.gpr[n])));
        differ(&format!("ymm {n}"), states.map(|state| format!("{:02x?}", state.fpu.ymm[n])));
    }
    differ("x87 control and MXCSR", states.map(|state| format!("{:02x?}", &state.fpu.fx[..28])));
    differ("st", states.map(|state| format!("{:02x?}", &state.fpu.fx[32..160])));
    let changed = (0..data.len()).find(|&n| expected.data[n] != actual.data[n]);
    if let Some(at) = changed {
        let shown = at..data.len().min(at + 32);
        let parts = [data, &expected.data, &actual.data].map(|data| format!("{:02x?}", &data[shown.clone()]));
        differ(&format!("memory at {:#x}", DATA.start + at as u64), parts);
    }
    let _ = write!(text, "\n  before: flags {:x}, gpr {:x?}", state.rflags, state.gpr);
    text
}
