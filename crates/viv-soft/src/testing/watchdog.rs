//! What ends a guest that does not end itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use viv_engine::Kick;

/// How long a guest may run: far longer than any that ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kicks a vCPU that runs too long, so that it fails its test instead of hanging it.
pub struct Watchdog {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    epoch: Instant,
    /// When the run began, in milliseconds since `epoch`, plus one; 0 while nothing runs.
    started: AtomicU64,
    fired: AtomicBool,
    ended: AtomicBool,
}

impl Watchdog {
    /// One for the vCPU that `kick` stops.
    #[must_use]
    pub fn new(kick: Arc<dyn Kick>) -> Self {
        let state = Arc::new(State {
            epoch: Instant::now(),
            started: AtomicU64::new(0),
            fired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let watched = Arc::clone(&state);
        Self { state, thread: Some(thread::spawn(move || watch(&watched, &*kick))) }
    }

    /// A run begins.
    pub fn start(&self) {
        self.state.fired.store(false, Ordering::SeqCst);
        self.state.started.store(self.state.now() + 1, Ordering::SeqCst);
    }

    /// The run has ended; says whether it took a kick.
    pub fn stop(&self) -> bool {
        self.state.started.store(0, Ordering::SeqCst);
        self.state.fired.load(Ordering::SeqCst)
    }
}

impl State {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

fn watch(state: &State, kick: &dyn Kick) {
    while !state.ended.load(Ordering::SeqCst) {
        let started = state.started.load(Ordering::SeqCst);
        if started != 0 && state.now().saturating_sub(started) > PATIENCE.as_millis() as u64 {
            state.fired.store(true, Ordering::SeqCst);
            kick.kick();
        }
        thread::park_timeout(Duration::from_millis(500));
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
