//! What the VM process and the one who started it say to each other.
//!
//! Lines of JSON over a stream socket, at most [`MAX_LINE`] bytes each with the newline. The starter sends
//! [`RequestLine`]s; each is answered by one [`Message::Reply`] with its id. In between the VM process sends
//! [`Message::Event`]s as things happen. The first request is [`Request::Create`], with the config's
//! descriptors as ancillary data (SCM_RIGHTS) of its first byte. An [`Event::Ended`] is the last message,
//! with an [`Event::Figures`] before it if there was a machine; after it the VM process closes the socket and
//! exits.
//!
//! The VM process opens nothing by its path once it has built the machine. A request for which a file is needed carries it
//! open, as ancillary data of its first byte; such requests are sent after the reply to the first.
//!
//! A socket closed by the starter is the starter's death: the VM process stops the guest and ends.

use std::fmt;

use serde::{Deserialize, Serialize};
use viv_devices::virtio::MemoryStatistics;
use viv_engine::{EngineKind, Translations};

use crate::config::{MachineConfig, WindowSize};

/// The version of the protocol. A VM process refuses another.
pub const VERSION: u32 = 6;
/// The longest line, newline included.
pub const MAX_LINE: usize = 1 << 20;

/// A request with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLine {
    /// Chosen by the sender; comes back in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the starter asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Builds the machine. Comes first and once.
    Create {
        /// [`VERSION`].
        version: u32,
        /// The machine.
        config: Box<MachineConfig>,
    },
    /// Boots the machine that was built.
    Start,
    /// Continues a saved machine, in place of [`Request::Start`]. With it comes the file that [`Request::Save`] wrote.
    Restore,
    /// Stops the vCPUs and guest time.
    Pause,
    /// Undoes [`Request::Pause`].
    Resume,
    /// Presses the power button. What follows is the guest's decision.
    PowerButton,
    /// Pulls the reset line: the machine boots anew, whatever the config says of reboots.
    Reset,
    /// Cuts the power.
    Stop,
    /// The console's window has another size.
    Resize(WindowSize),
    /// Asks for a [`Status`].
    Status,
    /// Asks for [`Resources`].
    Resources,
    /// Asks the guest to do without so many bytes of its memory; done before it does.
    Balloon {
        /// How many, in all.
        bytes: u64,
    },
    /// Wants the machine to have so many bytes of memory, the balloon's included; done before the guest has agreed.
    Memory {
        /// How many: what it has for good, and more by a multiple of 2 MiB.
        bytes: u64,
    },
    /// Wants the machine to have so many vCPUs. More are there at once; fewer when the guest has agreed.
    Vcpus {
        /// How many, from 1 to [`MachineConfig::max_vcpus`].
        count: u32,
    },
    /// Writes a picture of the display, as PNG, to the file that comes with it.
    Screenshot,
    /// Asks for the text on the display.
    ScreenText,
    /// Types on the keyboard; done before it is typed.
    SendKeys {
        /// What [`Keystrokes`](crate::keys::Keystrokes) are made of.
        keys: String,
    },
    /// Writes the machine to the file that comes with it, which is complete once the reply is there. The machine is paused
    /// meanwhile.
    Save,
}

/// What the VM process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// How it went; the error is one line for the user.
        result: Result<Reply, String>,
    },
    /// Something happened.
    Event(Event),
}

/// The answer to a request that went well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Resources`].
    Resources(Box<Resources>),
    /// To [`Request::ScreenText`]: the lines of characters, without the spaces at their ends; nothing if the display is in
    /// no text mode.
    Text(Option<Vec<String>>),
}

/// A machine's state as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub state: MachineState,
    /// Its engine, and why that one.
    pub engine: EngineKind,
    /// One line.
    pub engine_reason: String,
    /// Guest time since the machine first ran, in nanoseconds.
    pub guest_nanoseconds: u64,
    /// Guest instructions executed since it was built, if the engine counts them and the machine is paused.
    pub instructions: Option<u64>,
    /// How often it was reset.
    pub resets: u64,
}

/// What a machine has of its host's memory and processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// RAM.
    pub memory: MemoryStatus,
    /// Bytes of RAM that the host has memory for.
    pub present_bytes: u64,
    /// The balloon, if it has one.
    pub balloon: Option<BalloonStatus>,
    /// The vCPUs.
    pub vcpus: VcpuStatus,
}

/// How much RAM a machine has, in bytes, what the guest does without included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// That there is.
    pub actual: u64,
    /// That there should be.
    pub wanted: u64,
    /// That there can be.
    pub most: u64,
}

/// Memory that a guest does without, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStatus {
    /// What it was asked for last.
    pub wanted: u64,
    /// What it has given, as it says.
    pub actual: u64,
    /// What it said last of its memory, if it did. Each [`Request::Resources`] asks it to say it anew.
    pub statistics: Option<MemoryStatistics>,
}

/// How many vCPUs a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// That are there. Whether the guest uses them is its own decision.
    pub present: u32,
    /// That there should be.
    pub wanted: u32,
    /// That there can be.
    pub most: u32,
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// Built, not started.
    Created,
    /// Running.
    Running,
    /// Standing still, with all its state.
    Paused,
    /// Over.
    Stopped,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The guest runs.
    Started {
        /// The engine.
        engine: EngineKind,
        /// Why this engine, in one line.
        why: String,
    },
    /// The guest's agent has spoken for the first time since the machine was started or reset.
    GuestReady,
    /// The agent's command has ended; the guest powers off next, and until then output may still come.
    CommandExited {
        /// Its status as shells give it: 128 and the number after a signal, 127 if it was not found, 126 if
        /// it could not be executed.
        code: u8,
    },
    /// The guest's agent could not do what it was asked; one line.
    GuestError {
        /// Why.
        message: String,
    },
    /// The machine goes on with less than it had; one line.
    Warning {
        /// What is missing, and why.
        message: String,
    },
    /// The machine was reset and boots anew.
    Restarted,
    /// The guest has not reset its watchdog in time, and the machine stands still until it is told to go on.
    WatchdogPaused,
    /// The machine is over; what it did.
    Figures(Figures),
    /// The machine is over. The last message.
    Ended(End),
}

/// What a machine did from its first start to its end, resets included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Guest instructions executed, if the engine counts them. A repeated string instruction is one.
    pub instructions: Option<u64>,
    /// What the engine's translator did for all vCPUs, if it has one.
    pub translations: Option<Translations>,
    /// Processor time that the host gave to the vCPUs' threads, in nanoseconds: guest code and what the engine
    /// and the devices do on these threads for it; not the time in which a vCPU is halted.
    pub vcpu_nanoseconds: u64,
    /// Guest time since the machine first ran, in nanoseconds.
    pub guest_nanoseconds: u64,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest ended itself by the exit port.
    Exited {
        /// With this status, which is odd.
        status: u8,
    },
    /// The guest asked for a reset, which by the config ends it.
    Reset,
    /// The guest's kernel has panicked, and said so by the panic port.
    Panicked,
    /// The guest did not reset its watchdog in time, which by the config ends it.
    WatchdogExpired,
    /// The starter stopped it, or went away, or the process was told to terminate.
    Stopped,
    /// The guest shut a processor down.
    TripleFault(TripleFault),
    /// The VM process could not go on, or not begin; one line for the user.
    Failed {
        /// What was being done, what went wrong, what to do.
        message: String,
    },
}

impl End {
    /// The exit status of the VM process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Exited { .. } | Self::Reset => 0,
            Self::Panicked | Self::WatchdogExpired | Self::TripleFault(_) | Self::Failed { .. } => 1,
            Self::Stopped => 130,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Exited { status } => write!(f, "the guest ended with status {status}"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::WatchdogExpired => f.write_str("the guest did not reset its watchdog in time"),
            Self::Stopped => f.write_str("the machine was stopped"),
            Self::TripleFault(fault) => fault.fmt(f),
            Self::Failed { message } => f.write_str(message),
        }
    }
}

/// Where a guest was when it shut a processor down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TripleFault {
    /// The vCPU.
    pub vcpu: u32,
    /// The instruction pointer.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2: the address of the last page fault.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// The interrupt table's address.
    pub idt: u64,
}

impl fmt::Display for TripleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, rip, rsp, cr0, cr2, cr3, idt } = self;
        write!(
            f,
            "the guest's processor {vcpu} shut down after a triple fault at rip {rip:#x} \
             (rsp {rsp:#x}, cr0 {cr0:#x}, cr2 {cr2:#x}, cr3 {cr3:#x}, idt {idt:#x})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_they_were() {
        let line = RequestLine { id: 7, request: Request::Resize(WindowSize { rows: 24, columns: 80 }) };
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(json, r#"{"id":7,"request":{"resize":{"rows":24,"columns":80}}}"#);
        assert_eq!(serde_json::from_str::<RequestLine>(&json).unwrap(), line);

        let start = r#"{"id":8,"request":"start"}"#;
        assert_eq!(serde_json::from_str::<RequestLine>(start).unwrap().request, Request::Start);

        let event = Message::Event(Event::Ended(End::Failed { message: "no".into() }));
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(json, r#"{"event":{"ended":{"failed":{"message":"no"}}}}"#);
        assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), event);
    }
}
