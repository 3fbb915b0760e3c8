//! Snapshots and pictures in files, which come open.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;

use crate::error::MachineError;
use crate::machine::Machine;
use crate::picture::write_png;
use crate::protocol::MachineState;

/// Saves a machine to a file.
pub(super) fn save(machine: &mut Machine, file: Option<OwnedFd>) -> Result<(), MachineError> {
    if !matches!(machine.state(), MachineState::Running | MachineState::Paused) {
        return Err(MachineError::State { action: "save", state: machine.state() });
    }
    let file = taken(file, "snapshot")?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    machine.save(&mut out)?;
    let written: io::Result<()> = out.flush().and_then(|()| file.sync_all());
    written.map_err(MachineError::host("write the snapshot"))
}

/// Writes a picture of a machine's display to a file.
pub(super) fn screenshot(machine: &Machine, file: Option<OwnedFd>) -> Result<(), MachineError> {
    let frame = machine.screenshot()?;
    let file = taken(file, "file for the picture")?;
    write_png(&frame, BufWriter::new(file)).map_err(MachineError::host("write the picture of the display"))
}

/// Restores a machine from a file.
pub(super) fn restore(machine: &mut Machine, file: Option<OwnedFd>) -> Result<(), MachineError> {
    let file = taken(file, "snapshot")?;
    machine.restore(&mut BufReader::with_capacity(1 << 20, file))
}

fn taken(file: Option<OwnedFd>, what: &'static str) -> Result<File, MachineError> {
    file.map(File::from).ok_or(MachineError::NoFile { what })
}
