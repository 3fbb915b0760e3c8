//! The messages.

use std::ffi::OsString;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Start the one program this guest is there for. Sent once, after [`GuestMessage::Ready`].
    Run(Run),
    /// The host's terminal has a new size. Not needed where the console device itself tells its size.
    Resize(WindowSize),
    /// Send the program's process group this signal (Linux number; real-time signals are ignored).
    Signal(u8),
    /// Stop in good order: end all processes, write back and unmount file systems, power off.
    Shutdown,
}

/// From the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The guest has its root file system and waits for [`HostMessage::Run`].
    Ready {
        /// [`VERSION`](crate::VERSION) of the guest program.
        version: u16,
    },
    /// The program has ended; the guest is about to power off.
    Exited {
        /// Exit status in the shell's manner: the program's own; 128 + n after signal n; 127 if it was not
        /// found and 126 if it could not be executed.
        code: u8,
    },
    /// The guest cannot go on and is about to power off.
    Failed {
        /// What it was doing and why it failed, for a person to read.
        message: String,
    },
}

/// What to run, and in which surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Program and arguments; the program is looked up in `PATH`. `None`, or an empty list, is root's shell:
    /// a login shell if there is a terminal, else one that reads its commands from standard input.
    #[serde(with = "os_strings")]
    pub argv: Option<Vec<OsString>>,
    /// Variables set over the guest's defaults (`PATH`, `HOME`, `LANG`, `TERM`, ...).
    #[serde(with = "os_string_pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// With a terminal the program runs on the console device, else on the three ports.
    pub terminal: Option<Terminal>,
    /// Working directory; root's home by default.
    pub cwd: Option<String>,
    /// Host name; the image's own by default.
    pub hostname: Option<String>,
    /// Network interfaces to be set up before it starts. Others are left alone.
    pub interfaces: Vec<Interface>,
    /// File systems to be mounted before it starts.
    pub mounts: Vec<Mount>,
}

/// A directory of the host's, which is a file system of virtio to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The tag by which the guest finds it.
    pub tag: String,
    /// Where the guest sees it; made if it is not there.
    pub directory: String,
    /// Whether nothing in it can be changed.
    pub readonly: bool,
}

/// A network interface of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The address of Ethernet by which the guest finds it.
    pub mac: [u8; 6],
    /// Its addresses, each with the bits of its network's prefix. What IPv6 finds out by itself comes besides.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The ways to everywhere else, at most one for each version of IP.
    pub gateways: Vec<IpAddr>,
    /// Name servers, the first to be asked first.
    pub name_servers: Vec<IpAddr>,
}

/// The terminal at the host's end of the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its type, for `TERM`.
    pub term: String,
    /// Its size; `None` leaves what the console device says.
    pub size: Option<WindowSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// Arguments are bytes on Linux, not text: they travel as such.
mod os_strings {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Vec<OsString>>, out: S) -> Result<S::Ok, S::Error> {
        let bytes: Option<Vec<&[u8]>> =
            value.as_ref().map(|list| list.iter().map(|s| s.as_bytes()).collect());
        bytes.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<OsString>>, D::Error> {
        let bytes = Option::<Vec<Vec<u8>>>::deserialize(from)?;
        Ok(bytes.map(|list| list.into_iter().map(OsString::from_vec).collect()))
    }
}

/// As [`os_strings`], for the environment.
mod os_string_pairs {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &[(OsString, OsString)],
        out: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes: Vec<(&[u8], &[u8])> = value.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
        bytes.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let bytes = Vec::<(Vec<u8>, Vec<u8>)>::deserialize(from)?;
        Ok(bytes.into_iter().map(|(k, v)| (OsString::from_vec(k), OsString::from_vec(v))).collect())
    }
}
