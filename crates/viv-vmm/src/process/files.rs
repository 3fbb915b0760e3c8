//! Snapshots and pictures in files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use crate::error::MachineError;
use crate::machine::Machine;
use crate::picture::write_png;
use crate::protocol::MachineState;

/// Saves a machine to a file that is complete afterwards, or not there.
pub(super) fn save(machine: &mut Machine, path: &Path) -> Result<(), MachineError> {
    if !matches!(machine.state(), MachineState::Running | MachineState::Paused) {
        return Err(MachineError::State { action: "save", state: machine.state() });
    }
    let failed = |source| MachineError::Open { what: "snapshot", path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let saved = write(machine, &file);
    if saved.is_err() {
        // The error that matters is the one that is returned.
        let _ = std::fs::remove_file(path);
    }
    saved
}

fn write(machine: &mut Machine, file: &File) -> Result<(), MachineError> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    machine.save(&mut out)?;
    let written: io::Result<()> = out.flush().and_then(|()| file.sync_all());
    written.map_err(MachineError::host("write the snapshot"))
}

/// Writes a picture of a machine's display to a file.
pub(super) fn screenshot(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let frame = machine.screenshot()?;
    let failed = |source| MachineError::Open { what: "picture", path: path.to_owned(), source };
    let file = File::create(path).map_err(failed)?;
    write_png(&frame, BufWriter::new(file)).map_err(MachineError::host("write the picture of the display"))
}

/// Restores a machine from a file.
pub(super) fn restore(machine: &mut Machine, path: &Path) -> Result<(), MachineError> {
    let file = File::open(path).map_err(|source| MachineError::Open {
        what: "snapshot",
        path: path.to_owned(),
        source,
    })?;
    machine.restore(&mut BufReader::with_capacity(1 << 20, file))
}
