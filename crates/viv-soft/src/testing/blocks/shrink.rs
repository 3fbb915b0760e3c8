//! Blocks made smaller while they still differ.

use super::super::DATA;
use super::super::differential::Layout;
use super::block::{Block, reads_undefined};

/// The smallest block found for which `differs` still holds.
pub fn shrink(block: &Block, mut differs: impl FnMut(&Block) -> bool) -> Block {
    let mut best = block.clone();
    let mut size = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shrunk = false;
        while at < best.steps.len() {
            let candidate = without(&best, at, size);
            if !reads_undefined(&candidate.steps) && differs(&candidate) {
                best = candidate;
                shrunk = true;
            } else {
                at += size;
            }
        }
        if size == 1 && !shrunk {
            break;
        }
        size = size.div_ceil(2);
    }
    let mut simplify = |change: &mut dyn FnMut(&mut Block)| {
        let mut candidate = best.clone();
        change(&mut candidate);
        if differs(&candidate) {
            best = candidate;
        }
    };
    simplify(&mut |block| block.layout = Layout::OPEN);
    simplify(&mut |block| block.data.fill(0));
    simplify(&mut |block| block.state.fpu = crate::hostexec::FpuState::reset());
    for flag in [0, 2, 4, 6, 7, 10, 11] {
        simplify(&mut |block| block.state.rflags &= !(1 << flag));
    }
    for gpr in 0..16 {
        simplify(&mut |block| block.state.gpr[gpr] = DATA.start + 0x1000);
        simplify(&mut |block| block.state.gpr[gpr] = 0);
    }
    best
}

/// A block without some of its steps. Branches to these lead to what follows.
fn without(block: &Block, at: usize, count: usize) -> Block {
    let mut smaller = block.clone();
    let end = block.steps.len().min(at + count);
    smaller.steps.drain(at..end);
    for step in &mut smaller.steps {
        if let Some(target) = &mut step.target {
            *target = if *target >= end { *target - (end - at) } else { (*target).min(at) };
        }
    }
    smaller
}
