//! The hardware engine: x86-64 processors of the host, through KVM.
//!
//! From the outside: [`KvmEngine`], an [`Engine`](viv_engine::Engine). Inside, bottom up:
//! - `cpuid`, `msr`: what of the machine's processor model this host's KVM has, and which MSRs guests reach;
//! - `run_page`, `kick`: the page that a vCPU shares with KVM, and stopping a vCPU from other threads;
//! - `memory`, `dirty_ring`: guest RAM as KVM's memory slots, and the pages that guests have written;
//! - `routes`, `shortcuts`: the IOAPIC, which is not KVM's, and eventfds that are;
//! - `clock`: KVM's clock, kept in step with the machine's;
//! - `state`: everything of a vCPU to a [`VcpuState`](viv_arch::VcpuState) and back;
//! - `finish`: instructions that KVM gives up on, finished by the software engine's interpreter;
//! - `vm`, `vcpu`: the machine, and the loop around KVM_RUN.
//!
//! It must not know devices: it reaches them by [`Platform`](viv_engine::Platform) alone. A guest can make nothing here
//! fail but itself.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod clock;
mod cpuid;
mod debug;
mod dirty_ring;
mod engine;
mod error;
mod finish;
mod kick;
mod memory;
mod msr;
mod routes;
mod run_page;
mod shortcuts;
mod state;
mod vcpu;
mod vm;

pub use engine::KvmEngine;
