//! What a waiting user sees, on standard error: what moves on a terminal, notes alone elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use viv_image::{Progress, Stage};

/// How often what moves is drawn.
const TICK: Duration = Duration::from_millis(100);
/// Steps of a bar.
const STEPS: u64 = 1000;

/// A line that moves while something takes its time; nothing where there is no terminal. Dropping it clears
/// the line.
#[derive(Debug)]
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Begins to show `message`.
    pub fn new(message: &str) -> Self {
        let target =
            if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style("{spinner} {wide_msg} {elapsed}"));
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Shows `message` from now on.
    pub fn say(&self, message: &str) {
        self.0.set_message(message.to_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// An image being built: a bar per stage on a terminal. Notes, such as packages that are installed on the host, are
/// shown everywhere.
#[derive(Debug)]
pub struct Building {
    what: String,
    bars: Option<MultiProgress>,
    stages: Mutex<HashMap<Stage, ProgressBar>>,
    /// The signal that calls it off, zero for none.
    signal: Arc<AtomicUsize>,
}

impl Building {
    /// Shows how `what` is built, until `signal` holds the number of a signal.
    pub fn new(what: String, signal: Arc<AtomicUsize>) -> Self {
        let bars = stderr().is_terminal().then(MultiProgress::new);
        Self { what, bars, stages: Mutex::default(), signal }
    }

    /// Prints a line above the bars.
    fn print(&self, line: &str) {
        let line = format!("viv: building {}: {line}", self.what);
        // Where there is nobody to tell, the work goes on untold.
        let _ = match &self.bars {
            Some(bars) => bars.println(line),
            None => writeln!(stderr(), "{line}"),
        };
    }
}

impl Progress for Building {
    fn begin(&self, stage: Stage) {
        let Some(bars) = &self.bars else { return };
        let bar = bars.add(ProgressBar::no_length());
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.set_message(format!("{}: {stage}", self.what));
        bar.enable_steady_tick(TICK);
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).insert(stage, bar);
    }

    fn advance(&self, stage: Stage, fraction: f64) {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = stages.get(&stage) else { return };
        if bar.length().is_none() {
            bar.set_style(style("{spinner} {msg} {bar:24} {percent}% {elapsed}"));
            bar.set_length(STEPS);
        }
        bar.set_position((fraction.clamp(0.0, 1.0) * STEPS as f64) as u64);
    }

    fn end(&self, stage: Stage) {
        if let Some(bar) = self.stages.lock().unwrap_or_else(PoisonError::into_inner).remove(&stage) {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        self.print(text);
    }

    fn cancelled(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        for bar in self.stages.lock().unwrap_or_else(PoisonError::into_inner).values() {
            bar.finish_and_clear();
        }
    }
}

/// A style by its template; the plain one should it not be understood.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
