//! Rights, accessed and dirty bits, reserved bits (SDM vol. 3, 4.5 to 4.8), against a model of their own.

use viv_arch::{Cr0, Cr4, Gpr, Rflags, paging};

use crate::machine::*;

/// A page of the test's own, in a part of the address space that shares no table with the rest.
const PAGE: u64 = 0x80_4000_0000;
/// The RAM behind it; the smaller pages begin there, the 1 GiB page holds it.
const FRAME: u64 = 0x20_0000;
/// Code in it that stops the machine, for the supervisor and for the user.
const STOP: u64 = 0x100;
const STOP_USER: u64 = 0x200;
const PAGE_FAULT: u8 = 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Fetch,
}

#[derive(Debug, Clone, Copy)]
pub struct Control {
    pub wp: bool,
    pub smep: bool,
    pub smap: bool,
    pub ac: bool,
}

impl Control {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..16).map(|n| Self { wp: n & 1 != 0, smep: n & 2 != 0, smap: n & 4 != 0, ac: n & 8 != 0 })
    }
}

/// The flags of each level, from the top: what the model and the tables are made from.
type Levels = Vec<u64>;

/// What an access comes to: nothing, or the error code of a page fault.
pub fn expected(levels: &[u64], user: bool, kind: Kind, control: Control) -> Result<(), u64> {
    let user_bit = if user { 4 } else { 0 };
    let kind_bits = match kind {
        Kind::Read => 0,
        Kind::Write => 2,
        Kind::Fetch => 16,
    };
    if levels.iter().any(|flags| flags & 1 == 0) {
        return Err(user_bit | kind_bits);
    }
    let every = |bit: u64| levels.iter().all(|flags| flags & bit != 0);
    let (writable, user_page) = (every(2), every(4));
    let executable = levels.iter().all(|flags| flags >> 63 == 0);
    let allowed = match (kind, user) {
        (Kind::Read, true) => user_page,
        (Kind::Write, true) => user_page && writable,
        (Kind::Fetch, true) => user_page && executable,
        (Kind::Read, false) => !user_page || !control.smap || control.ac,
        (Kind::Write, false) => (writable || !control.wp) && (!user_page || !control.smap || control.ac),
        (Kind::Fetch, false) => executable && !(user_page && control.smep),
    };
    if allowed { Ok(()) } else { Err(1 | user_bit | kind_bits) }
}

/// The sixteen combinations of present, writable, user and no-execute.
pub fn combinations() -> impl Iterator<Item = u64> + Clone {
    (0..16u64).map(|n| (n & 7) | (n >> 3) << 63)
}

struct Subject {
    machine: Machine,
    path: Vec<u64>,
    entries: Vec<u64>,
}

impl Subject {
    fn new(size: PageSize) -> Self {
        let mut machine = Machine::new();
        let phys = if size == PageSize::Size1G { 0 } else { FRAME };
        machine.tables.map(PAGE, phys, size, FULL);
        let path = machine.tables.path(PAGE, size);
        let entries = path.iter().map(|&at| machine.tables.read(at) & !FULL).collect();
        machine.code(FRAME + STOP, &stop);
        machine.code(FRAME + STOP_USER, &stop_user);
        let code: [(u64, Build<'_>); 2] = [(CODE, &stop), (USER_CODE, &stop_user)];
        for (address, stop) in code {
            use iced_x86::code_asm::*;
            machine.code(address, &|a| {
                a.mov(al, byte_ptr(rbx))?;
                stop(a)
            });
            machine.code(address + 0x100, &|a| {
                a.mov(byte_ptr(rbx), al)?;
                stop(a)
            });
            machine.code(address + 0x200, &|a| a.jmp(rbx));
        }
        Self { machine, path, entries }
    }

    fn offset(&self) -> u64 {
        if self.path.len() == 2 { FRAME } else { 0 }
    }

    fn check(&mut self, levels: &[u64], user: bool, kind: Kind, control: Control) {
        let machine = &mut self.machine;
        for ((&at, &entry), &flags) in self.path.iter().zip(&self.entries).zip(levels) {
            machine.tables.write(at, entry | flags);
        }
        machine.state.cr0.set(Cr0::WP, control.wp);
        machine.state.cr4.set(Cr4::SMEP, control.smep);
        machine.state.cr4.set(Cr4::SMAP, control.smap);
        machine.state.rflags.set(Rflags::AC, control.ac);
        machine.state.rip += match kind {
            Kind::Read => 0,
            Kind::Write => 0x100,
            Kind::Fetch => 0x200,
        };
        let offset = if self.path.len() == 2 { FRAME } else { 0 };
        let target = match (kind, user) {
            (Kind::Fetch, false) => PAGE + offset + STOP,
            (Kind::Fetch, true) => PAGE + offset + STOP_USER,
            _ => PAGE + offset + 8,
        };
        machine.set_gpr(Gpr::Rbx, target);
        let outcome = machine.run_to_stop();
        let fault = outcome.events.iter().find(|event| event.vector == PAGE_FAULT);
        let found = fault.map_or(Ok(()), |event| Err(event.error_code));
        let wanted = expected(levels, user, kind, control);
        let what = || format!("{kind:?} user {user} {control:?} levels {levels:x?}");
        assert_eq!(found, wanted, "{}", what());
        if let Some(fault) = fault {
            assert_eq!(fault.cr2, target, "{}", what());
        }
        let after: Vec<u64> = self.path.iter().map(|&at| machine.tables.read(at)).collect();
        let leaf = after[after.len() - 1];
        assert_eq!(leaf & paging::DIRTY != 0, wanted.is_ok() && kind == Kind::Write, "{}", what());
        for (&entry, &flags) in after.iter().zip(levels) {
            let accessed = entry & paging::ACCESSED != 0;
            assert!(accessed || wanted.is_err(), "{}: {after:x?}", what());
            assert!(!accessed || flags & 1 != 0, "{}: {after:x?}", what());
        }
    }

    fn check_both_modes(&mut self, levels: &[u64], control: Control) {
        for user in [false, true] {
            for kind in [Kind::Read, Kind::Write, Kind::Fetch] {
                self.machine.state = Machine::fresh_state();
                if user {
                    self.machine.start_in_user_mode();
                }
                self.check(levels, user, kind, control);
            }
        }
    }
}

/// Every combination of flags at each two levels, the others hiding nothing.
fn pairs_of_levels(levels: usize) -> Vec<Levels> {
    let mut all = Vec::new();
    for first in 0..levels {
        for second in first + 1..levels {
            for a in combinations() {
                for b in combinations() {
                    let mut flags = vec![FULL; levels];
                    (flags[first], flags[second]) = (a, b);
                    all.push(flags);
                }
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn every_right_of_4_kib_pages_under_every_control() {
    let mut subject = Subject::new(PageSize::Size4K);
    for levels in pairs_of_levels(4) {
        for control in Control::all() {
            subject.check_both_modes(&levels, control);
        }
    }
}

#[test]
fn every_right_of_large_pages() {
    for size in [PageSize::Size2M, PageSize::Size1G] {
        let mut subject = Subject::new(size);
        for levels in pairs_of_levels(size.levels()) {
            for n in [0b0001, 0b0110, 0b0111, 0b1111] {
                let control = Control::all().nth(n).unwrap();
                subject.check_both_modes(&levels, control);
            }
        }
    }
}

#[test]
fn reserved_bits_are_told_in_the_error_code() {
    // (size, level, bit, whether it is reserved)
    let mut cases = Vec::new();
    for bit in 46..52 {
        cases.extend((0..4).map(|level| (PageSize::Size4K, level, bit, true)));
    }
    cases.extend((52..63).map(|bit| (PageSize::Size4K, 3, bit, false)));
    cases.push((PageSize::Size4K, 0, 7, true));
    cases.extend((13..21).map(|bit| (PageSize::Size2M, 2, bit, true)));
    cases.extend((13..30).map(|bit| (PageSize::Size1G, 1, bit, true)));
    for (size, level, bit, reserved) in cases {
        let mut subject = Subject::new(size);
        let (at, offset) = (subject.path[level], subject.offset());
        let machine = &mut subject.machine;
        // A global page's and a large page's other bits mean nothing here.
        machine.tables.write(at, machine.tables.read(at) | 1 << bit);
        machine.set_gpr(Gpr::Rbx, PAGE + offset);
        let outcome = machine.run_to_stop();
        let codes: Vec<_> = outcome.events.iter().map(|e| (e.vector, e.error_code, e.cr2)).collect();
        let wanted = if reserved { vec![(PAGE_FAULT, 9, PAGE + offset)] } else { vec![] };
        assert_eq!(codes, wanted, "{size:?} level {level} bit {bit}");
    }
}

#[test]
fn no_execute_is_reserved_until_it_is_enabled() {
    let mut subject = Subject::new(PageSize::Size4K);
    let at = subject.path[3];
    let machine = &mut subject.machine;
    machine.tables.write(at, machine.tables.read(at) | paging::NO_EXECUTE);
    machine.state.efer -= viv_arch::Efer::NXE;
    machine.set_gpr(Gpr::Rbx, PAGE);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(PAGE_FAULT, 9, CODE)]);
    // Nor does the error code tell fetches apart, unless SMEP asks for it.
    for (smep, code) in [(false, 9), (true, 25)] {
        machine.state.cr4.set(Cr4::SMEP, smep);
        machine.state.rip = CODE + 0x200;
        assert_eq!(machine.run_to_stop().briefs(), [(PAGE_FAULT, code, PAGE)]);
    }
}

#[test]
fn a_write_after_a_read_sets_the_dirty_bit_and_nothing_else_does() {
    use iced_x86::code_asm::*;
    let mut machine = Machine::new();
    machine.tables.map(PAGE, FRAME, PageSize::Size4K, KERNEL);
    let leaf = machine.tables.path(PAGE, PageSize::Size4K)[3];
    machine.set_gpr(Gpr::Rbx, PAGE);
    machine.code(CODE, &|a| {
        a.mov(rsi, leaf)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(r8, qword_ptr(rsi))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(r9, qword_ptr(rsi))?;
        // The guest clears it and flushes, and it is set again.
        a.and(qword_ptr(rsi), !(paging::DIRTY as i32))?;
        a.invlpg(ptr(rbx))?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(r10, qword_ptr(rsi))?;
        a.add(qword_ptr(rbx), 1)?;
        a.mov(r11, qword_ptr(rsi))?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let bits = paging::ACCESSED | paging::DIRTY;
    let seen = [Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11].map(|r| outcome.gpr(r) & bits);
    assert_eq!(seen, [paging::ACCESSED, bits, paging::ACCESSED, bits]);
}

#[test]
fn a_write_across_pages_writes_nothing_if_the_second_page_faults() {
    use iced_x86::code_asm::*;
    type Store = (&'static str, Build<'static>);
    let stores: [Store; 9] = [
        ("mov", &|a| a.mov(qword_ptr(rbx), rax)),
        ("add", &|a| a.add(dword_ptr(rbx), eax)),
        ("xchg", &|a| a.xchg(qword_ptr(rbx), rax)),
        ("lock inc", &|a| a.lock().inc(qword_ptr(rbx))),
        ("movups", &|a| a.movups(xmmword_ptr(rbx), xmm0)),
        ("cmpxchg", &|a| a.cmpxchg(qword_ptr(rbx), rcx)),
        ("lock bts", &|a| a.lock().bts(qword_ptr(rbx), rcx)),
        ("fstp", &|a| {
            a.fld1()?;
            a.fstp(tword_ptr(rbx))
        }),
        ("shld", &|a| a.shld(qword_ptr(rbx), rax, 4)),
    ];
    for (name, store) in stores {
        let mut machine = Machine::new();
        machine.tables.map(PAGE, FRAME, PageSize::Size4K, KERNEL);
        let pattern = [0xa5; 8];
        machine.write_bytes(FRAME + 0xff8, &pattern);
        machine.set_gpr(Gpr::Rbx, PAGE + 0xffd);
        machine.set_gpr(Gpr::Rcx, 5);
        machine.code(CODE, store);
        let outcome = machine.run_to_stop();
        let event = outcome.events[0];
        assert_eq!((event.vector, event.error_code, event.cr2), (14, 2, PAGE + 0x1000), "{name}");
        assert_eq!(machine.read_bytes(FRAME + 0xff8, 8), pattern, "{name}");
        assert_eq!(outcome.gpr(Gpr::Rbx), PAGE + 0xffd, "{name}");
    }
}

#[test]
fn a_read_across_pages_names_the_page_that_is_missing() {
    use iced_x86::code_asm::*;
    for missing_first in [false, true] {
        let mut machine = Machine::new();
        let present = if missing_first { PAGE + 0x1000 } else { PAGE };
        machine.tables.map(present, FRAME, PageSize::Size4K, KERNEL);
        machine.set_gpr(Gpr::Rbx, PAGE + 0xffe);
        machine.code(CODE, &|a| a.mov(eax, dword_ptr(rbx)));
        let event = machine.run_to_stop().events[0];
        let address = if missing_first { PAGE + 0xffe } else { PAGE + 0x1000 };
        assert_eq!((event.error_code, event.cr2), (0, address));
    }
}

#[test]
fn addresses_that_are_not_canonical_fault_by_their_segment() {
    use iced_x86::code_asm::*;
    let cases: [(&str, u8, Build<'_>); 14] = [
        ("mov [rbx]", 13, &|a| a.mov(rax, qword_ptr(rbx))),
        ("mov [rbp]", 12, &|a| a.mov(rax, qword_ptr(rbp))),
        ("mov [ds:rbp]", 13, &|a| a.mov(rax, qword_ptr(rbp).ds())),
        ("store [rbx]", 13, &|a| a.mov(qword_ptr(rbx), rax)),
        ("store across the end", 13, &|a| a.mov(qword_ptr(rbx - 4), rax)),
        ("movups [rbx]", 13, &|a| a.movups(xmm0, xmmword_ptr(rbx))),
        ("movups [rbp]", 12, &|a| a.movups(xmm0, xmmword_ptr(rbp))),
        ("push [rbx]", 13, &|a| a.push(qword_ptr(rbx))),
        ("push", 12, &|a| {
            a.mov(rsp, rbp)?;
            a.push(rax)
        }),
        ("push [rsi] with a bad stack", 12, &|a| {
            a.mov(rsp, rbp)?;
            a.push(qword_ptr(rsi))
        }),
        ("call [rsi] with a bad stack", 12, &|a| {
            a.mov(rsp, rbp)?;
            a.call(qword_ptr(rsi))
        }),
        ("leave", 12, &|a| a.leave()),
        ("movsb", 13, &|a| {
            a.mov(rdi, rbx)?;
            a.movsb()
        }),
        ("jmp", 13, &|a| a.jmp(rbx)),
    ];
    for (name, vector, build) in cases {
        let mut machine = Machine::new();
        // The handlers need a stack of their own.
        for vector in [12, 13] {
            let stub = STUBS + vector as u64 * STUB_SIZE;
            machine.set_gate(vector, stub, 0xe, 0, 1);
        }
        machine.set_gpr(Gpr::Rbx, 1 << 47);
        machine.set_gpr(Gpr::Rbp, (1 << 47) + 0x100);
        machine.set_gpr(Gpr::Rsi, DATA);
        // The last canonical page of the lower half is there.
        machine.tables.map((1 << 47) - 0x1000, FRAME, PageSize::Size4K, KERNEL);
        machine.write(DATA, CODE);
        machine.code(CODE, build);
        let outcome = machine.run_to_stop();
        let event = outcome.events[0];
        assert_eq!((event.vector, event.error_code), (vector, 0), "{name}");
    }
}
