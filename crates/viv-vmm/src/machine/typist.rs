//! Somebody who types what the machine's owner asks for, at a pace that guests follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use viv_devices::i8042::{I8042, Key};
use viv_devices::{Device, DeviceError, SavedState, TimerEvents};
use viv_engine::{Clock, Timer};

use crate::keys::{Keystroke, Keystrokes};

const NAME: &str = "typist0";
const VERSION: u16 = 1;

/// How long a key stays down, and how long it is until the next.
const PACE: Duration = Duration::from_millis(20);
/// How many things to do can wait.
const MAX_ACTIONS: usize = 1 << 18;

/// Types on the keyboard, in guest time.
///
/// Its lock is taken before the keyboard's. A reset of the machine is none of the typist's: what is to be typed goes on.
pub(crate) struct Typist {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    keyboard: Arc<Mutex<I8042>>,
    state: State,
}

/// The saved state, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct State {
    /// What there is to do.
    actions: VecDeque<Action>,
    /// When the next of it is done.
    due: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    Key {
        key: Key,
        down: bool,
    },
    /// In nanoseconds.
    Wait(u64),
}

impl Typist {
    /// Somebody at this keyboard who has nothing to do.
    pub(crate) fn new(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>, keyboard: Arc<Mutex<I8042>>) -> Self {
        Self { clock, timer, keyboard, state: State::default() }
    }

    /// Types this after what was asked for before. False, and nothing is typed, if that is too much.
    pub(crate) fn type_keys(&mut self, keys: &Keystrokes) -> bool {
        let actions: Vec<Action> = keys.iter().flat_map(actions).collect();
        if self.state.actions.len().saturating_add(actions.len()) > MAX_ACTIONS {
            return false;
        }
        self.state.actions.extend(actions);
        if self.state.due.is_none() {
            self.sleep_until(Some(self.clock.now()));
        }
        true
    }

    /// Does what there is to do until it has to wait, and gives how long.
    fn work(&mut self) -> Option<u64> {
        let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&action) = self.state.actions.front() {
            match action {
                // The guest has not fetched what was typed before.
                Action::Key { key, down } if !keyboard.key(key, down) => return Some(nanoseconds(PACE)),
                Action::Key { .. } => {}
                Action::Wait(time) => {
                    self.state.actions.pop_front();
                    return Some(time);
                }
            }
            self.state.actions.pop_front();
        }
        None
    }

    fn sleep_until(&mut self, due: Option<u64>) {
        self.state.due = due;
        match due {
            Some(due) => self.timer.arm(due),
            None => self.timer.disarm(),
        }
    }
}

/// What is done for a keystroke.
fn actions(stroke: &Keystroke) -> Vec<Action> {
    let pace = Action::Wait(nanoseconds(PACE));
    match stroke {
        Keystroke::Wait(time) => vec![Action::Wait(nanoseconds(*time))],
        Keystroke::Press(keys) => {
            let down = keys.iter().map(|&key| Action::Key { key, down: true });
            let up = keys.iter().rev().map(|&key| Action::Key { key, down: false });
            down.chain([pace]).chain(up).chain([pace]).collect()
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl TimerEvents for Typist {
    fn on_timer(&mut self, now: u64) {
        let wait = self.work();
        self.sleep_until(wait.map(|wait| now.saturating_add(wait)));
    }
}

impl Device for Typist {
    fn name(&self) -> &str {
        NAME
    }

    fn timer_events(&mut self) -> Option<&mut dyn TimerEvents> {
        Some(self)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        SavedState::encode(NAME, VERSION, &self.state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: State = state.decode(VERSION)?;
        if state.actions.len() > MAX_ACTIONS {
            let reason = "more is to be typed than can wait".to_owned();
            return Err(DeviceError::Invalid { name: NAME.to_owned(), reason });
        }
        self.state = state;
        self.sleep_until(self.state.due);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use viv_devices::PortIo;
    use viv_devices::a20::A20Gate;
    use viv_devices::irq::{InterruptController, IrqLine};
    use viv_devices::system::{SystemControl, SystemRequest};
    use viv_engine::A20Target;
    use viv_engine::time::HostClock;

    use super::*;

    struct Nothing;

    impl InterruptController for Nothing {
        fn raise(&self, _: u32) {}
        fn lower(&self, _: u32) {}
    }

    impl SystemControl for Nothing {
        fn request(&self, _: SystemRequest) {}
    }

    impl A20Target for Nothing {}

    impl Timer for Nothing {
        fn arm(&self, _: u64) {}
        fn disarm(&self) {}
    }

    fn typist() -> Typist {
        let line = || IrqLine::new(Arc::new(Nothing), 1);
        let mut keyboard =
            I8042::with_devices(line(), line(), Arc::new(Nothing), A20Gate::new(Arc::new(Nothing)));
        PortIo::write(&mut keyboard, 0x64, &[0xae]);
        let clock = Arc::new(HostClock::stopped_at(0));
        Typist::new(clock, Arc::new(Nothing), Arc::new(Mutex::new(keyboard)))
    }

    /// What the guest fetches until the typist rests, and when it does.
    fn follow(typist: &mut Typist) -> (Vec<u8>, u64) {
        let (mut codes, mut now) = (Vec::new(), 0);
        while let Some(due) = typist.state.due {
            now = due;
            typist.on_timer(now);
            let mut keyboard = typist.keyboard.lock().unwrap();
            loop {
                let (mut status, mut code) = ([0], [0]);
                PortIo::read(&mut *keyboard, 0x64, &mut status);
                if status[0] & 1 == 0 {
                    break;
                }
                PortIo::read(&mut *keyboard, 0x60, &mut code);
                codes.push(code[0]);
            }
        }
        (codes, now)
    }

    #[test]
    fn keys_go_down_and_up_in_their_time() {
        let mut typist = typist();
        assert!(typist.type_keys(&"A<wait 2><up>".parse().unwrap()));
        let (codes, end) = follow(&mut typist);
        assert_eq!(codes, [0x2a, 0x1e, 0x9e, 0xaa, 0xe0, 0x48, 0xe0, 0xc8]);
        assert_eq!(end, 2_080_000_000);
    }

    #[test]
    fn nothing_is_lost_on_a_guest_that_does_not_listen() {
        let mut typist = typist();
        let text = "a".repeat(100);
        assert!(typist.type_keys(&text.parse().unwrap()));
        for now in 0..1000 {
            typist.on_timer(now);
        }
        assert_eq!(follow(&mut typist).0, [0x1e, 0x9e].repeat(100));
    }

    #[test]
    fn what_is_to_be_typed_is_saved_and_survives_a_reset() {
        let mut before = typist();
        assert!(before.type_keys(&"ab".parse().unwrap()));
        before.reset();
        let mut after = typist();
        after.restore(&before.save().unwrap()).unwrap();
        assert_eq!(follow(&mut after).0, [0x1e, 0x9e, 0x30, 0xb0]);
    }

    #[test]
    fn there_is_an_end_to_what_can_wait() {
        let mut typist = typist();
        let keys: Keystrokes = "a".repeat(crate::keys::MAX_LENGTH).parse().unwrap();
        let asked = (0..100).take_while(|_| typist.type_keys(&keys)).count();
        assert!((1..10).contains(&asked), "{asked} times");
    }
}
