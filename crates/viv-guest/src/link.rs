//! The ports that join this guest to its host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use viv_guest_proto::{CONTROL_PORT, DecodeError, Decoder, GuestMessage, HostMessage};
use viv_guest_proto::{STDERR_PORT, STDIN_PORT, STDOUT_PORT};

use crate::port::Port;
use crate::report;

/// Where the kernel lists the ports; each has a file `name`.
const CLASS: &str = "/sys/class/virtio-ports";
/// How long a port may take to appear and its host end to open.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no host to speak to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("looking for console port {name}: it did not appear within {} s", PATIENCE.as_secs())]
    Missing { name: &'static str },
    #[error("opening console port {name} ({})", device.display())]
    Open { name: &'static str, device: PathBuf, source: io::Error },
    #[error("waiting for the host to open console port {name}")]
    Unconnected { name: &'static str, source: io::Error },
}

/// All ports, open on both ends.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) control: Control,
    pub(crate) stdin: Port,
    pub(crate) stdout: Port,
    pub(crate) stderr: Port,
}

impl Link {
    /// Finds and opens the ports and waits until the host has opened its ends: only from then on does a
    /// closed port mean the end of its data.
    pub(crate) fn open() -> Result<Self, Error> {
        let deadline = Instant::now() + PATIENCE;
        Ok(Self {
            control: Control(open(CONTROL_PORT, deadline)?),
            stdin: open(STDIN_PORT, deadline)?,
            stdout: open(STDOUT_PORT, deadline)?,
            stderr: open(STDERR_PORT, deadline)?,
        })
    }
}

/// The port that carries messages.
#[derive(Debug)]
pub(crate) struct Control(Port);

impl Control {
    /// Sends one message. A host that has gone is reported on the console, and shows on the reading side.
    pub(crate) fn tell(&mut self, message: &GuestMessage) {
        let sent = match viv_guest_proto::encode(message) {
            Ok(frame) => self.0.write_all(&frame).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            report::problem(&format!("telling the host {message:?}: {error}"));
        }
    }

    /// The receiving half, for a thread of its own.
    pub(crate) fn receiver(&self) -> io::Result<Receiver> {
        Ok(Receiver { port: self.0.try_clone()?, decoder: Decoder::default() })
    }
}

/// Reads the host's messages.
#[derive(Debug)]
pub(crate) struct Receiver {
    port: Port,
    decoder: Decoder<HostMessage>,
}

/// Why the host's messages have come to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the host closed the control port")]
    Closed,
    #[error("reading the control port")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Receiver {
    /// The next message.
    pub(crate) fn receive(&mut self) -> Result<HostMessage, ReceiveError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(message);
            }
            match self.port.read(&mut buffer)? {
                0 => return Err(ReceiveError::Closed),
                count => self.decoder.push(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

fn open(name: &'static str, deadline: Instant) -> Result<Port, Error> {
    let device = until(deadline, || find(name).ok_or(Error::Missing { name }))?;
    let port = Port::open(&device).map_err(|source| Error::Open { name, device, source })?;
    until(deadline, || match port.is_connected() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Unconnected { name, source: io::ErrorKind::TimedOut.into() }),
        Err(source) => Err(Error::Unconnected { name, source }),
    })?;
    Ok(port)
}

/// The device file of the port with this name.
fn find(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(CLASS).ok()?;
    let entry = entries.flatten().find(|entry| {
        // The attribute appears with the port's name, after the port.
        fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim_end() == name)
    })?;
    let device = Path::new("/dev").join(entry.file_name());
    device.exists().then_some(device)
}

/// Tries until it succeeds or the deadline passes. Ports are set up by a kernel worker that gives no event
/// to wait for.
fn until<T>(deadline: Instant, attempt: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            outcome => return outcome,
        }
    }
}
