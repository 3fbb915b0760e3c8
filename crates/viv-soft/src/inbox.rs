//! What other threads want of a vCPU.
//!
//! Devices, other vCPUs, the alarm and the machine leave their requests in a vCPU's [`Inbox`]; the thread that
//! runs the vCPU looks at one word per block of guest code ([`Inbox::attention`]) and, if that is set, takes
//! everything at once ([`Inbox::take`]). Posting takes no lock unless the vCPU sleeps.
//!
//! The order in which different requests arrived is not kept: an INIT is to be carried out before a SIPI from
//! the same [`Taken`], and drops its vectors, because INIT leaves a local APIC that accepts none.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use viv_engine::Kick;

use crate::apic::VectorSet;
use crate::attention::Attention;

const NMI: u32 = 1 << 0;
const INIT: u32 = 1 << 1;
const SIPI: u32 = 1 << 2;
const KICK: u32 = 1 << 3;
const FLUSH_TLB: u32 = 1 << 4;
const TIMER: u32 = 1 << 5;
const WAKE: u32 = 1 << 6;
/// The start-up IPI's vector lies in the same word, so that it cannot part from its flag.
const SIPI_VECTOR_SHIFT: u32 = 24;

/// The requests to one vCPU. Shared by all threads.
#[derive(Debug)]
#[repr(align(128))]
pub struct Inbox {
    /// Set after a request was stored, cleared before requests are taken.
    attention: Attention,
    extint: AtomicBool,
    events: AtomicU32,
    edge: [AtomicU64; 4],
    level: [AtomicU64; 4],
    /// Whether the vCPU waits on `wake`, or is about to.
    sleeping: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// Everything that was asked of a vCPU since it last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Edge-triggered vectors for the local APIC.
    pub edge: VectorSet,
    /// Level-triggered vectors for the local APIC.
    pub level: VectorSet,
    /// A non-maskable interrupt.
    pub nmi: bool,
    /// An INIT.
    pub init: bool,
    /// A start-up IPI with its vector; later than the INIT, if there is one too.
    pub sipi: Option<u8>,
    /// Someone wants [`Vcpu::run`](viv_engine::Vcpu::run) to return.
    pub kick: bool,
    /// Cached translations may be outdated.
    pub flush_tlb: bool,
    /// The [`Alarm`](crate::alarm::Alarm) went off.
    pub timer: bool,
    /// Another vCPU wants this one out of HLT.
    pub wake: bool,
}

/// Why [`Inbox::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// There is something to take.
    Attention,
    /// The deadline has passed.
    Deadline,
}

impl Inbox {
    /// An empty inbox.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            attention: Attention::new()?,
            extint: AtomicBool::default(),
            events: AtomicU32::default(),
            edge: <[AtomicU64; 4]>::default(),
            level: <[AtomicU64; 4]>::default(),
            sleeping: AtomicBool::default(),
            lock: Mutex::default(),
            wake: Condvar::default(),
        })
    }

    /// Whether there is something to take. Cheap enough for every block of guest code; the answer may be late by
    /// the time that a store takes to cross the host's caches.
    #[inline]
    #[must_use]
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// What [`Inbox::attention`] reads, for generated code.
    #[must_use]
    pub(crate) const fn attention_byte(&self) -> &Attention {
        &self.attention
    }

    /// Takes everything that was posted.
    pub fn take(&self) -> Taken {
        // Cleared first: a request that is stored after its word was read sets it again.
        if !self.attention.swap(false, Ordering::SeqCst) {
            return Taken::default();
        }
        let events = self.events.swap(0, Ordering::Acquire);
        Taken {
            edge: take_vectors(&self.edge),
            level: take_vectors(&self.level),
            nmi: events & NMI != 0,
            init: events & INIT != 0,
            sipi: (events & SIPI != 0).then_some((events >> SIPI_VECTOR_SHIFT) as u8),
            kick: events & KICK != 0,
            flush_tlb: events & FLUSH_TLB != 0,
            timer: events & TIMER != 0,
            wake: events & WAKE != 0,
        }
    }

    /// Makes the vCPU look for events, with nothing posted. For the vCPU's own thread, which does not sleep: a vCPU that
    /// does would not wake, not for what is posted afterwards either.
    #[inline]
    pub fn raise(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Waits, without using the host CPU, until there is something to take or `deadline` has passed. Only the
    /// vCPU's own thread may call it.
    pub fn wait(&self, deadline: Option<Instant>) -> Woken {
        let mut guard = self.guard();
        // Between this store and the load of `attention` on one side, and the store of `attention` and the load
        // of `sleeping` on the other, one must see the other's: both are sequentially consistent. Whoever sees
        // `sleeping` then needs the lock, so cannot call before the wait has begun.
        self.sleeping.store(true, Ordering::SeqCst);
        let woken = loop {
            if self.attention.load(Ordering::SeqCst) {
                break Woken::Attention;
            }
            guard = match deadline {
                None => self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break Woken::Deadline;
                    }
                    self.wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        self.sleeping.store(false, Ordering::SeqCst);
        woken
    }

    /// Whether the vCPU sleeps, and nothing has come in.
    #[cfg(test)]
    pub fn is_asleep(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst) && !self.attention.load(Ordering::SeqCst)
    }

    /// Posts an interrupt for the local APIC.
    pub fn post_vector(&self, vector: u8, level: bool) {
        let words = if level { &self.level } else { &self.edge };
        words[usize::from(vector) / 64].fetch_or(1 << (vector % 64), Ordering::Release);
        self.notify();
    }

    /// Posts a non-maskable interrupt.
    pub fn post_nmi(&self) {
        self.post(NMI);
    }

    /// Posts an INIT. It makes an earlier start-up IPI void.
    pub fn post_init(&self) {
        self.update(|events| (events & !SIPI) | INIT);
    }

    /// Posts a start-up IPI.
    pub fn post_sipi(&self, vector: u8) {
        let vector_bits = u32::from(vector) << SIPI_VECTOR_SHIFT;
        self.update(|events| (events & ((1 << SIPI_VECTOR_SHIFT) - 1)) | SIPI | vector_bits);
    }

    /// Forgets an INIT and a start-up IPI that were not taken.
    pub fn forget_start_up(&self) {
        self.events.fetch_and(!(INIT | SIPI), Ordering::AcqRel);
    }

    /// Asks for the drop of all cached translations.
    pub fn post_flush_tlb(&self) {
        self.post(FLUSH_TLB);
    }

    /// Says that the deadline given to the [`Alarm`](crate::alarm::Alarm) has passed.
    pub fn post_timer(&self) {
        self.post(TIMER);
    }

    /// Asks the vCPU to leave HLT, or not to stay in the next one.
    pub fn post_wake(&self) {
        self.post(WAKE);
    }

    /// Sets the level of the 8259's INTR line.
    pub fn set_extint(&self, asserted: bool) {
        if self.extint.swap(asserted, Ordering::SeqCst) != asserted && asserted {
            self.notify();
        }
    }

    /// The level of the 8259's INTR line. It is not taken: it stays until the 8259 lets go of it, and only a rise
    /// asks for attention, so the vCPU looks here whenever it can take an interrupt, and before it waits.
    #[inline]
    #[must_use]
    pub fn extint(&self) -> bool {
        self.extint.load(Ordering::Acquire)
    }

    fn post(&self, event: u32) {
        self.events.fetch_or(event, Ordering::Release);
        self.notify();
    }

    fn update(&self, new: impl Fn(u32) -> u32) {
        self.events.update(Ordering::Release, Ordering::Relaxed, new);
        self.notify();
    }

    /// Makes the vCPU look for events, with nothing posted, from any thread: raises `attention`, and wakes the vCPU if it
    /// sleeps.
    pub fn notify(&self) {
        // Always a read-modify-write, even if it is set: so that the clearing swap synchronises with every post
        // before it and not with the last alone. If it was set, whoever set it does the waking.
        let raised = self.attention.swap(true, Ordering::SeqCst);
        if !raised && self.sleeping.load(Ordering::SeqCst) {
            let _guard = self.guard();
            self.wake.notify_one();
        }
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Inbox {
    fn kick(&self) {
        self.post(KICK);
    }
}

fn take_vectors(words: &[AtomicU64; 4]) -> VectorSet {
    VectorSet(std::array::from_fn(|word| {
        // A load is cheaper than a locked swap, and most words are empty.
        match words[word].load(Ordering::Acquire) {
            0 => 0,
            _ => words[word].swap(0, Ordering::Acquire),
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_posted_is_taken_once() {
        let inbox = Inbox::new().unwrap();
        assert!(!inbox.attention());
        inbox.post_vector(0x31, false);
        inbox.post_vector(0xff, true);
        inbox.post_nmi();
        inbox.post_flush_tlb();
        inbox.post_timer();
        inbox.post_wake();
        inbox.kick();
        assert!(inbox.attention());
        let taken = inbox.take();
        assert_eq!(taken.edge.iter().collect::<Vec<_>>(), [0x31]);
        assert_eq!(taken.level.iter().collect::<Vec<_>>(), [0xff]);
        assert!(taken.nmi && taken.flush_tlb && taken.timer && taken.wake && taken.kick && !taken.init);
        assert_eq!(taken.sipi, None);
        assert!(!inbox.attention());
        assert_eq!(inbox.take(), Taken::default());
    }

    #[test]
    fn init_makes_an_earlier_sipi_void_and_the_last_sipi_counts() {
        let inbox = Inbox::new().unwrap();
        inbox.post_sipi(0x10);
        inbox.post_init();
        let taken = inbox.take();
        assert!(taken.init && taken.sipi.is_none());
        inbox.post_init();
        inbox.post_sipi(0xff);
        inbox.post_sipi(0x9a);
        inbox.post_nmi();
        let taken = inbox.take();
        assert!(taken.init && taken.nmi && !taken.timer);
        assert_eq!(taken.sipi, Some(0x9a));
    }

    #[test]
    fn extint_is_a_level() {
        let inbox = Inbox::new().unwrap();
        inbox.set_extint(true);
        assert!(inbox.attention() && inbox.extint());
        inbox.take();
        assert!(inbox.extint());
        inbox.set_extint(true);
        assert!(!inbox.attention(), "nothing has changed");
        inbox.set_extint(false);
        assert!(!inbox.extint() && !inbox.attention());
    }

    #[test]
    fn waiting_ends_at_once_if_there_is_something_or_the_deadline_has_passed() {
        let inbox = Inbox::new().unwrap();
        assert_eq!(inbox.wait(Some(Instant::now())), Woken::Deadline);
        inbox.post_nmi();
        assert_eq!(inbox.wait(None), Woken::Attention);
        assert_eq!(inbox.wait(Some(Instant::now())), Woken::Attention);
    }

    #[test]
    fn a_sleeper_is_woken_by_every_kind_of_post() {
        type Post = fn(&Inbox);
        let posts: [Post; 7] = [
            |inbox| inbox.post_vector(0x40, false),
            |inbox| inbox.post_vector(0x40, true),
            Inbox::post_nmi,
            Inbox::post_init,
            |inbox| inbox.post_sipi(1),
            |inbox| inbox.set_extint(true),
            |inbox| inbox.kick(),
        ];
        for post in posts {
            let inbox = Inbox::new().unwrap();
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| inbox.wait(Some(Instant::now() + Duration::from_secs(60))));
                while !inbox.sleeping.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                post(&inbox);
                assert_eq!(sleeper.join().unwrap(), Woken::Attention);
            });
        }
    }

    /// Posters wait for each post to be taken, so a single lost wake-up stops the test, which the deadline of
    /// the sleeper then reports.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: usize = 5_000;
        let inbox = Inbox::new().unwrap();
        let seen: [AtomicUsize; 3] = Default::default();
        std::thread::scope(|scope| {
            for (poster, seen) in seen.iter().enumerate() {
                let inbox = &inbox;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        inbox.post_vector(0x20 + 0x50 * poster as u8, poster == 1);
                        while seen.load(Ordering::Acquire) == round {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            while seen.iter().any(|seen| seen.load(Ordering::Relaxed) < ROUNDS) {
                let deadline = Instant::now() + Duration::from_secs(60);
                if inbox.wait(Some(deadline)) == Woken::Deadline {
                    for seen in &seen {
                        seen.store(ROUNDS, Ordering::Release);
                    }
                    panic!("a wake-up was lost");
                }
                let taken = inbox.take();
                for vector in taken.edge.iter().chain(taken.level.iter()) {
                    seen[usize::from(vector - 0x20) / 0x50].fetch_add(1, Ordering::Release);
                }
            }
        });
        assert!(!inbox.attention());
    }
}
