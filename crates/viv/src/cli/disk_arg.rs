//! `--disk`.

use std::path::PathBuf;

use viv_disk::Format;
use viv_vmm::config::{DiskBus, DiskTuning};

use crate::disk_options;

/// What `--help` says of `--disk`.
pub(super) const DISK_HELP: &str = "\
Disk image or block device, the guest's next virtio disk, after that of an image's system; or vhost-user=SOCKET, one that the process serves that listens
there, which the guest finds after the others and which has no options. Options of images:
  format=raw, format=qcow2, format=vmdk
                             what it is; without it an image if it is named *.qcow2 or *.vmdk and begins like one, raw if
                             neither, and refused if they differ: the guest of a raw disk can write what an image begins with,
                             which names any file of the host as the one below it
  readonly                   the guest can only read it
  temporary                  what the guest writes is forgotten at the end
  sata                       on a SATA controller, for systems without virtio
  serial=ID                  what the guest knows it by, up to 20 characters
  cache=writeback            in the host's cache until the guest flushes; the default
  cache=writethrough         each write is on the host's disk when the guest is told so
  cache=none                 past the host's cache (O_DIRECT); flushes are honoured
  cache=unsafe               flushes do nothing: for what is of no use after a crash
  iops=N, bps=SIZE           the most requests and bytes in a second; more waits
  queues=N                   1 to 16 queues; else one for each vCPU, up to 4
  aio=io_uring, aio=threads  how requests run; else by io_uring where it can be had";

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// The image.
    pub path: PathBuf,
    /// Its format, if it is given.
    pub format: Option<Format>,
    /// Whether a process that listens at the path serves it, by vhost-user.
    pub vhost_user: bool,
    /// Whether the guest may only read it.
    pub readonly: bool,
    /// Whether what the guest writes is forgotten at the end.
    pub temporary: bool,
    /// What it is attached to.
    pub bus: DiskBus,
    /// How it is used.
    pub tuning: DiskTuning,
}

impl DiskArg {
    /// Reads `FILE` with options behind commas. A file whose name holds a comma is given with an option behind it:
    /// `a,b,readonly` or `a,b,writable`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut disk = Self {
            path: PathBuf::new(),
            format: None,
            vhost_user: false,
            readonly: false,
            temporary: false,
            bus: DiskBus::Virtio,
            tuning: DiskTuning::default(),
        };
        if let Some(socket) = text.strip_prefix("vhost-user=") {
            if socket.is_empty() {
                return Err("no socket is named; give vhost-user=SOCKET".to_owned());
            }
            return Ok(Self { path: socket.into(), vhost_user: true, ..disk });
        }
        let mut rest = text;
        while let Some((before, option)) = rest.rsplit_once(',') {
            match option {
                "readonly" => disk.readonly = true,
                "writable" => disk.readonly = false,
                "temporary" => disk.temporary = true,
                "sata" => disk.bus = DiskBus::Sata,
                "virtio" => disk.bus = DiskBus::Virtio,
                option if option.starts_with("format=") => {
                    disk.format = Some(option.strip_prefix("format=").unwrap_or(option).parse()?);
                }
                _ => match disk_options::apply(&mut disk.tuning, option) {
                    Some(applied) => applied?,
                    // A part of the name, if an option is behind it.
                    None if rest.len() < text.len() => break,
                    None => {
                        return Err(format!(
                            "the disk option '{option}' is not known; 'readonly', 'writable', 'temporary', 'sata', \
                             'virtio', 'format=', 'cache=', 'aio=', 'queues=', 'serial=', 'iops=' and 'bps=' are"
                        ));
                    }
                },
            }
            rest = before;
        }
        if rest.is_empty() {
            return Err("no file is named; give FILE, or FILE,readonly".to_owned());
        }
        disk.path = rest.into();
        Ok(disk)
    }
}
