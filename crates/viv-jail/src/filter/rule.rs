//! Rules of filters, and their way to the kernel's form.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A system call, if its arguments pass all tests. Several rules for one call are alternatives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) call: c_long,
    tests: &'static [Test],
}

/// What an argument has to be; the first has number 0. They are 32 bits wide to the kernel where not said otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    /// This value.
    Is(u8, u32),
    /// This value in the bits of the mask.
    Masked(u8, u32, u32),
    /// None of these bits, of 64.
    Lacks(u8, u64),
    /// Not 0, in 64 bits.
    NotZero(u8),
    /// The number of this process.
    OwnProcess(u8),
}

/// A system call with any arguments.
pub(super) const fn any(call: c_long) -> Rule {
    Rule { call, tests: &[] }
}

/// A system call whose arguments pass all tests.
pub(super) const fn when(call: c_long, tests: &'static [Test]) -> Rule {
    Rule { call, tests }
}

impl Test {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        let (argument, length, operator, value) = match self {
            Self::Is(argument, value) => (argument, Dword, SeccompCmpOp::Eq, u64::from(value)),
            Self::Masked(argument, mask, value) => {
                (argument, Dword, SeccompCmpOp::MaskedEq(u64::from(mask)), u64::from(value))
            }
            Self::Lacks(argument, bits) => (argument, Qword, SeccompCmpOp::MaskedEq(bits), 0),
            Self::NotZero(argument) => (argument, Qword, SeccompCmpOp::Ne, 0),
            Self::OwnProcess(argument) => (argument, Dword, SeccompCmpOp::Eq, u64::from(std::process::id())),
        };
        SeccompCondition::new(argument, length, operator, value)
    }
}

/// A filter that does `found` with what the lists have, and `other` with all else.
pub(super) fn compile(
    lists: &[&[Rule]],
    other: SeccompAction,
    found: SeccompAction,
) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for Rule { call, tests } in lists.iter().copied().flatten() {
        let alternatives = rules.entry(*call).or_default();
        if tests.is_empty() {
            always.push(*call);
        } else {
            let conditions = tests.iter().map(|test| test.condition()).collect::<Result<_, _>>();
            alternatives.push(conditions.and_then(SeccompRule::new).map_err(io::Error::other)?);
        }
    }
    // No alternatives means: always.
    for call in always {
        rules.insert(call, Vec::new());
    }
    SeccompFilter::new(rules, other, found, std::env::consts::ARCH.try_into().map_err(io::Error::other)?)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}
