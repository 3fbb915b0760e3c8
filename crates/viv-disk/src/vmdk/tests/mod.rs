//! Images against a model, against QEMU's programs, and under cuts of the power.

pub(crate) mod fuzz;
mod hostile;
mod interop;
mod model;
mod power;

use super::*;
use crate::Format;
use crate::testing::model::read_all;
use crate::testing::recorder::Recorder;
use crate::testing::{Random, patiently, setting, tool};

/// Finds no files.
fn no_files(name: &str) -> Result<Arc<dyn Storage>, DiskError> {
    Err(DiskError::NotADisk { path: name.into() })
}

/// A new image of so many bytes in memory.
fn new_image(size: u64) -> Recorder {
    let file = Recorder::default();
    write_new(&file, "disk.vmdk", size).unwrap();
    file
}

fn open_recorded(file: &Recorder) -> Result<VmdkDisk, DiskError> {
    VmdkDisk::over(Arc::new(file.clone()), Access::ReadWrite, &no_files)
}

fn open(path: &Path, access: Access) -> VmdkDisk {
    patiently(|| VmdkDisk::open(path, access))
}
