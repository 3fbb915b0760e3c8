//! Worlds made smaller while their ends still differ, and how they differ.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};

use viv_arch::VcpuState;

use super::image::Image;
use super::layout::{FUEL, LOG, STOP, SYSTEM};
use super::ram::physical;
use super::run::{Outcome, Runner};
use super::world::{Gadget, World};
use super::{End, REFERENCE};
use crate::hostexec::ExecState;
use crate::options::Options;
use crate::translate::keeping_all_flags;

/// NOP: what takes the place of gadgets that do not matter.
pub const PADDING: u8 = 0x90;

/// The text for a world on which an engine and the interpreter differ.
pub fn explain(runner: &mut Runner, world: &World, seed: u64, engine: Options) -> String {
    let mut text = format!("VIV_LOCKSTEP_SEED={seed} VIV_LOCKSTEP_WORLDS=1: {engine:?} differs");
    let (small, gadgets) = shrink(world, |world| {
        let expected = runner.run(world, REFERENCE);
        expected.end != End::Endless
            && runner.run(world, engine) != expected
            && keeping_all_flags(|| runner.run(world, engine)) != expected
    });
    let expected = runner.run(&small, REFERENCE);
    let actual = runner.run(&small, engine);
    text += &difference(&expected, &actual);
    text += "\n  the events that handlers saw last, interpreted:";
    text += &expected.log();
    text += "\n  the last steps of random code, interpreted:";
    for (state, bytes) in runner.last_steps(&small, 60) {
        text += &step(&state, bytes);
    }
    let _ = write!(text, "\n  {} of {} gadgets are left:", gadgets.len(), world.gadgets.len());
    for gadget in &gadgets {
        text += &listing(&small, gadget);
    }
    let state = &small.state;
    let _ = write!(
        text,
        "\n  at first: RIP {:x}, {:x?}, CS {:x}, CR0 {:x}, CR4 {:x}, gpr {:x?}",
        state.rip,
        state.rflags,
        state.segments[1].selector,
        state.cr0.bits(),
        state.cr4.bits(),
        state.gpr
    );
    text
}

/// The world without the gadgets that do not matter, and those that are left.
fn shrink(world: &World, mut differs: impl FnMut(&World) -> bool) -> (World, Vec<Gadget>) {
    let mut best = world.clone();
    let mut left = world.gadgets.clone();
    let mut size = left.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shrunk = false;
        while at < left.len() {
            let end = left.len().min(at + size);
            let mut candidate = best.clone();
            for gadget in &left[at..end] {
                candidate.image.write(gadget.phys(), &vec![PADDING; gadget.len]);
            }
            if differs(&candidate) {
                best = candidate;
                left.drain(at..end);
                shrunk = true;
            } else {
                at = end;
            }
        }
        if size == 1 && !shrunk {
            break;
        }
        size = size.div_ceil(2);
    }
    // With less fuel, it ends nearer to where the two part.
    let mut less = fuel(&best);
    while less > 0 {
        let mut candidate = best.clone();
        candidate.image.write(FUEL, &(fuel(&best) - less).to_le_bytes());
        if differs(&candidate) {
            best = candidate;
            less = less.min(fuel(&best));
        } else {
            less /= 2;
        }
    }
    (best, left)
}

fn fuel(world: &World) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&world.image.bytes[Image::offset(FUEL)..][..4]);
    u32::from_le_bytes(bytes)
}

/// An instruction with the registers before it.
fn step(state: &ExecState, bytes: [u8; 15]) -> String {
    let instruction = Decoder::with_ip(64, &bytes, state.rip, DecoderOptions::NONE).decode();
    let mut words = String::new();
    FastFormatter::new().format(&instruction, &mut words);
    let hex: String = bytes[..instruction.len()].iter().map(|byte| format!("{byte:02x}")).collect();
    let gpr: Vec<String> = state.gpr.iter().map(|value| format!("{value:x}")).collect();
    format!("\n    {:x}: {hex:<24} {words:<40} flags {:x} gpr {}", state.rip, state.rflags, gpr.join(" "))
}

/// What differs between two outcomes.
fn difference(expected: &Outcome, actual: &Outcome) -> String {
    let mut text = String::new();
    let mut differ = |what: &str, left: String, right: String| {
        if left != right {
            let _ = write!(text, "\n  {what}: interpreted {left}, here {right}");
        }
    };
    differ("end", format!("{:?}", expected.end), format!("{:?}", actual.end));
    differ("wrong", format!("{:?}", expected.wrong), format!("{:?}", actual.wrong));
    let (left, right) = (&expected.state, &actual.state);
    differ("rip", format!("{:x}", left.rip), format!("{:x}", right.rip));
    differ("rflags", format!("{:x}", left.rflags), format!("{:x}", right.rflags));
    for n in 0..16 {
        differ(&format!("gpr {n}"), format!("{:x}", left.gpr[n]), format!("{:x}", right.gpr[n]));
    }
    let others = |state: &VcpuState| {
        let VcpuState { segments, ldtr, tr, gdtr, idtr, cr0, cr2, cr3, cr4, cr8, .. } = state;
        [
            format!("{segments:x?} {ldtr:x?} {tr:x?} {gdtr:x?} {idtr:x?}"),
            format!("CR0 {:x} CR2 {cr2:x} CR3 {cr3:x} CR4 {:x} CR8 {cr8:x}", cr0.bits(), cr4.bits()),
            format!("XCR0 {:x} EFER {:x} {:x?}", state.xcr0, state.efer.bits(), state.msrs),
            format!("{:x?} {:?} {:?}", state.debug, state.pending, state.run_state),
        ]
    };
    for (left, right) in others(left).into_iter().zip(others(right)) {
        differ("state", left, right);
    }
    for (what, left, right) in [("XSAVE area", &left.xsave, &right.xsave), ("APIC", &left.apic, &right.apic)]
    {
        let at = left.iter().zip(right).position(|(left, right)| left != right);
        if let Some(at) = at {
            let part = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 16)]);
            differ(&format!("{what} at {at:#x}"), part(left), part(right));
        }
    }
    let at = expected.accesses.iter().zip(&actual.accesses).position(|(left, right)| left != right);
    let counts = [&expected.accesses, &actual.accesses].map(Vec::len);
    differ("number of accesses", counts[0].to_string(), counts[1].to_string());
    if let Some(at) = at {
        differ(
            &format!("access {at}"),
            format!("{:x?}", expected.accesses[at]),
            format!("{:x?}", actual.accesses[at]),
        );
    }
    let mut at = 0;
    for _ in 0..6 {
        let next = expected.ram[at..].iter().zip(&actual.ram[at..]).position(|(left, right)| left != right);
        let Some(next) = next else { break };
        at = (at + next) & !7;
        let part = |ram: &[u8]| format!("{:02x?}", &ram[at..at + 8]);
        differ(&format!("RAM at {:#x}", physical(at)), part(&expected.ram), part(&actual.ram));
        at += 8;
    }
    text
}

impl Outcome {
    /// How many events handlers saw.
    pub fn events(&self) -> u64 {
        self.word(super::layout::CONTROL)
    }

    fn word(&self, phys: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.ram[Image::offset(phys)..][..8]);
        u64::from_le_bytes(bytes)
    }

    /// The events that handlers saw last.
    fn log(&self) -> String {
        let count = self.events();
        let mut text = String::new();
        for n in count.saturating_sub(12)..count {
            let at = LOG + (n & 63) * 64;
            let [vector, error, rip, code, flags, stack, cr2] =
                [0, 1, 2, 3, 4, 5, 7].map(|word| self.word(at + 8 * word));
            let _ = write!(
                text,
                "\n    vector {vector:2} error {error:x} at {code:x}:{rip:x} flags {flags:x} stack {stack:x} CR2 {cr2:x}"
            );
        }
        let _ = write!(text, "\n    stops at {:x} (STOP is {:x})", self.state.rip, SYSTEM + STOP);
        text
    }
}

/// A gadget's instructions.
fn listing(world: &World, gadget: &Gadget) -> String {
    let at = Image::offset(gadget.phys());
    let bytes = &world.image.bytes[at..at + gadget.len];
    let mut decoder = Decoder::with_ip(gadget.mode.bitness(), bytes, gadget.linear, DecoderOptions::NONE);
    let mut text = String::new();
    let mut formatter = FastFormatter::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let start = (instruction.ip() - gadget.linear) as usize;
        let hex: String =
            bytes[start..start + instruction.len()].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut words = String::new();
        formatter.format(&instruction, &mut words);
        let _ = write!(text, "\n    {:x}: {hex:<30} {words}", instruction.ip());
    }
    text
}
