//! One instruction on the engine's interpreter, with every register chosen: what [`NativeCpu`] is compared with.
//!
//! A bare vCPU in user mode with page tables of its own. Instructions take the whole way that a guest's take: fetch
//! through the page tables, decoding, lowering, the TLB, the handler; only the exception is not delivered.
//!
//! [`NativeCpu`]: super::NativeCpu

use std::sync::Arc;

use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::paging::{self, PAGE_SIZE, PRESENT, USER, WRITABLE};
use viv_arch::{Cr0, Cr4, DescriptorTable, Efer, Segment, SegmentRegister, VcpuState, xsave};
use viv_engine::time::HostClock;
use viv_engine::{Engine, GuestMemory, Platform, Vcpu, VmParameters, memory};
use vm_memory::{Bytes, GuestAddress};

use super::{Mode, Protection};
use crate::cpu::Pending;
use crate::hostexec::ExecState;
use crate::ops::segment::null_segment;
use crate::options::{Options, Tier};
use crate::vcpu::SoftVcpu;
use crate::vm::{SoftEngine, SoftVm};

/// RAM of the bare machine.
const RAM: u64 = 1 << 20;
/// Where its page tables start; below are descriptors. Frames are handed out upwards.
const ROOT: u64 = 0x1000;

/// Where the descriptor table, at the start of RAM, is in linear memory.
const GDT: u64 = 0xffff_fe00_0000_0000;

/// Selectors of user segments, as Linux has them.
const CODE64: u16 = 0x33;
const CODE32: u16 = 0x23;
const DATA: u16 = 0x2b;

/// The interpreter, with memory at chosen addresses.
pub struct Interpreter {
    vcpu: SoftVcpu,
    memory: GuestMemory,
    /// What the vCPU has beside the state of an instruction.
    system: VcpuState,
    next_frame: u64,
    /// The page tables have changed.
    is_stale: bool,
}

/// A machine with nothing in it.
struct Nothing;

impl Platform for Nothing {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn memory_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn memory_write(&self, _: u64, _: &[u8]) {}
    fn acknowledge_extint(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _: u8) {}
}

impl Interpreter {
    /// A user program without memory.
    ///
    /// # Panics
    /// If the host has no memory for it.
    #[must_use]
    pub fn in_mode(mode: Mode) -> Self {
        let memory = memory::allocate(RAM).expect("the host has memory");
        let tsc_khz = SoftEngine::default().tsc_khz();
        let vm = SoftVm::new(
            VmParameters {
                memory: memory.clone(),
                vcpus: 1,
                cpuid: CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz }),
                clock: Arc::new(HostClock::stopped_at(0)),
            },
            Options { tier: Tier::Interpret, torture: None },
        )
        .expect("the host has threads");
        let vcpu = vm.vcpu(0, Arc::new(Nothing)).expect("the host has memory");
        let mut system = user_state();
        system.segments[SegmentRegister::Cs as usize] = match mode {
            Mode::Bits64 => Segment::code64(CODE64, 3),
            Mode::Bits32 => Segment::code32(CODE32, 3),
        };
        if mode == Mode::Bits32 {
            for register in [SegmentRegister::Ds, SegmentRegister::Es] {
                system.segments[register as usize] = Segment::data(DATA, 3);
            }
        }
        for segment in [Segment::code64(CODE64, 3), Segment::code32(CODE32, 3), Segment::data(DATA, 3)] {
            let address = GuestAddress(u64::from(segment.selector & !7));
            memory.write_obj(segment.to_descriptor(), address).expect("descriptors are in RAM");
        }
        let mut interpreter = Self { vcpu, memory, system, next_frame: ROOT + PAGE_SIZE, is_stale: true };
        let entry = interpreter.leaf(GDT);
        interpreter.write_entry(entry, PRESENT | WRITABLE);
        interpreter
    }

    /// Maps zeroed memory. Pages are present at once.
    ///
    /// # Panics
    /// When its RAM is used up.
    pub fn map(&mut self, address: u64, size: u64, protection: Protection) {
        for page in (address..address + size).step_by(PAGE_SIZE as usize) {
            let frame = self.frame();
            let entry = self.leaf(page);
            self.write_entry(entry, frame | flags(protection));
        }
    }

    /// Maps zeroed memory that only a supervisor may access.
    ///
    /// # Panics
    /// As for [`Interpreter::map`].
    pub fn map_supervisor(&mut self, address: u64) {
        let frame = self.frame();
        let entry = self.leaf(address);
        self.write_entry(entry, frame | PRESENT | WRITABLE);
    }

    /// Changes what may be done with mapped pages.
    pub fn protect(&mut self, address: u64, size: u64, protection: Protection) {
        for page in (address..address + size).step_by(PAGE_SIZE as usize) {
            let entry = self.leaf(page);
            let frame = self.read_entry(entry) & paging::ADDRESS;
            self.write_entry(entry, frame | flags(protection));
        }
    }

    /// Copies bytes into mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.pieces(address, bytes.len(), |memory, frame, range| {
            memory.write_slice(&bytes[range], frame).expect("frames are in RAM");
        });
    }

    /// Copies bytes out of mapped memory, whatever its protection.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) {
        self.pieces(address, bytes.len(), |memory, frame, range| {
            memory.read_slice(&mut bytes[range], frame).expect("frames are in RAM");
        });
    }

    /// Executes the one instruction at `state.rip`.
    ///
    /// # Errors
    /// Why it did not complete. `state` is then as the instruction left it.
    pub fn step(&mut self, state: &mut ExecState) -> Result<(), Pending> {
        if self.is_stale {
            self.vcpu.load(&self.system).expect("the state is a user program's");
            self.is_stale = false;
        }
        self.vcpu.execute_single(state)
    }

    fn pieces(
        &mut self,
        address: u64,
        len: usize,
        mut piece: impl FnMut(&GuestMemory, GuestAddress, std::ops::Range<usize>),
    ) {
        let mut at = 0;
        while at < len {
            let here = address + at as u64;
            let offset = here & paging::PAGE_OFFSET;
            let end = len.min(at + (PAGE_SIZE - offset) as usize);
            let entry = self.leaf(here);
            let frame = self.read_entry(entry) & paging::ADDRESS;
            assert_ne!(frame, 0, "nothing is mapped at {here:#x}");
            piece(&self.memory, GuestAddress(frame + offset), at..end);
            at = end;
        }
    }

    fn frame(&mut self) -> u64 {
        let frame = self.next_frame;
        self.next_frame += PAGE_SIZE;
        assert!(self.next_frame <= RAM, "the bare machine's RAM is used up");
        frame
    }

    /// The address of the page-table entry for a linear address; missing tables are made.
    fn leaf(&mut self, address: u64) -> u64 {
        let mut table = ROOT;
        for shift in [39, 30, 21] {
            let at = table + (address >> shift & 0x1ff) * 8;
            let mut entry = self.read_entry(at);
            if entry == 0 {
                entry = self.frame() | PRESENT | WRITABLE | USER;
                self.write_entry(at, entry);
            }
            table = entry & paging::ADDRESS;
        }
        table + (address >> 12 & 0x1ff) * 8
    }

    fn read_entry(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).expect("page tables are in RAM")
    }

    fn write_entry(&mut self, at: u64, entry: u64) {
        self.memory.write_obj(entry, GuestAddress(at)).expect("page tables are in RAM");
        self.is_stale = true;
    }
}

/// The flags of a page-table entry.
fn flags(protection: Protection) -> u64 {
    match protection {
        Protection::None => 0,
        Protection::ReadOnly => PRESENT | USER | paging::NO_EXECUTE,
        Protection::ReadWrite => PRESENT | USER | WRITABLE | paging::NO_EXECUTE,
        Protection::All => PRESENT | USER | WRITABLE,
    }
}

/// The state of a user program under a kernel like Linux, whatever its registers are.
fn user_state() -> VcpuState {
    let mut state = VcpuState {
        cr0: Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG,
        cr3: ROOT,
        cr4: Cr4::PAE
            | Cr4::PGE
            | Cr4::OSFXSR
            | Cr4::OSXMMEXCPT
            | Cr4::UMIP
            | Cr4::FSGSBASE
            | Cr4::OSXSAVE
            | Cr4::SMEP
            | Cr4::SMAP,
        efer: Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE,
        xcr0: xsave::SUPPORTED,
        gdtr: DescriptorTable { base: GDT, limit: 0x3f },
        ldtr: null_segment(0, 0),
        // A TSS without a map of ports.
        tr: Segment { limit: 0x66, ..VcpuState::reset().tr },
        ..VcpuState::reset()
    };
    state.segments = [null_segment(0, 3); 6];
    state.segments[SegmentRegister::Ss as usize] = Segment::data(DATA, 3);
    state
}
