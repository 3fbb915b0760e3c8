//! What ends a guest that does not end itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use viv_engine::Kick;

/// Kicks a vCPU that runs too long, so that a wrong guest fails its test instead of hanging it.
pub struct Watchdog {
    shared: Arc<WatchdogState>,
    thread: Option<JoinHandle<()>>,
}

struct WatchdogState {
    epoch: Instant,
    /// When the run started, in milliseconds since `epoch`, plus one; 0 while nothing runs.
    started: AtomicU64,
    fired: AtomicBool,
    ended: AtomicBool,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Watchdog {
    pub fn new(kicker: Arc<dyn Kick>) -> Self {
        let shared = Arc::new(WatchdogState {
            epoch: Instant::now(),
            started: AtomicU64::new(0),
            fired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let state = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !state.ended.load(Ordering::SeqCst) {
                let started = state.started.load(Ordering::SeqCst);
                let now = state.epoch.elapsed().as_millis() as u64;
                if started != 0 && now.saturating_sub(started) > PATIENCE.as_millis() as u64 {
                    state.fired.store(true, Ordering::SeqCst);
                    kicker.kick();
                }
                std::thread::park_timeout(Duration::from_millis(500));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// A run begins.
    pub fn start(&self) {
        let now = self.shared.epoch.elapsed().as_millis() as u64;
        self.shared.started.store(now + 1, Ordering::SeqCst);
    }

    /// The run has ended; says whether it took a kick.
    pub fn stop(&self) -> bool {
        self.shared.started.store(0, Ordering::SeqCst);
        self.shared.fired.load(Ordering::SeqCst)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
