//! The host's side of the conversation with the guest's agent.
//!
//! The conversation goes over a port of the virtio console; `viv_guest_proto` says how it runs. The guest is
//! not trusted: what is not the protocol ends the conversation, with a notice, and nothing else.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use viv_devices::virtio::{Input, PortBackend};
use viv_devices::{Device, DeviceError, SavedState};
use viv_guest_proto::{Decoder, EncodeError, GuestMessage, HostMessage, Run, Terminal, VERSION, encode};

use super::core::{Core, Notice};
use super::notify::Notify;
use crate::config::{AgentConfig, AgentStdio, WindowSize};
use crate::error::chain;

const NAME: &str = "agent0";
const STATE_VERSION: u16 = 1;

/// The conversation. Clones take part in the same one.
#[derive(Clone)]
pub(crate) struct Agent {
    shared: Arc<Shared>,
}

struct Shared {
    /// What the agent is asked to run, as a frame.
    run: Vec<u8>,
    /// Whether the command's terminal is the console.
    on_console: bool,
    core: Arc<Core>,
    /// Set when there is something for the guest.
    wake: Arc<Notify>,
    talk: Mutex<Talk>,
}

#[derive(Default)]
struct Talk {
    decoder: Decoder<GuestMessage>,
    /// The agent has said that it is ready.
    ready: bool,
    /// What the agent said was not understood: no more is heard.
    broken: bool,
    to_guest: VecDeque<u8>,
    /// The window's size, if it changed before the agent was ready.
    size: Option<WindowSize>,
}

/// What of a conversation is saved. A message of the guest that has come in part is not: agents write each
/// message at once, and the port hands it over at once.
#[derive(Serialize, Deserialize)]
struct AgentState {
    ready: bool,
    broken: bool,
    to_guest: Vec<u8>,
}

impl Agent {
    /// A conversation in which the agent is asked what `config` says, in a window of `size`.
    ///
    /// # Errors
    /// When command and environment are too long for a message.
    pub(crate) fn new(
        config: &AgentConfig,
        size: Option<WindowSize>,
        core: Arc<Core>,
        wake: Arc<Notify>,
    ) -> Result<Self, EncodeError> {
        let terminal = match &config.stdio {
            AgentStdio::Console { term } => Some(Terminal { term: term.clone(), size: size.map(window) }),
            AgentStdio::Streams { .. } => None,
        };
        let on_console = terminal.is_some();
        let run = encode(&HostMessage::Run(Run {
            argv: (!config.command.is_empty()).then(|| config.command.clone()),
            env: config.environment.clone(),
            terminal,
            cwd: config.directory.clone(),
            hostname: config.hostname.clone(),
            interfaces: config.interfaces.clone(),
            mounts: config.mounts.clone(),
        }))?;
        Ok(Self { shared: Arc::new(Shared { run, on_console, core, wake, talk: Mutex::default() }) })
    }

    /// Whether the agent has said that it is ready. Its input may end only after that.
    pub(crate) fn is_ready(&self) -> bool {
        self.talk().ready
    }

    /// Asks the agent to end everything in good order, if it is there to do so.
    pub(crate) fn shut_down(&self) -> bool {
        self.say(&HostMessage::Shutdown)
    }

    /// Tells the agent that the window has another size, if its command has one.
    pub(crate) fn resize(&self, size: WindowSize) {
        if self.shared.on_console && !self.say(&HostMessage::Resize(window(size))) {
            self.talk().size = Some(size);
        }
    }

    /// Sends a message once the agent is ready, and says whether it was.
    fn say(&self, message: &HostMessage) -> bool {
        let mut talk = self.talk();
        if !talk.ready || talk.broken {
            return false;
        }
        // These messages have a few bytes.
        talk.to_guest.extend(encode(message).unwrap_or_default());
        drop(talk);
        self.shared.wake.set();
        true
    }

    fn hear(&self, bytes: &[u8]) {
        let mut talk = self.talk();
        if talk.broken {
            return;
        }
        talk.decoder.push(bytes);
        loop {
            let notice = match talk.decoder.next() {
                Ok(None) => return,
                Ok(Some(GuestMessage::Ready { version: VERSION })) if !talk.ready => {
                    talk.ready = true;
                    talk.to_guest.extend(&self.shared.run);
                    if let Some(size) = talk.size.take() {
                        let message = HostMessage::Resize(window(size));
                        talk.to_guest.extend(encode(&message).unwrap_or_default());
                    }
                    self.shared.wake.set();
                    Notice::GuestReady
                }
                Ok(Some(GuestMessage::Ready { version })) => {
                    talk.broken = true;
                    Notice::GuestError(format!(
                        "the guest's agent speaks version {version} of the protocol, not {VERSION}, \
                         or is ready twice"
                    ))
                }
                Ok(Some(GuestMessage::Exited { code })) => Notice::CommandExited(code),
                Ok(Some(GuestMessage::Failed { message })) => Notice::GuestError(one_line(&message)),
                Err(error) => {
                    talk.broken = true;
                    Notice::GuestError(format!("the guest's agent is not understood: {}", chain(&error)))
                }
            };
            self.shared.core.notice(notice);
            if talk.broken {
                return;
            }
        }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.shared.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn window(size: WindowSize) -> viv_guest_proto::WindowSize {
    viv_guest_proto::WindowSize { rows: size.rows, cols: size.columns }
}

/// A guest's text, harmless to a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl PortBackend for Agent {
    fn write(&mut self, data: &[u8]) -> usize {
        self.hear(data);
        data.len()
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        let mut talk = self.talk();
        let count = data.len().min(talk.to_guest.len());
        for (to, from) in data.iter_mut().zip(talk.to_guest.drain(..count)) {
            *to = from;
        }
        if count == 0 { Input::Nothing } else { Input::Bytes(count) }
    }
}

/// The conversation is reset, saved and restored as devices are.
impl Device for Agent {
    fn name(&self) -> &str {
        NAME
    }

    fn reset(&mut self) {
        *self.talk() = Talk::default();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let talk = self.talk();
        let to_guest = talk.to_guest.iter().copied().collect();
        let state = AgentState { ready: talk.ready, broken: talk.broken, to_guest };
        SavedState::encode(NAME, STATE_VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let AgentState { ready, broken, to_guest } = state.decode(STATE_VERSION)?;
        let decoder = Decoder::default();
        *self.talk() = Talk { decoder, ready, broken, to_guest: to_guest.into(), size: None };
        self.shared.wake.set();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use viv_devices::virtio::VirtioDevice;

    use super::super::console::ConsoleHandle;
    use super::*;

    fn agent() -> (Agent, Arc<Core>) {
        let core = Core::new().unwrap();
        let config = AgentConfig {
            command: vec!["true".into()],
            environment: Vec::new(),
            directory: None,
            hostname: None,
            interfaces: Vec::new(),
            mounts: Vec::new(),
            stdio: AgentStdio::Console { term: "xterm".into() },
        };
        let wake = Arc::new(Notify::new().unwrap());
        let size = Some(WindowSize { rows: 24, columns: 80 });
        (Agent::new(&config, size, Arc::clone(&core), wake).unwrap(), core)
    }

    fn heard_by_guest(agent: &mut Agent) -> Vec<HostMessage> {
        let mut decoder = Decoder::new();
        let mut data = [0; 5];
        while let Input::Bytes(count) = agent.read(&mut data) {
            decoder.push(&data[..count]);
        }
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    fn ready() -> Vec<u8> {
        encode(&GuestMessage::Ready { version: VERSION }).unwrap()
    }

    #[test]
    fn a_conversation() {
        let (mut agent, core) = agent();
        assert!(!agent.shut_down(), "nobody is there yet");
        assert!(heard_by_guest(&mut agent).is_empty());
        for byte in ready() {
            assert_eq!(agent.write(&[byte]), 1);
        }
        assert_eq!(core.take_notice(), Some(Notice::GuestReady));
        assert!(agent.shared.wake.clear() && agent.is_ready());
        agent.resize(WindowSize { rows: 50, columns: 132 });
        assert!(agent.shut_down());
        let heard = heard_by_guest(&mut agent);
        let [HostMessage::Run(run), HostMessage::Resize(size), HostMessage::Shutdown] = heard.as_slice()
        else {
            panic!("{heard:?}")
        };
        assert_eq!(run.argv, Some(vec!["true".into()]));
        assert_eq!((size.rows, size.cols), (50, 132));
        agent.write(&encode(&GuestMessage::Exited { code: 3 }).unwrap());
        assert_eq!(core.take_notice(), Some(Notice::CommandExited(3)));
    }

    #[test]
    fn a_size_from_before_the_agent_was_ready_follows_its_command() {
        let (mut agent, _core) = agent();
        agent.resize(WindowSize { rows: 25, columns: 81 });
        agent.resize(WindowSize { rows: 50, columns: 132 });
        agent.write(&ready());
        let heard = heard_by_guest(&mut agent);
        let [HostMessage::Run(_), HostMessage::Resize(size)] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!((size.rows, size.cols), (50, 132));
    }

    #[test]
    fn a_console_leaves_its_size_to_the_agent() {
        let (mut agent, _core) = agent();
        agent.write(&ready());
        let console = ConsoleHandle::new(Vec::new(), Some(agent.clone()));
        console.resize(WindowSize { rows: 50, columns: 132 });
        assert!(matches!(
            heard_by_guest(&mut agent).as_slice(),
            [HostMessage::Run(_), HostMessage::Resize(_)]
        ));
        let mut size = [0xff; 4];
        console.device.lock().unwrap().read_config(0, &mut size);
        assert_eq!(size, [0; 4]);
    }

    #[test]
    fn nonsense_is_noticed_once_and_then_ignored() {
        for nonsense in [&[0xff; 64][..], &[ready(), ready()].concat()] {
            let (mut agent, core) = agent();
            assert_eq!(agent.write(nonsense), nonsense.len());
            agent.write(&ready());
            let notices: Vec<_> = std::iter::from_fn(|| core.take_notice()).collect();
            let errors = notices.iter().filter(|notice| matches!(notice, Notice::GuestError(_)));
            assert_eq!(errors.count(), 1);
            assert!(!agent.shut_down());
        }
    }

    #[test]
    fn a_guest_cannot_write_on_the_users_terminal() {
        let (mut agent, core) = agent();
        agent.write(&encode(&GuestMessage::Failed { message: "\x1b[2J\nno root".into() }).unwrap());
        assert_eq!(core.take_notice(), Some(Notice::GuestError(" [2J no root".into())));
    }

    #[test]
    fn it_goes_on_after_a_restore() {
        let (mut before, _core) = agent();
        before.write(&ready());
        let saved = Device::save(&before).unwrap();
        let (mut after, _core) = agent();
        Device::restore(&mut after, &saved).unwrap();
        assert!(after.is_ready());
        assert!(matches!(heard_by_guest(&mut after).as_slice(), [HostMessage::Run(_)]));
        Device::reset(&mut after);
        assert!(!after.is_ready());
    }
}
