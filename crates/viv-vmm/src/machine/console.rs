//! The virtio console's ports and what they lead to on the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_devices::virtio::{Console, Input, PortBackend, PortConfig, ResizeOrder};
use viv_guest_proto::{CONTROL_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT};

use super::agent::Agent;
use super::notify::Notify;
use super::reactor::Source;
use crate::config::WindowSize;
use crate::stream::{HostStream, Read};

/// A stream as the back end of a port.
pub(crate) struct StreamPort {
    pub(crate) stream: Arc<HostStream>,
    pub(crate) end: EndOfInput,
}

/// What the end of a stream's input means to its port.
#[derive(Clone)]
pub(crate) enum EndOfInput {
    /// Nothing: a terminal has no end.
    Ignored,
    /// The port closes, once the agent is there to notice.
    Closes(Agent),
    /// The port is for output, and closes when the output has nobody to read it any more.
    ReaderGone(Agent),
}

impl PortBackend for StreamPort {
    fn write(&mut self, data: &[u8]) -> usize {
        self.stream.write(data)
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        let ends = |agent: &Agent| if agent.is_ready() { Input::End } else { Input::Nothing };
        match &self.end {
            EndOfInput::ReaderGone(agent) if self.stream.reader_gone() => ends(agent),
            EndOfInput::ReaderGone(_) => Input::Nothing,
            EndOfInput::Ignored | EndOfInput::Closes(_) => match (self.stream.read(data), &self.end) {
                (Read::Bytes(count), _) => Input::Bytes(count),
                (Read::End, EndOfInput::Closes(agent)) => ends(agent),
                (Read::End | Read::Nothing, _) => Input::Nothing,
            },
        }
    }
}

/// The console port, and nothing behind its name.
pub(crate) fn console_port(stream: Arc<HostStream>) -> PortConfig {
    let backend = Box::new(StreamPort { stream, end: EndOfInput::Ignored });
    PortConfig { name: String::new(), console: true, backend }
}

/// The ports of the agent: for its messages, and for its command's three streams.
pub(crate) fn agent_ports(agent: &Agent, streams: [Arc<HostStream>; 3]) -> Vec<PortConfig> {
    let [stdin, stdout, stderr] = streams;
    let stream_port = |stream, end| -> Box<dyn PortBackend> { Box::new(StreamPort { stream, end }) };
    let ports: [(&str, Box<dyn PortBackend>); 4] = [
        (CONTROL_PORT, Box::new(agent.clone())),
        (STDIN_PORT, stream_port(stdin, EndOfInput::Closes(agent.clone()))),
        (STDOUT_PORT, stream_port(stdout, EndOfInput::ReaderGone(agent.clone()))),
        (STDERR_PORT, stream_port(stderr, EndOfInput::ReaderGone(agent.clone()))),
    ];
    ports
        .into_iter()
        .map(|(name, backend)| PortConfig { name: name.to_owned(), console: false, backend })
        .collect()
}

/// A virtio console with the agent that may be behind it.
pub(crate) struct ConsoleHandle {
    pub(crate) device: Arc<Mutex<Console>>,
    ports: usize,
    agent: Option<Agent>,
}

impl ConsoleHandle {
    /// A console with these ports.
    pub(crate) fn new(ports: Vec<PortConfig>, agent: Option<Agent>) -> Self {
        let count = ports.len();
        let device = Arc::new(Mutex::new(Console::new(ports, ResizeOrder::default())));
        Self { device, ports: count, agent }
    }

    /// The window has this size. An agent alone is told if there is one: a kernel that takes columns for rows, and it is
    /// not known which do, might have the last word else.
    pub(crate) fn resize(&self, size: WindowSize) {
        match &self.agent {
            Some(agent) => agent.resize(size),
            None => self.device().resize(size.columns, size.rows),
        }
    }

    fn device(&self) -> MutexGuard<'_, Console> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the guest's agent to end everything in good order, if it is there to do so.
    pub(crate) fn shut_down(&self) -> bool {
        self.agent.as_ref().is_some_and(Agent::shut_down)
    }

    /// What happens on the host's side of the ports, told by `wake`.
    pub(crate) fn source(&self, wake: Arc<Notify>) -> PortSource {
        PortSource { device: Arc::clone(&self.device), ports: self.ports, wake }
    }
}

/// Ports that want to be looked at when a flag is set.
pub(crate) struct PortSource {
    device: Arc<Mutex<Console>>,
    ports: usize,
    wake: Arc<Notify>,
}

impl Source for PortSource {
    fn fd(&self) -> BorrowedFd<'_> {
        (*self.wake).as_fd()
    }

    fn ready(&mut self) {
        self.wake.clear();
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        for port in 0..self.ports {
            device.process_port(port);
        }
    }
}
