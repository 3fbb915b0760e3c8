//! The software engine: x86-64 processors without hardware virtualization.
//!
//! A guest's instructions are decoded once into blocks of [`op::Op`]s and interpreted; hot ones are translated to host
//! code. What only computes runs on the host's own execution units; what touches memory goes through a software TLB;
//! what is privileged is modelled.
//!
//! From the outside: [`SoftEngine`], an [`Engine`](viv_engine::Engine) that takes [`Options`], and [`Stepper`], by which
//! another engine has single instructions done. Inside, bottom up:
//! - [`hostexec`]: single instructions executed by the host, and the code memory for them;
//! - [`apic`], [`inbox`], [`alarm`], [`pvclock`], [`tsc`]: interrupts and time;
//! - `ram`, `window`, `tlb`, `spaces`, `mmu`, `access`: guest memory by physical and by linear address;
//! - `cpu`, `ops`, `event`, `msr`, `debug`, `lapic`: the state of a CPU and what instructions do to it;
//! - `decode`, `lower`, `block`: from bytes to blocks;
//! - `region`, `translate`: where a CPU lives, and the code made for it;
//! - `torture`: when what may happen at any moment does;
//! - `vm`, `vcpu`: the machine, and the loop that runs blocks and looks for events.
//!
//! It must not know devices: it reaches them by [`Platform`](viv_engine::Platform) alone. A guest can make nothing
//! here fail but itself: what it does wrong becomes an exception, and what this CPU lacks an
//! [`Exit::Unsupported`](viv_engine::Exit).

#![cfg_attr(
    not(any(test, feature = "testing")),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod access;
pub mod alarm;
pub mod apic;
mod attention;
mod block;
mod cpu;
mod debug;
mod decode;
mod event;
pub mod hostexec;
pub mod inbox;
mod lapic;
mod lower;
mod mmu;
mod msr;
mod op;
mod ops;
mod options;
mod perf_map;
pub mod pvclock;
mod ram;
mod region;
mod signals;
mod spaces;
mod steal;
mod stepper;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tlb;
mod torture;
mod translate;
pub mod tsc;
mod vcpu;
mod vm;
mod window;

pub use options::{CodeMemory, OptionError, Options, Tier, Torture};
pub use stepper::Stepper;
pub use vm::SoftEngine;
