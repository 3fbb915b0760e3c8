//! A machine under test: its config, its serial line's two ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use viv_engine::Engine;

use crate::config::tests::plain;
use crate::config::{FdSlot, Fds, FileSource, MachineConfig, Stream};
use crate::{Machine, Notice};

/// How long a test waits for what must come; only a failing one waits that long.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A machine whose serial line leads to `serial`.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) serial: UnixStream,
}

/// A kernel file: an ELF image with the note for PVH, whose code is entered at 1 MiB.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    const ENTRY: u64 = 0x10_0000;
    const HEADERS: usize = 64 + 2 * 56;
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((ENTRY as u32).to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [ENTRY, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let segments = [(LOAD, HEADERS + note.len(), ENTRY, code.len()), (NOTE, HEADERS, 0, note.len())];
    for (kind, offset, address, length) in segments {
        for word in [kind, 7] {
            file.extend(word.to_le_bytes());
        }
        for word in [offset as u64, address, address, length as u64, length as u64, 1] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(note);
    file.extend(code);
    file
}

impl Bench {
    /// A machine with this code, not started.
    pub(crate) fn new(engine: &dyn Engine, code: &[u8]) -> Self {
        Self::with(engine, code, |config| config)
    }

    /// The same with changes to its config.
    pub(crate) fn with(
        engine: &dyn Engine,
        code: &[u8],
        change: impl FnOnce(MachineConfig) -> MachineConfig,
    ) -> Self {
        let (serial, theirs) = UnixStream::pair().unwrap();
        serial.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&kernel(code)).unwrap();
        let mut fds = Fds::default();
        let kernel = fds.add(file);
        let input = fds.add(theirs.try_clone().unwrap());
        let output = fds.add(theirs);
        let mut config = plain();
        crate::config::tests::kernel(&mut config).kernel = FileSource::Fd(kernel);
        config.serial = Some(Stream { input: Some(input), output: Some(output) });
        let config = change(config);
        let machine = Machine::build(&config, &fds, engine, "for the test").unwrap();
        Self { machine, serial }
    }

    /// The next thing that the machine cannot decide.
    pub(crate) fn notice(&self) -> Notice {
        loop {
            if let Some(notice) = self.machine.take_notice() {
                return notice;
            }
            let noticed = self.machine.noticed();
            let mut fds = [PollFd::from_borrowed_fd(noticed, PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut fds, Some(&PATIENCE)).unwrap(), 1, "no notice came");
        }
    }

    /// What the guest says next on its serial line.
    pub(crate) fn hear(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.serial.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// What the guest said until the machine was dropped.
    pub(crate) fn hear_all(self) -> String {
        let Self { machine, mut serial } = self;
        while !machine.is_drained() {
            let mut fds = [PollFd::new(machine.drained(), PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&PATIENCE)).unwrap();
            machine.drained().clear();
        }
        drop(machine);
        let mut text = String::new();
        serial.read_to_string(&mut text).unwrap();
        text
    }
}

/// A slot that was not passed.
pub(crate) const NOWHERE: FdSlot = FdSlot(99);
