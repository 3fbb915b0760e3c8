//! The local APIC (SDM vol. 3, chapter 11).
//!
//! [`LocalApic`] is a state machine that the vCPU's thread owns: nothing in it blocks, reads a clock or knows of
//! other threads. Time goes in as the guest's TSC at the moment of each call. What it wants done outside (an IPI, an
//! end of interrupt for the IOAPICs) comes back as an [`Effect`].
//!
//! Between the APICs is the [`Interconnect`], which any thread may use: it resolves a [`Message`]'s destination by
//! the [`ApicAddress`] that each APIC keeps up to date, and posts to the [`Inbox`](crate::inbox::Inbox)es.
//!
//! - `vectors`: IRR, ISR and TMR; `lvt`: the local vector table; `timer`: the timer.
//! - `base`: IA32_APIC_BASE; `registers`: the registers, by memory and by MSR.
//! - `message`, `interconnect`: the way from one APIC to others.
//! - `state`: the register page that goes into `VcpuState`.
//!
//! Left out, as optional or long gone: SMI, remote read, arbitration priority, suppression of EOI broadcasts. APIC
//! ids are read-only.
//!
//! A guest can make nothing here fail but its own access, which then raises #GP or sets a bit of the ESR.

mod base;
mod interconnect;
mod lvt;
mod message;
mod registers;
mod state;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use viv_arch::apic::DeliveryMode;

pub use interconnect::{ApicAddress, Interconnect};
pub use message::{Audience, Message};
pub use state::StateError;
pub use vectors::VectorSet;

use lvt::{LocalVectorTable, Source};
use timer::Timer;

/// Error status: the ICR was written with a vector below 16.
const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// Error status: an interrupt came in with a vector below 16.
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// Error status: a register that is not there was accessed.
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Spurious-interrupt vector register: enabled by software.
const SVR_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register after power-on.
const SVR_RESET: u32 = 0xff;

/// Vectors below this are illegal.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// What a register access asks of the world outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing. The APIC's own pending interrupts may have changed, as after every access.
    None,
    /// Send this, with [`Interconnect::deliver`].
    Send(Message),
    /// Tell the IOAPICs that the level-triggered interrupt with this vector has ended.
    EndOfInterrupt(u8),
}

/// The local APIC of one vCPU.
#[derive(Debug)]
pub struct LocalApic {
    id: u32,
    /// Bits of IA32_APIC_BASE that are reserved.
    base_reserved: u64,
    base: u64,
    tpr: u8,
    /// Bits 31:24, in xAPIC mode; x2APIC mode derives it from the id.
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// What software reads.
    esr: u32,
    /// What has been found since software last wrote the ESR.
    errors: u32,
    icr: u64,
    lvt: LocalVectorTable,
    timer: Timer,
    address: Arc<ApicAddress>,
}

impl LocalApic {
    /// The local APIC of vCPU `id` after power-on; vCPU 0 is the bootstrap processor. `tsc_khz` is the frequency of
    /// the guest's TSC, `physical_address_bits` is MAXPHYADDR, and `address` is where it says to the
    /// [`Interconnect`] what it answers to.
    #[must_use]
    pub fn new(id: u32, tsc_khz: u32, physical_address_bits: u32, address: Arc<ApicAddress>) -> Self {
        let apic = Self {
            id,
            base_reserved: base::reserved_bits(physical_address_bits),
            base: base::reset_value(id == 0),
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: SVR_RESET,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            irr: VectorSet::EMPTY,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: LocalVectorTable::RESET,
            timer: Timer::new(tsc_khz),
            address,
        };
        apic.publish();
        apic
    }

    /// The state after power-on.
    pub fn reset(&mut self) {
        self.base = base::reset_value(self.id == 0);
        self.init();
    }

    /// What an INIT does: all registers as after power-on, but id and mode stay (SDM vol. 3, 11.4.7.3 and
    /// 11.12.5.1).
    pub fn init(&mut self) {
        self.tpr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = SVR_RESET;
        self.isr = VectorSet::EMPTY;
        self.tmr = VectorSet::EMPTY;
        self.irr = VectorSet::EMPTY;
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = LocalVectorTable::RESET;
        self.timer.reset();
        self.publish();
    }

    /// Virtual wire mode: enabled, LINT0 passes the 8259's interrupts through, LINT1 is NMI. Firmware leaves the
    /// bootstrap processor so (MP specification, 3.6.2.2); a kernel that is booted without firmware expects it.
    pub fn set_virtual_wire(&mut self) {
        self.svr |= SVR_ENABLE;
        self.lvt.write(Source::Lint0, (DeliveryMode::ExtInt as u32) << 8, true);
        self.lvt.write(Source::Lint1, (DeliveryMode::Nmi as u32) << 8, true);
        self.publish();
    }

    /// Takes an interrupt in. It is dropped while the APIC is disabled, by software or altogether.
    pub fn accept(&mut self, vector: u8, level: bool) {
        if !self.is_software_enabled() {
            return;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.report(ESR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.irr.insert(vector);
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
    }

    /// Takes in all interrupts of an [`Inbox`](crate::inbox::Inbox).
    pub fn accept_all(&mut self, edge: VectorSet, level: VectorSet) {
        for (set, is_level) in [(edge, false), (level, true)] {
            if !set.is_empty() {
                set.iter().for_each(|vector| self.accept(vector, is_level));
            }
        }
    }

    /// The interrupt to deliver as soon as the processor takes one: the highest requested, if its class is above
    /// the processor priority (SDM vol. 3, 11.8.3.1).
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.ppr() >> 4 && self.is_enabled()).then_some(vector)
    }

    /// The processor takes an interrupt: the vector, which is in service from now on. If nothing is pending any
    /// more it is the spurious one, which is not (SDM vol. 3, 11.9).
    #[must_use]
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending() else { return self.svr as u8 };
        self.irr.remove(vector);
        self.isr.insert(vector);
        vector
    }

    /// Ends the interrupt of highest priority in service. If it was level-triggered, the IOAPICs must be told.
    #[must_use]
    pub fn eoi(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        self.tmr.contains(vector).then_some(vector)
    }

    /// CR8: the task priority class, 0 to 15.
    #[must_use]
    pub const fn cr8(&self) -> u64 {
        (self.tpr >> 4) as u64
    }

    /// Writes CR8. Of `value`, which the processor has found to be 15 at most, the low 4 bits count.
    pub const fn set_cr8(&mut self, value: u64) {
        self.tpr = (value as u8) << 4;
    }

    /// Whether the processor takes interrupts from the 8259: the APIC is off, or LINT0 passes them through.
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        !self.is_enabled() || self.lvt.entry(Source::Lint0).delivers(DeliveryMode::ExtInt)
    }

    /// Whether an edge on the platform's NMI line reaches the processor: the APIC is off, or LINT1 passes it on.
    #[must_use]
    pub fn accepts_nmi(&self) -> bool {
        !self.is_enabled() || self.lvt.entry(Source::Lint1).delivers(DeliveryMode::Nmi)
    }

    /// The guest's TSC at which to call [`LocalApic::timer_tick`]. It may have passed already.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.lvt.entry(Source::Timer).is_masked() { None } else { self.timer.next() }
    }

    /// Raises the timer's interrupt if it is due at `tsc`. However many periods have passed, that is one interrupt.
    pub fn timer_tick(&mut self, tsc: u64) {
        if self.timer.tick(tsc) {
            self.raise(Source::Timer);
        }
    }

    /// IA32_TSC_DEADLINE: 0 unless the timer is armed in TSC-deadline mode.
    #[must_use]
    pub const fn tsc_deadline(&self) -> u64 {
        self.timer.deadline()
    }

    /// Writes IA32_TSC_DEADLINE. A deadline that has passed by `tsc` raises the interrupt now.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc: u64) {
        self.timer_tick(tsc);
        self.timer.set_deadline(value);
        self.timer_tick(tsc);
    }

    /// The guest has moved its TSC by `delta`: a running count must not notice.
    pub fn adjust_tsc(&mut self, delta: i64) {
        self.timer.adjust_tsc(delta);
    }

    /// Processor priority (SDM vol. 3, 11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// Whether fixed interrupts are accepted.
    const fn is_software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLE != 0
    }

    /// The interrupt of a local source, if its entry lets it through.
    fn raise(&mut self, source: Source) {
        let entry = self.lvt.entry(source);
        if !entry.is_masked() {
            self.accept(entry.vector(), false);
        }
    }

    /// Records an error, and raises the error interrupt at the first of its kind since software wrote the ESR
    /// (SDM vol. 3, 11.5.3). An error interrupt with an illegal vector is itself an error, but not a second time.
    fn report(&mut self, error: u32) {
        if self.errors & error == 0 {
            self.errors |= error;
            self.raise(Source::Error);
        }
    }

    /// Tells the interconnect what this APIC answers to.
    fn publish(&self) {
        self.address.publish(self.mode(), self.is_software_enabled(), self.ldr, self.dfr);
    }
}
