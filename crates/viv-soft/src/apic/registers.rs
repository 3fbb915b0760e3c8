//! The registers, as a page of memory in xAPIC mode and as MSRs in x2APIC mode.

use viv_arch::Exception;
use viv_arch::apic::{DeliveryMode, reg};
use viv_arch::msr::{IA32_X2APIC_BASE, IA32_X2APIC_END};

use super::base::Mode;
use super::interconnect::logical_x2apic_id;
use super::lvt::Source;
use super::message::{Audience, Message};
use super::{
    ESR_ILLEGAL_REGISTER, ESR_SEND_ILLEGAL_VECTOR, Effect, FIRST_LEGAL_VECTOR, LocalApic, SVR_ENABLE,
};

/// Version 0x14, an integrated APIC, and the index of the last LVT entry.
pub(super) const VERSION: u32 = 0x14 | (Source::ALL.len() as u32 - 1) << 16;

/// The vector, the software enable, and the focus checking of old, which does nothing.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
const DIVIDE_WRITABLE: u32 = 0b1011;
/// Vector, delivery and destination mode, level, trigger mode, shorthand.
pub(super) const ICR_WRITABLE: u32 = 0x000c_cfff;
/// What xAPIC mode keeps of the other half: the destination.
const ICR_HIGH_WRITABLE: u32 = 0xff00_0000;
const DFR_READ_AS_ONE: u32 = 0x0fff_ffff;
const LDR_WRITABLE: u32 = 0xff00_0000;

/// The registers that ISR, TMR and IRR have each.
const SET_REGISTERS: u32 = 8;

impl LocalApic {
    /// Reads `data.len()` bytes at `offset` into the register page ([`LocalApic::mmio_base`]). A register is the
    /// first 4 of each 16 bytes; the others read as 0. Outside xAPIC mode there is no page, and ones are read.
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8], tsc: u64) {
        if self.mode() != Mode::XApic {
            data.fill(0xff);
            return;
        }
        let register = (offset >> 4) as u32 & 0xff;
        let value = self.read_register(register, tsc).unwrap_or_else(|| {
            self.report(ESR_ILLEGAL_REGISTER);
            0
        });
        let bytes = value.to_le_bytes();
        let mut source = bytes.into_iter().skip(offset as usize & 0xf);
        data.fill_with(|| source.next().unwrap_or(0));
    }

    /// Writes `data` at `offset` into the register page ([`LocalApic::mmio_base`]). Only stores of 4 bytes to the
    /// start of a register are defined (SDM vol. 3, 11.4.1); others, and those outside xAPIC mode, do nothing.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], tsc: u64) -> Effect {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return Effect::None };
        if offset & 0xf != 0 || self.mode() != Mode::XApic {
            return Effect::None;
        }
        let value = u32::from_le_bytes(bytes);
        let register = (offset >> 4) as u32 & 0xff;
        match register {
            reg::LDR => {
                self.ldr = value & LDR_WRITABLE;
                self.publish();
            }
            reg::DFR => {
                self.dfr = value | DFR_READ_AS_ONE;
                self.publish();
            }
            reg::ICR_HIGH => {
                self.icr = self.icr & u64::from(u32::MAX) | u64::from(value & ICR_HIGH_WRITABLE) << 32;
            }
            reg::ICR_LOW => {
                let high = self.icr & !u64::from(u32::MAX);
                return self.write_icr(high | u64::from(value & ICR_WRITABLE));
            }
            _ => return self.write_register(register, value, tsc),
        }
        Effect::None
    }

    /// RDMSR of 0x800 to 0x8ff.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, and for registers that are not there or only written.
    pub fn read_msr(&mut self, msr: u32, tsc: u64) -> Result<u64, Exception> {
        let register = self.register_of(msr)?;
        match register {
            reg::ICR_LOW => Ok(self.icr),
            reg::APR | reg::EOI | reg::DFR | reg::ICR_HIGH => Err(Exception::gp(0)),
            _ => self.read_register(register, tsc).map(u64::from).ok_or(Exception::gp(0)),
        }
    }

    /// WRMSR of 0x800 to 0x8ff.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for registers that are not there or only read, and for reserved bits.
    pub fn write_msr(&mut self, msr: u32, value: u64, tsc: u64) -> Result<Effect, Exception> {
        let register = self.register_of(msr)?;
        let defined = x2apic_writable(register).ok_or(Exception::gp(0))?;
        if value & !defined != 0 {
            return Err(Exception::gp(0));
        }
        Ok(match register {
            reg::ICR_LOW => {
                let high = value & !u64::from(u32::MAX);
                self.write_icr(high | u64::from(value as u32 & ICR_WRITABLE))
            }
            reg::SELF_IPI => self.send(Message {
                mode: DeliveryMode::Fixed,
                vector: value as u8,
                level: false,
                audience: Audience::Itself(self.id),
            }),
            _ => self.write_register(register, value as u32, tsc),
        })
    }

    fn register_of(&self, msr: u32) -> Result<u32, Exception> {
        let in_range = (IA32_X2APIC_BASE..=IA32_X2APIC_END).contains(&msr);
        if in_range && self.mode() == Mode::X2Apic {
            Ok(msr - IA32_X2APIC_BASE)
        } else {
            Err(Exception::gp(0))
        }
    }

    /// The value of a register in the present mode; `None` if there is none to read.
    pub(super) fn read_register(&self, register: u32, tsc: u64) -> Option<u32> {
        let x2apic = self.mode() == Mode::X2Apic;
        Some(match register {
            reg::ID => {
                if x2apic {
                    self.id
                } else {
                    self.id << 24
                }
            }
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            // The register is there, the arbitration bus is not. An EOI reads as 0.
            reg::APR | reg::EOI => 0,
            reg::PPR => u32::from(self.ppr()),
            reg::LDR => {
                if x2apic {
                    logical_x2apic_id(self.id)
                } else {
                    self.ldr
                }
            }
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ESR => self.esr,
            reg::ICR_LOW => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::TIMER_INITIAL => self.timer.initial(),
            reg::TIMER_CURRENT => self.timer.current(tsc),
            reg::TIMER_DIVIDE => self.timer.divide(),
            _ => {
                if let Some(source) = Source::from_register(register) {
                    return Some(self.lvt.read(source));
                }
                let sets = [(reg::ISR, &self.isr), (reg::TMR, &self.tmr), (reg::IRR, &self.irr)];
                let index = |first: u32| register.checked_sub(first).filter(|&index| index < SET_REGISTERS);
                return sets.into_iter().find_map(|(first, set)| Some(set.register(index(first)?)));
            }
        })
    }

    /// Writes a register that is alike in both modes. Those that are only read stay as they are.
    fn write_register(&mut self, register: u32, value: u32, tsc: u64) -> Effect {
        match register {
            reg::TPR => self.tpr = value as u8,
            reg::EOI => return self.eoi().map_or(Effect::None, Effect::EndOfInterrupt),
            reg::SVR => self.write_svr(value),
            reg::ESR => self.esr = std::mem::take(&mut self.errors),
            reg::TIMER_INITIAL => {
                self.timer_tick(tsc);
                self.timer.set_initial(value, tsc);
            }
            reg::TIMER_DIVIDE => {
                self.timer_tick(tsc);
                self.timer.set_divide(value & DIVIDE_WRITABLE, tsc);
            }
            _ => {
                if let Some(source) = Source::from_register(register) {
                    self.timer_tick(tsc);
                    self.lvt.write(source, value, self.svr & SVR_ENABLE != 0);
                    self.timer.set_mode(self.lvt.entry(Source::Timer).timer_mode(), tsc);
                } else if self.read_register(register, tsc).is_none() {
                    self.report(ESR_ILLEGAL_REGISTER);
                }
            }
        }
        Effect::None
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if value & SVR_ENABLE == 0 {
            self.lvt.mask_all();
        }
        self.publish();
    }

    fn write_icr(&mut self, value: u64) -> Effect {
        self.icr = value;
        match Message::from_icr(value, self.id, self.mode() == Mode::X2Apic) {
            Some(message) => self.send(message),
            None => Effect::None,
        }
    }

    /// Sends what the guest has asked for. An interrupt to itself need not leave the APIC.
    fn send(&mut self, message: Message) -> Effect {
        let has_vector = matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if has_vector && message.vector < FIRST_LEGAL_VECTOR {
            self.report(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        if has_vector && message.audience == Audience::Itself(self.id) {
            self.accept(message.vector, false);
            return Effect::None;
        }
        Effect::Send(message)
    }
}

/// The bits that can be written to a register by MSR; `None` if writing it at all raises #GP (SDM vol. 3,
/// table 11-6).
fn x2apic_writable(register: u32) -> Option<u64> {
    // The delivery status, which is not in x2APIC mode, is ignored rather than reserved, as on processors.
    const ICR_DEFINED: u64 = 0xffff_ffff_0000_0000 | ICR_WRITABLE as u64 | 1 << 12;
    Some(match register {
        reg::TPR | reg::SELF_IPI => 0xff,
        reg::EOI | reg::ESR => 0,
        reg::SVR => u64::from(SVR_WRITABLE),
        reg::ICR_LOW => ICR_DEFINED,
        reg::TIMER_INITIAL => u64::from(u32::MAX),
        reg::TIMER_DIVIDE => u64::from(DIVIDE_WRITABLE),
        _ => return Source::from_register(register).map(|source| u64::from(source.defined())),
    })
}
