//! A random machine: what is in its RAM, and the state that its processor starts from.

use viv_arch::paging::PAGE_SIZE;
use viv_arch::{
    Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, SegmentRegister, VcpuState, apic, msr, xsave,
};

use super::gadgets::Island;
use super::image::Image;
use super::layout::*;
use super::places::Places;
use super::system;
use crate::testing::blocks::Pool;
use crate::testing::case::{operand, random_state};
use crate::testing::{Mode, Rng};

/// A machine before it runs.
#[derive(Clone)]
pub struct World {
    pub image: Image,
    pub state: VcpuState,
    /// The gadgets of its code.
    pub gadgets: Vec<Gadget>,
}

/// Where a gadget is.
#[derive(Debug, Clone, Copy)]
pub struct Gadget {
    pub mode: Mode,
    pub linear: u64,
    pub len: usize,
}

impl Gadget {
    /// Its physical address.
    pub fn phys(&self) -> u64 {
        PLAY + self.linear - MAPPED
    }
}

/// The forms that code is made of.
pub struct Pools {
    wide: Pool,
    narrow: Pool,
}

impl Default for Pools {
    fn default() -> Self {
        Self { wide: Pool::new(Mode::Bits64), narrow: Pool::new(Mode::Bits32) }
    }
}

impl World {
    /// The world of a seed.
    pub fn random(seed: u64, pools: &Pools) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let mut image = Image::new();
        system::write(&mut image, rng);
        let user = rng.one_in(2);
        let places = Places::write(&mut image, user, rng);
        let main = if user && rng.one_in(5) { Mode::Bits32 } else { Mode::Bits64 };
        let mut code = Code { pools, places: &places, entries: Vec::new(), gadgets: Vec::new() };
        if rng.one_in(2) {
            let bytes: Vec<u8> = (0..CODE_PAGES * PAGE_SIZE).map(|_| rng.next_u64() as u8).collect();
            image.write(PLAY, &bytes);
        }
        let other = if main == Mode::Bits64 && rng.one_in(2) { Mode::Bits32 } else { Mode::Bits64 };
        code.write(&mut image, 0..4, main, rng);
        code.write(&mut image, 4..6, other, rng);
        code.write(&mut image, 6..CODE_PAGES, main, rng);
        let Code { entries, gadgets, .. } = code;
        write_data(&mut image, &places, &entries, rng);
        write_control(&mut image, &places, &entries, rng);
        let state = start(&places, main, &entries, rng);
        Self { image, state, gadgets }
    }
}

/// The code as it is written.
struct Code<'a> {
    pools: &'a Pools,
    places: &'a Places,
    /// Linear addresses of gadgets.
    entries: Vec<u64>,
    gadgets: Vec<Gadget>,
}

impl Code<'_> {
    /// Writes code into pages that follow each other: in some of their middles, and across each border.
    fn write(&mut self, image: &mut Image, pages: std::ops::Range<u64>, mode: Mode, rng: &mut Rng) {
        for page in pages.clone() {
            let start = page * PAGE_SIZE;
            let first = if page == pages.start { 0 } else { PAGE_SIZE - rng.below(200) - 1 };
            let at = if page == pages.start { start } else { start - PAGE_SIZE + first };
            self.island(image, mode, MAPPED + at, 200 + rng.below(400), rng);
            if rng.one_in(2) {
                let at = MAPPED + start + 1200 + rng.below(1000);
                self.island(image, mode, at, 80 + rng.below(400), rng);
            }
        }
    }

    fn island(&mut self, image: &mut Image, mode: Mode, base: u64, size: u64, rng: &mut Rng) {
        let pool = if mode == Mode::Bits64 { &self.pools.wide } else { &self.pools.narrow };
        let mut island = Island::new(mode, pool, self.places, base, &self.entries);
        island.fill(size as usize, rng);
        let Island { bytes, starts, .. } = island;
        image.write(PLAY + base - MAPPED, &bytes);
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        for (&start, end) in starts.iter().zip(ends) {
            let linear = base + start as u64;
            self.entries.push(linear);
            if end > start {
                self.gadgets.push(Gadget { mode, linear, len: end - start });
            }
        }
    }
}

/// Fills the playground behind the code: with numbers, pointers, and addresses of code.
fn write_data(image: &mut Image, places: &Places, entries: &[u64], rng: &mut Rng) {
    for at in (CODE_PAGES * PAGE_SIZE..PLAY_SIZE).step_by(8) {
        let word = match rng.below(8) {
            0..2 => places.pointer(rng),
            2 => rng.pick(entries),
            3..6 => continue,
            _ => operand(rng),
        };
        image.write_word(PLAY + at, word);
    }
}

fn write_control(image: &mut Image, places: &Places, entries: &[u64], rng: &mut Rng) {
    let field = |offset: u64, n: u64| CONTROL + offset + 8 * n;
    for n in 0..32 {
        for table in [control::RESUME_USER, control::RESUME_SUPERVISOR] {
            let entry = rng.pick(entries);
            let entry = match rng.below(12) {
                0 => entry + rng.below(8),
                1 => places.alias(entry - MAPPED, rng),
                2 => VOLATILE + rng.below(VOLATILE_PAGES) * PAGE_SIZE + entry % PAGE_SIZE,
                _ => entry,
            };
            image.write_word(field(table, n), entry);
        }
        image.write_word(field(control::STACKS, n), places.stack(rng));
        let page = rng.below(VOLATILE_PAGES);
        image.write_word(field(control::ENTRIES, n), SYSTEM + places.entries[page as usize]);
        image.write_word(field(control::MAPPINGS, n), places.volatile_entry(rng));
        image.write_word(field(control::REMAPPED, n), VOLATILE + page * PAGE_SIZE);
    }
    for n in 0..64 {
        image.write_word(field(control::POINTERS, n), places.pointer(rng));
    }
    let vectors: Vec<u8> =
        (0..32).map(|_| rng.pick(&[0x30, 0x40, 0x90, 0xa0, 0xe0]) + rng.below(16) as u8).collect();
    image.write(CONTROL + control::VECTORS, &vectors);
    let fuel = 200 + rng.below(2000) as u32;
    image.write(FUEL, &fuel.to_le_bytes());
}

/// The state that it starts from.
fn start(places: &Places, mode: Mode, entries: &[u64], rng: &mut Rng) -> VcpuState {
    let registers = random_state(rng);
    let mut state = VcpuState::reset();
    registers.fpu.to_xsave(&mut state.xsave);
    for gpr in &mut state.gpr {
        *gpr = if rng.one_in(3) { rng.interesting() } else { places.pointer(rng) };
    }
    state.gpr[Gpr::Rsp as usize] = places.stack(rng);
    state.rip = entries[0];
    let privilege = rng.pick(&[Rflags::empty(), Rflags::IOPL]);
    state.rflags = Rflags::from_bits_retain(registers.rflags & 0xcd7)
        | Rflags::RESERVED_1
        | if rng.one_in(4) { Rflags::empty() } else { Rflags::IF }
        | if places.user { privilege } else { Rflags::empty() };
    let (code, data) = match (places.user, mode) {
        (true, Mode::Bits64) => (selector::USER_CODE64, selector::USER_DATA),
        (true, Mode::Bits32) => (selector::USER_CODE32, selector::USER_DATA),
        (false, _) => (selector::CODE64, selector::DATA),
    };
    state.segments = [system::segment(data); 6];
    state.segments[SegmentRegister::Cs as usize] = system::segment(code);
    for register in [SegmentRegister::Fs, SegmentRegister::Gs] {
        state.segments[register as usize].base = places.stack(rng);
    }
    state.tr = system::tss();
    state.ldtr = Segment { selector: 0, attributes: Segment::UNUSABLE, limit: 0, base: 0 };
    state.gdtr = DescriptorTable { base: SYSTEM + GDT, limit: 0x4f };
    state.idtr = DescriptorTable { base: SYSTEM + IDT, limit: 0xfff };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.cr3 = places.roots[0];
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    for flag in [Cr4::PGE, Cr4::OSXSAVE, Cr4::OSXSAVE, Cr4::FSGSBASE, Cr4::DE, Cr4::UMIP, Cr4::TSD] {
        state.cr4.set(flag, state.cr4.contains(flag) || rng.one_in(2));
    }
    // User pages are of little use to supervisors with these, but that is to be seen, too.
    for flag in [Cr4::SMEP, Cr4::SMAP] {
        state.cr4.set(flag, rng.one_in(3));
    }
    state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    state.xcr0 = xsave::SUPPORTED;
    let star = u64::from(selector::USER_CODE32 & !3) << 48 | u64::from(selector::CODE64) << 32;
    state.msrs = vec![
        (msr::IA32_STAR, star),
        (msr::IA32_LSTAR, SYSTEM + SYSCALL),
        (msr::IA32_FMASK, 0x4_0700),
        (msr::IA32_KERNEL_GS_BASE, SYSTEM),
    ];
    state.apic = vec![0; 1024];
    let mut set = |register: u32, value: u32| {
        state.apic[register as usize * 16..][..4].copy_from_slice(&value.to_le_bytes());
    };
    set(apic::reg::SVR, 0x1ff);
    set(apic::reg::DFR, u32::MAX);
    for lvt in [apic::reg::LVT_TIMER, apic::reg::LVT_LINT0, apic::reg::LVT_LINT1, apic::reg::LVT_ERROR] {
        set(lvt, 1 << 16);
    }
    // ExtINT, by way of the local APIC.
    set(apic::reg::LVT_LINT0, 7 << 8);
    state
}
