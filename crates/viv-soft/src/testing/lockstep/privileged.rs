//! Gadgets of system instructions. In user mode, most of them fault.

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, msr};

use super::gadgets::{GUARD, Island};
use super::layout::*;
use crate::testing::Rng;

/// What is read and written. Nothing that tells the time is among them.
const MSRS: [u32; 12] = [
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GS_BASE,
    msr::IA32_TSC_AUX,
    msr::IA32_FMASK,
    msr::IA32_CSTAR,
    msr::IA32_PAT,
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_STAR,
    msr::IA32_MISC_ENABLE,
];

impl Island<'_> {
    /// A gadget of system instructions.
    pub(super) fn system(&mut self, rng: &mut Rng) {
        match rng.below(24) {
            0..4 => self.interrupt(rng),
            4..7 => self.flags(rng),
            7 => self.return_from_interrupt(rng),
            8..10 => self.debug_registers(rng),
            10..12 => self.control_register(rng),
            12 => self.model_specific(rng),
            13..15 => self.bytes.extend([0xcd, service::REMAP]),
            15 => self.address_space(rng),
            16 => self.bytes.extend([0x0f, 0x05]),
            17..19 => self.ports(rng),
            19 => self.segment(rng),
            20..22 => self.bytes.extend(rng.pick(&[
                &[0xfa][..],         // cli
                &[0xfb],             // sti
                &[0xfb, 0x90],       // sti; nop
                &[0x9c],             // pushf
                &[0x0f, 0xa2],       // cpuid
                &[0x0f, 0x01, 0xf8], // swapgs
                &[0x0f, 0x01, 0xcb], // stac
                &[0x0f, 0x01, 0xca], // clac
                &[0x0f, 0x06],       // clts
                &[0x0f, 0x09],       // wbinvd
                &[0xdb, 0xe3],       // fninit
                &[0xf3, 0x90],       // pause
                &[0x0f, 0xae, 0xf0], // mfence
                &[0x0f, 0x01, 0xd0], // xgetbv
                &[0x0f, 0x20, 0xe0], // mov rax, cr4
                &[0x0f, 0x20, 0xd0], // mov rax, cr2
                &[0x0f, 0x21, 0xf0], // mov rax, dr6
                &[0x0f, 0x01, 0x23], // smsw [rbx]
                &[0x0f, 0x01, 0x0b], // sidt [rbx]
                &[0x0f, 0x00, 0xc8], // str eax
                &[0x0f, 0x0b],       // ud2
                &[0xf4],             // hlt
            ])),
            _ => {
                let code = self.pool.system(rng);
                if let Some(instruction) = crate::testing::forms::random_instance(code, self.mode, rng) {
                    self.put(&instruction);
                }
            }
        }
    }

    fn interrupt(&mut self, rng: &mut Rng) {
        match rng.below(10) {
            0 => self.bytes.push(0xcc),
            1 => self.bytes.push(0xf1),
            2 => self.bytes.extend([0xcd, rng.next_u64() as u8]),
            3 => self.bytes.extend([0xcd, 0x90]),
            _ => self.bytes.extend([0xcd, service::EDGE + rng.below(4) as u8]),
        }
    }

    /// POPF with any flags, TF among them.
    fn flags(&mut self, rng: &mut Rng) {
        let arithmetic = rng.next_u64() as u32 & 0xcd5;
        let system = rng.pick(&[0, 0x200, 0x200, 0x300, 0x4_0000, 0x4_0200, 0x3000, 0x1_0200, 0x20_0000]);
        self.bytes.push(0x68);
        self.bytes.extend((arithmetic | system).to_le_bytes());
        self.bytes.push(0x9d);
    }

    fn return_from_interrupt(&mut self, rng: &mut Rng) {
        let code = rng.pick(&selector::ALL);
        let code = if rng.one_in(4) {
            code
        } else if self.places.user {
            rng.pick(&[selector::USER_CODE64, selector::USER_CODE64, selector::USER_CODE32])
        } else {
            selector::CODE64
        };
        let data = if code & 3 == 3 { selector::USER_DATA } else { rng.pick(&[0, selector::DATA]) };
        let target = self.elsewhere(rng);
        let stack = self.places.stack(rng);
        let flags = 0x202 | rng.next_u64() as i32 & 0x1_0dd5;
        self.bytes.extend(GUARD);
        self.assemble(|a| {
            a.push(i32::from(data))?;
            a.push(stack as i32)?;
            a.push(flags)?;
            a.push(i32::from(code))?;
            a.push(target as i32)?;
            a.iretq()
        });
    }

    /// A breakpoint on something that is executed or accessed.
    fn debug_registers(&mut self, rng: &mut Rng) {
        let n = rng.below(4) as u32;
        let target = if rng.one_in(2) { self.elsewhere(rng) } else { self.places.pointer(rng) };
        let condition = rng.below(4) << 16 | rng.below(4) << 18;
        let enabled = if rng.one_in(4) { 0 } else { 3 };
        let control = 0x400 | enabled << (2 * n) | condition << (4 * n);
        self.assemble(|a| {
            a.mov(rax, target)?;
            match n {
                0 => a.mov(dr0, rax)?,
                1 => a.mov(dr1, rax)?,
                2 => a.mov(dr2, rax)?,
                _ => a.mov(dr3, rax)?,
            }
            a.mov(eax, control as u32)?;
            a.mov(dr7, rax)
        });
    }

    fn control_register(&mut self, rng: &mut Rng) {
        if rng.one_in(2) {
            let bits = [Cr0::WP, Cr0::WP, Cr0::AM, Cr0::TS, Cr0::MP];
            let bit = rng.pick(&bits).bits().trailing_zeros();
            self.assemble(|a| {
                a.mov(rax, cr0)?;
                a.btc(rax, bit)?;
                a.mov(cr0, rax)
            });
        } else {
            let bits = [Cr4::SMEP, Cr4::SMAP, Cr4::UMIP, Cr4::DE, Cr4::PGE, Cr4::FSGSBASE, Cr4::OSXSAVE];
            let bit = rng.pick(&bits).bits().trailing_zeros();
            self.assemble(|a| {
                a.mov(rax, cr4)?;
                a.btc(rax, bit)?;
                a.mov(cr4, rax)
            });
        }
    }

    fn model_specific(&mut self, rng: &mut Rng) {
        let number = rng.pick(&MSRS);
        let value = if rng.one_in(2) { self.places.pointer(rng) } else { rng.interesting() };
        let writes = rng.one_in(2);
        self.assemble(|a| {
            a.mov(ecx, number)?;
            if !writes {
                return a.rdmsr();
            }
            a.mov(eax, value as u32)?;
            a.mov(edx, (value >> 32) as u32)?;
            a.wrmsr()
        });
    }

    fn address_space(&mut self, rng: &mut Rng) {
        let root = rng.pick(&self.places.roots);
        self.assemble(|a| {
            a.mov(eax, root as u32)?;
            a.mov(cr3, rax)
        });
    }

    fn ports(&mut self, rng: &mut Rng) {
        self.load(2, rng.below(0x400));
        match rng.below(4) {
            // IN, OUT.
            0 | 1 => self.bytes.push(rng.pick(&[0xec, 0xed, 0xee, 0xef])),
            // INS, OUTS.
            _ => {
                for number in [6, 7] {
                    let pointer = self.places.pointer(rng);
                    self.load(number, pointer);
                }
                self.load(1, rng.below(20));
                if rng.one_in(2) {
                    self.bytes.push(0xf3);
                }
                self.bytes.push(rng.pick(&[0x6c, 0x6d, 0x6e, 0x6f]));
            }
        }
    }

    /// A segment register is loaded.
    fn segment(&mut self, rng: &mut Rng) {
        self.load(0, u64::from(rng.pick(&selector::ALL)));
        // ES, SS, DS, FS, GS.
        self.bytes.extend([0x8e, 0xc0 | rng.pick(&[0, 2, 3, 4, 5]) << 3]);
    }
}
