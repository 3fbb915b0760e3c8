//! 32-bit paging and PAE paging (SDM vol. 3, 4.3 and 4.4), rights against the model of [`crate::paging`].

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, Efer, Gpr, Rflags, VcpuState, paging};

use crate::machine::*;
use crate::paging::{Control, Kind, combinations, expected};

const PF: u8 = 14;
const GP: u8 = 13;
/// A page of the test's own, in a part of the address space that shares no table with the rest.
const PAGE: u64 = 0xc040_0000;
/// The RAM behind it.
const FRAME: u64 = 0x40_0000;
/// The tables: the first is CR3's. The first 2 MiB are mapped where they are.
const ROOT: u64 = 0x80_0000;
const LARGE: u64 = paging::LARGE;

/// A paging mode outside long mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    TwoLevel,
    Pae,
}

use Mode::{Pae, TwoLevel};

/// A machine with paging on, and where the entries for [`PAGE`] are: in the page directory and in the page table.
struct Subject {
    mode: Mode,
    machine: Machine,
    directory: u64,
    table: u64,
}

impl Subject {
    fn new(mode: Mode) -> Self {
        let mut machine = Machine::protected();
        machine.state.cr0 |= Cr0::PG;
        machine.state.cr3 = ROOT;
        let (first_table, first_directory, directory, table) = match mode {
            TwoLevel => (ROOT + 0x1000, ROOT, ROOT + 0x301 * 4, ROOT + 0x2000),
            Pae => {
                machine.state.cr4 |= Cr4::PAE;
                machine.state.efer = Efer::NXE;
                // Each of the four has a directory of its own.
                for n in 0..4 {
                    machine.write(ROOT + n * 8, (ROOT + 0x1000 + n * 0x1000) | paging::PRESENT);
                }
                (ROOT + 0x5000, ROOT + 0x1000, ROOT + 0x4000 + 2 * 8, ROOT + 0x6000)
            }
        };
        let mut subject = Self { mode, machine, directory, table };
        subject.set(first_directory, first_table | FULL);
        for page in 0..512 {
            let address = page * paging::PAGE_SIZE;
            let user = (USER_CODE..USER_STACK_TOP).contains(&address);
            let at = first_table + page * subject.entry_size();
            subject.set(at, address | if user { FULL } else { KERNEL });
        }
        subject.set(directory, table | FULL);
        subject.set(table, FRAME | FULL);
        subject
    }

    fn entry_size(&self) -> u64 {
        if self.mode == TwoLevel { 4 } else { 8 }
    }

    fn set(&mut self, at: u64, entry: u64) {
        if self.mode == TwoLevel {
            self.machine.write(at, entry as u32);
        } else {
            self.machine.write(at, entry);
        }
    }

    fn get(&self, at: u64) -> u64 {
        if self.mode == TwoLevel { self.machine.read::<u32>(at).into() } else { self.machine.read(at) }
    }

    /// Runs supervisor code and stops.
    fn run(&mut self, build: Build<'_>) -> Outcome {
        let end = self.machine.code_of(32, CODE, build);
        self.machine.code_of(32, end, &stop);
        self.machine.run_to_stop()
    }

    /// Reads a double word; gives it or the error code of the page fault.
    fn read(&mut self, address: u64) -> Result<u32, u64> {
        let outcome = self.run(&|a| a.mov(eax, dword_ptr(address as u32)));
        match outcome.events.first() {
            None => Ok(outcome.gpr(Gpr::Rax) as u32),
            Some(event) => {
                assert_eq!((event.vector, event.cr2, event.rip), (PF, address, CODE));
                Err(event.error_code)
            }
        }
    }

    /// Compares an access with the model. `levels` are the flags in the directory and in the table; without the second
    /// the first maps a large page.
    fn check(&mut self, levels: &[u64], user: bool, kind: Kind, control: Control) {
        let large = levels.len() == 1;
        let top = if large { FRAME | LARGE } else { self.table };
        self.set(self.directory, top | levels[0]);
        self.set(self.table, FRAME | levels.get(1).unwrap_or(&0));
        let machine = &mut self.machine;
        let fresh = Machine::protected().state;
        machine.state.gpr = fresh.gpr;
        machine.state.segments = fresh.segments;
        machine.state.rip = CODE;
        if user {
            machine.start_in_32bit_user_mode();
        }
        machine.state.cr0.set(Cr0::WP, control.wp);
        machine.state.cr4.set(Cr4::PSE, true);
        machine.state.cr4.set(Cr4::SMEP, control.smep);
        machine.state.cr4.set(Cr4::SMAP, control.smap);
        machine.state.rflags.set(Rflags::AC, control.ac);
        machine.set_gpr(Gpr::Rbx, PAGE);
        machine.code_of(32, FRAME, if user { &stop_user } else { &stop });
        let start = machine.state.rip;
        let end = machine.code_of(32, start, &|a| match kind {
            Kind::Read => a.mov(al, byte_ptr(ebx)),
            Kind::Write => a.mov(byte_ptr(ebx + 0x800), al),
            Kind::Fetch => a.jmp(ebx),
        });
        machine.code_of(32, end, if user { &stop_user } else { &stop });
        let outcome = machine.run_to_stop();
        let what = format!("{:?} {kind:?} user {user} {control:?} levels {levels:x?}", self.mode);
        let fault = outcome.events.iter().find(|event| event.vector == PF);
        let tells_fetches = self.mode == Pae || control.smep;
        let wanted = expected(levels, user, kind, control)
            .map_err(|code| if tells_fetches { code } else { code & !u64::from(paging::FAULT_FETCH) });
        assert_eq!(fault.map_or(Ok(()), |event| Err(event.error_code)), wanted, "{what}");
        let (top, leaf) = (self.get(self.directory), self.get(self.table));
        let leaf = if large { top } else { leaf };
        assert_eq!(leaf & paging::DIRTY != 0, wanted.is_ok() && kind == Kind::Write, "{what}");
        if wanted.is_ok() {
            assert!(top & leaf & paging::ACCESSED != 0, "{what}");
        }
        assert!(large || top & paging::DIRTY == 0, "{what}");
    }
}

fn check_rights(mode: Mode, levels: impl Fn(u64) -> Vec<Vec<u64>>) {
    let mut subject = Subject::new(mode);
    for flags in combinations().filter(|flags| mode == Pae || flags >> 63 == 0) {
        for levels in levels(flags) {
            for control in Control::all().filter(|control| control.smap || !control.ac) {
                for user in [false, true] {
                    for kind in [Kind::Read, Kind::Write, Kind::Fetch] {
                        subject.check(&levels, user, kind, control);
                    }
                }
            }
        }
    }
}

#[test]
fn rights_of_4_kib_pages_in_32_bit_paging() {
    check_rights(TwoLevel, |flags| vec![vec![FULL, flags], vec![flags, FULL]]);
}

#[test]
fn rights_of_4_mib_pages() {
    check_rights(TwoLevel, |flags| vec![vec![flags]]);
}

#[test]
fn rights_of_4_kib_pages_in_pae_paging() {
    check_rights(Pae, |flags| vec![vec![FULL, flags], vec![flags, FULL]]);
}

#[test]
fn rights_of_2_mib_pages_in_pae_paging() {
    check_rights(Pae, |flags| vec![vec![flags]]);
}

#[test]
fn large_pages_reach_all_of_their_memory() {
    for (mode, size) in [(TwoLevel, 0x40_0000), (Pae, 0x20_0000)] {
        let mut subject = Subject::new(mode);
        subject.machine.state.cr4 |= Cr4::PSE;
        // Bit 12 is the PAT bit.
        subject.set(subject.directory, FRAME | 1 << 12 | LARGE | KERNEL);
        for offset in [0, 0x1_2344, size - 4] {
            subject.machine.write(FRAME + offset, 0x1111_0000 + offset as u32);
            assert_eq!(subject.read(PAGE + offset), Ok(0x1111_0000 + offset as u32), "{mode:?}");
        }
    }
}

#[test]
fn without_pse_there_are_no_4_mib_pages() {
    let mut subject = Subject::new(TwoLevel);
    subject.set(subject.directory, subject.table | LARGE | FULL);
    subject.set(subject.table + 4, (FRAME + 0x5000) | FULL);
    subject.machine.write(FRAME + 0x5010, 0x77u32);
    assert_eq!(subject.read(PAGE + 0x1010), Ok(0x77));
}

#[test]
fn frames_beyond_4_gib_are_reached() {
    let far = 0x12_3440_0000;
    let mut subject = Subject::new(TwoLevel);
    subject.machine.state.cr4 |= Cr4::PSE;
    // PSE-36: bits 32 to 39 of the address are in bits 13 to 20.
    subject.set(subject.directory, 0x3440_0000 | 0x12 << 13 | LARGE | KERNEL);
    assert_eq!(subject.read(PAGE + 0x1230), Ok(0xffff_ffff));
    let seen = subject.machine.platform.accesses.lock().unwrap().clone();
    assert_eq!(seen, [Access::MemoryRead(far + 0x1230, 4)]);
    let mut subject = Subject::new(Pae);
    subject.set(subject.table, far | KERNEL);
    assert_eq!(subject.read(PAGE + 0x230), Ok(0xffff_ffff));
    let seen = subject.machine.platform.accesses.lock().unwrap().clone();
    assert_eq!(seen, [Access::MemoryRead(far + 0x230, 4)]);
}

#[test]
fn reserved_bits_fault() {
    let reserved = Err(u64::from(paging::FAULT_PRESENT | paging::FAULT_RESERVED));
    let mut subject = Subject::new(TwoLevel);
    subject.machine.state.cr4 |= Cr4::PSE;
    subject.set(subject.directory, FRAME | 1 << 21 | LARGE | KERNEL);
    assert_eq!(subject.read(PAGE), reserved);
    for bit in [46, 51, 52, 58, 62] {
        let mut subject = Subject::new(Pae);
        subject.set(subject.table, FRAME | 1 << bit | KERNEL);
        assert_eq!(subject.read(PAGE), reserved, "bit {bit} of a PTE");
        subject.set(subject.table, FRAME | KERNEL);
        subject.set(subject.directory, subject.table | 1 << bit | KERNEL);
        assert_eq!(subject.read(PAGE), reserved, "bit {bit} of a PDE");
    }
    let mut subject = Subject::new(Pae);
    subject.set(subject.directory, FRAME | 1 << 13 | LARGE | KERNEL);
    assert_eq!(subject.read(PAGE), reserved);
    subject.set(subject.directory, subject.table | KERNEL);
    subject.set(subject.table, FRAME | paging::NO_EXECUTE | KERNEL);
    assert_eq!(subject.read(PAGE), Ok(0));
    subject.machine.state.efer = Efer::empty();
    assert_eq!(subject.read(PAGE), reserved, "NX without NXE");
}

/// Where PAE paging finds [`PAGE`]'s part of the address space.
const PDPTE: u64 = ROOT + 3 * 8;

#[test]
fn an_absent_pdpte_faults() {
    let mut subject = Subject::new(Pae);
    // Reserved bits count only where an entry is present.
    subject.machine.write(PDPTE, 0x1e6u64);
    assert_eq!(subject.read(PAGE), Err(0));
}

#[test]
fn pdptes_are_what_was_loaded() {
    let reloads: [(&str, Build<'_>, bool); 5] = [
        ("invlpg", &|a| a.invlpg(ptr(PAGE as u32)), false),
        ("mov to cr3", &|a| a.mov(cr3, edx), true),
        ("mov to cr4 that changes PGE", &|a| a.mov(cr4, esi), true),
        ("mov to cr4 that changes DE", &|a| a.mov(cr4, edi), false),
        ("mov to cr0 that changes CD", &|a| a.mov(cr0, ebp), true),
    ];
    for (name, reload, takes) in reloads {
        let mut subject = Subject::new(Pae);
        let other = ROOT + 0x7000;
        subject.set(other + 2 * 8, (ROOT + 0x8000) | KERNEL);
        // Another page is read afterwards, for MOV to CR0 leaves translations as they are.
        subject.set(subject.table + 8, FRAME | KERNEL);
        subject.set(ROOT + 0x8000 + 8, (FRAME + 0x1000) | KERNEL);
        subject.machine.write(FRAME, 1u32);
        subject.machine.write(FRAME + 0x1000, 2u32);
        // Linear addresses of the tables are not mapped, but for this.
        subject.set(ROOT + 0x5000 + 0x1ff * 8, ROOT | KERNEL);
        let state = &mut subject.machine.state;
        state.gpr[Gpr::Rdx as usize] = ROOT;
        state.gpr[Gpr::Rsi as usize] = (state.cr4 | Cr4::PGE).bits();
        state.gpr[Gpr::Rdi as usize] = (state.cr4 - Cr4::DE).bits();
        state.gpr[Gpr::Rbp as usize] = (state.cr0 | Cr0::CD).bits();
        let outcome = subject.run(&|a| {
            a.mov(eax, dword_ptr(PAGE as u32))?;
            a.mov(dword_ptr(0x1f_f018), (other | 1) as i32)?;
            reload(a)?;
            a.mov(ebx, dword_ptr(PAGE as u32 + 0x1000))
        });
        let wanted = if takes { 2 } else { 1 };
        assert_eq!((outcome.gpr(Gpr::Rax), outcome.gpr(Gpr::Rbx)), (1, wanted), "{name}");
    }
}

#[test]
fn pdptes_travel_with_a_saved_state() {
    let mut subject = Subject::new(Pae);
    let other = ROOT + 0x7000;
    subject.set(other + 2 * 8, (ROOT + 0x8000) | KERNEL);
    subject.set(ROOT + 0x8000, (FRAME + 0x1000) | KERNEL);
    subject.machine.write(FRAME, 1u32);
    subject.machine.write(FRAME + 0x1000, 2u32);
    let kicker = subject.machine.vcpu.kicker();
    subject.machine.platform.set_hook(move |_| kicker.kick());
    let end = subject.machine.code_of(32, CODE, &|a| {
        a.mov(eax, dword_ptr(PAGE as u32))?;
        a.out(u32::from(PORT_HOOK), al)?;
        let mut next = a.create_label();
        a.jmp(next)?;
        a.set_label(&mut next)?;
        a.mov(ebx, dword_ptr(PAGE as u32))
    });
    subject.machine.code_of(32, end, &stop);
    let outcome = subject.machine.run();
    assert!(!outcome.stopped);
    let wanted = [0, 1, 2, 3].map(|n| subject.machine.read::<u64>(ROOT + n * 8));
    assert_eq!(outcome.state.pdptes, Some(wanted));
    subject.machine.write(PDPTE, other | paging::PRESENT);
    // A state from before they were saved finds what is in memory.
    for (pdptes, value) in [(outcome.state.pdptes, 1), (None, 2)] {
        let mut next = subject.machine.copy();
        next.state = VcpuState { pdptes, ..outcome.state.clone() };
        assert_eq!(next.run_to_stop().gpr(Gpr::Rbx), value);
    }
    // Without PAE paging there are none.
    let mut machine = Machine::protected();
    machine.code_of(32, CODE, &stop);
    assert_eq!(machine.run_to_stop().state.pdptes, None);
}

#[test]
fn loading_pdptes_with_reserved_bits_is_refused() {
    for entry in [1u64 | 1 << 1, 1 | 1 << 2, 1 | 1 << 5, 1 | 1 << 8, 1 | 1 << 46, 1 | 1 << 63] {
        let mut subject = Subject::new(Pae);
        let bad = ROOT + 0x20;
        for n in 0..4 {
            subject.machine.write(bad + n * 8, subject.machine.read::<u64>(ROOT + n * 8));
        }
        subject.machine.write(bad + 16, entry);
        subject.machine.set_gpr(Gpr::Rdx, bad);
        let outcome = subject.run(&|a| a.mov(cr3, edx));
        assert_eq!(outcome.briefs(), [(GP, 0, CODE)], "{entry:x}");
        assert_eq!(outcome.state.cr3, ROOT, "{entry:x}");
        // So it is when paging goes on.
        subject.machine.state.cr3 = bad;
        subject.machine.state.cr0 -= Cr0::PG;
        subject.machine.set_gpr(Gpr::Rdx, (subject.machine.state.cr0 | Cr0::PG).bits());
        let outcome = subject.run(&|a| a.mov(cr0, edx));
        assert_eq!(outcome.briefs(), [(GP, 0, CODE)], "{entry:x}");
        assert!(!outcome.state.cr0.contains(Cr0::PG), "{entry:x}");
    }
}

#[test]
fn paging_goes_on_and_off() {
    for mode in [TwoLevel, Pae] {
        let mut subject = Subject::new(mode);
        subject.machine.write(FRAME, 0x55u32);
        let on = subject.machine.state.cr0;
        subject.machine.state.cr0 -= Cr0::PG;
        subject.machine.set_gpr(Gpr::Rdx, on.bits());
        subject.machine.set_gpr(Gpr::Rsi, (on - Cr0::PG).bits());
        let outcome = subject.run(&|a| {
            a.mov(cr0, edx)?;
            a.mov(eax, dword_ptr(PAGE as u32))?;
            a.mov(cr0, esi)?;
            a.mov(ebx, dword_ptr(FRAME as u32))
        });
        assert_eq!((outcome.gpr(Gpr::Rax), outcome.gpr(Gpr::Rbx)), (0x55, 0x55), "{mode:?}");
    }
}

#[test]
fn translations_are_forgotten_when_they_must_be() {
    let flushes: [(&str, Build<'_>); 2] =
        [("invlpg", &|a| a.invlpg(ptr(PAGE as u32 + 0x10))), ("mov to cr3", &|a| a.mov(cr3, edx))];
    for mode in [TwoLevel, Pae] {
        for large in [false, true] {
            for (name, flush) in flushes {
                let mut subject = Subject::new(mode);
                subject.machine.state.cr4 |= Cr4::PSE;
                let (at, flags) = if large { (subject.directory, LARGE) } else { (subject.table, 0) };
                subject.set(at, FRAME | flags | KERNEL);
                // The page that the entry is in, for the guest to change it.
                let size = subject.entry_size();
                let last = if mode == TwoLevel { ROOT + 0x1000 } else { ROOT + 0x5000 } + 0x1ff * size;
                subject.set(last, (at & !paging::PAGE_OFFSET) | KERNEL);
                subject.machine.write(FRAME, 1u32);
                subject.machine.write(0xc0_0000, 2u32);
                subject.machine.set_gpr(Gpr::Rdx, ROOT);
                let window = 0x1f_f000 + (at & paging::PAGE_OFFSET);
                let outcome = subject.run(&|a| {
                    a.mov(eax, dword_ptr(PAGE as u32))?;
                    a.mov(dword_ptr(window), (0xc0_0000 | flags | KERNEL) as i32)?;
                    flush(a)?;
                    a.mov(ebx, dword_ptr(PAGE as u32))
                });
                let found = (outcome.gpr(Gpr::Rax), outcome.gpr(Gpr::Rbx));
                assert_eq!(found, (1, 2), "{mode:?} large {large} {name}");
            }
        }
    }
}

/// User code in a hurry, so that it is translated wherever code is, and faults in it.
#[test]
fn user_programs_run_under_either_mode() {
    for mode in [TwoLevel, Pae] {
        let mut subject = Subject::new(mode);
        let machine = &mut subject.machine;
        machine.start_in_32bit_user_mode();
        machine.write(USER_DATA, 3u32);
        let end = machine.code_of(32, USER_CODE, &|a| {
            let mut again = a.create_label();
            a.mov(ecx, 5000)?;
            a.set_label(&mut again)?;
            a.add(eax, dword_ptr(USER_DATA as u32))?;
            a.mov(dword_ptr(ebx + PAGE as u32), eax)?;
            a.dec(ecx)?;
            a.jnz(again)
        });
        machine.code_of(32, end, &|a| a.mov(eax, dword_ptr(DATA as u32)));
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.briefs(), [(PF, 5, end)], "{mode:?}");
        assert_eq!(machine.read::<u32>(FRAME), 15_000, "{mode:?}");
    }
}
