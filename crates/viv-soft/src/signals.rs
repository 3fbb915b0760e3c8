//! The signals of faulting instructions, handed to whoever expects them.
//!
//! The process has one handler for them. It asks every claimant in turn, and passes what nobody claims to the
//! handler that was there before: Rust's own, which reports stack overflows, or the default, which kills.
#![allow(unsafe_code, reason = "signal handlers")]

use std::sync::{Once, OnceLock};
use std::{mem, ptr};

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use viv_arch::Vector;

/// A synchronous exception of the thread that took it.
pub(crate) struct Trap<'a> {
    /// Registers at the exception; what they are after the handler, the thread goes on with.
    pub context: &'a mut ucontext_t,
    /// The processor's vector.
    pub vector: u8,
    /// The processor's error code, 0 where there is none.
    pub error_code: u32,
}

/// Looks at a trap and either deals with it, by changing its context, and returns true, or leaves it alone.
///
/// Runs in a signal handler: it must be async-signal-safe and must not allocate.
pub(crate) type Claim = fn(&mut Trap<'_>) -> bool;

const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

static PREVIOUS: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];
static CLAIMS: [OnceLock<Claim>; 2] = [const { OnceLock::new() }; 2];

/// Adds a claimant, which stays for the life of the process.
///
/// # Panics
/// If there are more claimants than this crate has.
pub(crate) fn claim(claim: Claim) {
    assert!(CLAIMS.iter().any(|slot| slot.set(claim).is_ok()), "too many claimants of signals");
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
}

fn install() {
    for (signal, previous) in SIGNALS.into_iter().zip(&PREVIOUS) {
        // SAFETY: a zeroed sigaction is valid (default action, empty mask), and the pointers are to live
        // values. The handler upholds async-signal safety.
        let result = unsafe {
            let mut old: libc::sigaction = mem::zeroed();
            let mut result = libc::sigaction(signal, ptr::null(), &raw mut old);
            // The handler may run as soon as it is installed, so it finds its predecessor in place.
            let _ = previous.set(old);
            let mut new: libc::sigaction = mem::zeroed();
            new.sa_sigaction = handle as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            result |= libc::sigaction(signal, &raw const new, ptr::null_mut());
            result
        };
        // It fails for signals that do not exist and pointers that are not valid.
        assert_eq!(result, 0, "sigaction({signal}) refused");
    }
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo and the ucontext of the interrupted thread, which nothing else
    // refers to while the handler runs.
    let (code, context_ref) = unsafe { ((*info).si_code, &mut *context.cast::<ucontext_t>()) };
    let trap_number = context_ref.uc_mcontext.gregs[libc::REG_TRAPNO as usize];
    // There is no longer anything behind a page of a mapped file: nothing that is known of the instruction brings it back.
    let is_gone = signal == libc::SIGBUS && trap_number == Vector::PageFault as i64;
    // Positive codes come from the processor; what another process sent is not about our instruction.
    if code > 0 && !is_gone {
        let registers = &context_ref.uc_mcontext.gregs;
        let vector = trap_number as u8;
        let error_code = registers[libc::REG_ERR as usize] as u32;
        let mut trap = Trap { context: context_ref, vector, error_code };
        if CLAIMS.iter().filter_map(OnceLock::get).any(|claim| claim(&mut trap)) {
            return;
        }
    }
    pass_on(signal, info, context, code);
}

/// Does what would have happened without this module.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int) {
    let index = SIGNALS.iter().position(|known| *known == signal);
    let Some(previous) = index.and_then(|index| PREVIOUS[index].get()) else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // An exception that is ignored kills as well. The instruction runs again and faults for good; a
            // signal that was sent has to be sent again.
            // SAFETY: a zeroed sigaction is the default action; raise is async-signal-safe.
            unsafe {
                let default: libc::sigaction = mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
            // SAFETY: with SA_SIGINFO, that is what the field holds.
            let handler = unsafe { mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO, that is what the field holds.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}
