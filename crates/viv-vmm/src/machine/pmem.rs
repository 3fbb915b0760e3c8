//! Files as memory that outlasts the guest.
//!
//! They lie behind all RAM and the room for more of it, each at the next multiple of 1 GiB: so where they are follows from the
//! config and their sizes, and is the same after a restore. [`Reach`] says who reaches what of all memory; the machine itself
//! clears, saves and counts RAM alone, to which they do not belong.
//!
//! A file that can only be read is read-only memory to the processors, as firmware is: what they write there goes to the board,
//! where nothing answers. Devices have a private mapping, so that what a guest has them write there is in no file.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use viv_devices::virtio::{Flush, Pmem, VirtioPci};
use viv_disk::{Access, DiskError};
use viv_engine::GuestMemory;
use viv_engine::memory::{FileAccess, HOLE_END, LARGE_PAGE, map_file};

use super::assembly::{Assembly, memory_end, source};
use super::reactor::Source;
use crate::config::PmemConfig;
use crate::error::MachineError;

/// Where files can begin, in bytes: where Linux maps them by its largest pages.
const ALIGNMENT: u64 = 1 << 30;
/// The most bytes of all files of a machine, with which its addresses still fit those that processors have.
const MAX_BYTES: u64 = 1 << 40;

/// Why a file cannot be memory.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// It cannot be opened, or somebody else has it open.
    #[error(transparent)]
    Open(DiskError),
    /// It is a directory, a device or the like.
    #[error("{} cannot be memory: it is no regular file; give one, or a block device as --disk", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be mapped by large pages.
    #[error(
        "{} has {size} bytes, and memory is a multiple of 2 MiB: mend it with truncate -s {remedy}",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// Its size, for truncate(1).
        remedy: &'static str,
    },
    /// All together have too many bytes.
    #[error("{} is too large: a machine has at most {} GiB of files as memory", path.display(), MAX_BYTES >> 30)]
    TooLarge {
        /// The one that is too much.
        path: PathBuf,
    },
}

/// A file that is memory, open and locked.
pub(crate) struct PmemFile {
    file: Arc<File>,
    size: u64,
    path: PathBuf,
    readonly: bool,
}

/// A file and where it lies.
pub(crate) struct Placed {
    file: PmemFile,
    place: Range<u64>,
}

/// Opens the files of a machine.
pub(crate) fn open(configs: &[PmemConfig]) -> Result<Vec<PmemFile>, MachineError> {
    let mut left = MAX_BYTES;
    let open = |config: &PmemConfig| {
        let file = PmemFile::open(config)?;
        match left.checked_sub(file.size) {
            Some(rest) => left = rest,
            None => return Err(PmemError::TooLarge { path: file.path }.into()),
        }
        Ok(file)
    };
    configs.iter().map(open).collect()
}

impl PmemFile {
    fn open(config: &PmemConfig) -> Result<Self, MachineError> {
        let PmemConfig { path, readonly } = config.clone();
        // Looked at first: a disk of the host's is neither opened for writing nor locked.
        if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(PmemError::NoFile { path }.into());
        }
        let access = if readonly { Access::ReadOnly } else { Access::ReadWrite };
        let file = viv_disk::open_locked(&path, access).map_err(PmemError::Open)?;
        let size = file.metadata().map_err(MachineError::host("examine a file that is to be memory"))?.len();
        if size == 0 || !size.is_multiple_of(LARGE_PAGE) {
            let remedy = if size == 0 { "2M" } else { "%2M" };
            return Err(PmemError::Size { path, size, remedy }.into());
        }
        Ok(Self { file: Arc::new(file), size, path, readonly })
    }
}

/// Gives files their places behind `memory`.
pub(crate) fn place(memory: &GuestMemory, files: Vec<PmemFile>) -> Vec<Placed> {
    let mut end = memory_end(memory).max(HOLE_END);
    let place = |file: PmemFile| {
        let start = end.next_multiple_of(ALIGNMENT);
        end = start + file.size;
        Placed { file, place: start..end }
    };
    files.into_iter().map(place).collect()
}

/// What of all memory is reached, and by whom.
pub(crate) struct Reach {
    /// What processors read and write.
    pub(crate) memory: GuestMemory,
    /// What they can only read.
    pub(crate) rom: Option<GuestMemory>,
    /// What devices read and write.
    pub(crate) devices: GuestMemory,
}

impl Reach {
    /// That of a machine with this RAM, firmware and files.
    pub(crate) fn new(
        ram: &GuestMemory,
        firmware: Option<&GuestMemory>,
        files: &[Placed],
    ) -> Result<Self, MachineError> {
        let (mut memory, mut rom, mut devices) = (ram.clone(), firmware.cloned(), ram.clone());
        for Placed { file: PmemFile { file, size, path, readonly }, place } in files {
            let map = |access| {
                map_file(place.start, file, *size, access).map_err(|source| MachineError::Open {
                    what: "file that is to be memory",
                    path: path.clone(),
                    source,
                })
            };
            let join = |memory: &GuestMemory, region| {
                let joined = memory.insert_region(region).map_err(std::io::Error::other);
                joined.map_err(MachineError::host("find a place for a file in guest memory"))
            };
            if *readonly {
                rom = Some(join(&rom.unwrap_or_default(), map(FileAccess::ReadOnly)?)?);
                devices = join(&devices, map(FileAccess::Private)?)?;
            } else {
                let region = map(FileAccess::Shared)?;
                memory = join(&memory, Arc::clone(&region))?;
                devices = join(&devices, region)?;
            }
        }
        Ok(Self { memory, rom, devices })
    }
}

impl Assembly<'_> {
    /// Adds file `index`, and gives what its thread waits for.
    pub(crate) fn add_pmem(&mut self, index: usize, placed: Placed) -> Result<Box<dyn Source>, MachineError> {
        let Placed { file: PmemFile { file, path, readonly, .. }, place } = placed;
        let flush = (!readonly).then(|| -> Flush { Box::new(move || Ok(rustix::fs::fdatasync(&*file)?)) });
        let device = Pmem::new(path.display().to_string(), place, flush);
        let (_, worker) = self.add_function(|connections| {
            let device = Arc::new(Mutex::new(device));
            let function = VirtioPci::new(&format!("virtio-pmem{index}"), device, connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        Ok(source(worker))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use viv_engine::memory::{Pages, allocate, allocate_extensible};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;

    fn config(directory: &Path, name: &str, size: u64, readonly: bool) -> PmemConfig {
        let path = directory.join(name);
        File::create(&path).and_then(|file| file.set_len(size)).unwrap();
        PmemConfig { path, readonly }
    }

    fn refusal(configs: &[PmemConfig]) -> String {
        open(configs).err().map(|error| error.line()).unwrap_or_default()
    }

    #[test]
    fn a_file_that_cannot_be_memory_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let name = path.display();
        for (size, remedy) in [(0, "2M"), (LARGE_PAGE - 1, "%2M"), (LARGE_PAGE + 4096, "%2M")] {
            let line = refusal(&[config(directory.path(), "file", size, false)]);
            let expected = format!(
                "{name} has {size} bytes, and memory is a multiple of 2 MiB: mend it with truncate -s {remedy}"
            );
            assert_eq!(line, expected);
        }
        let no_file = PmemConfig { path: "/dev/null".into(), readonly: false };
        assert!(refusal(&[no_file]).contains("no regular file"));
        let missing = PmemConfig { path: directory.path().join("missing"), readonly: true };
        assert!(refusal(&[missing]).contains("No such file"));
        let large = ["a", "b"].map(|name| config(directory.path(), name, MAX_BYTES / 2 + LARGE_PAGE, true));
        assert!(refusal(&large).contains("b is too large"));
    }

    #[test]
    fn a_file_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let writer = config(directory.path(), "file", LARGE_PAGE, false);
        let reader = PmemConfig { readonly: true, ..writer.clone() };
        let open = |config: &PmemConfig| open(std::slice::from_ref(config));
        let readers = (open(&reader).unwrap(), open(&reader).unwrap());
        assert!(open(&writer).is_err_and(|error| error.line().contains("is in use")));
        drop(readers);
        let _writer = open(&writer).unwrap();
        assert!(open(&reader).is_err_and(|error| error.line().contains("is in use")));
    }

    #[test]
    fn files_lie_behind_ram_and_the_room_for_more() {
        let directory = tempfile::tempdir().unwrap();
        let configs = ["a", "b"].map(|name| config(directory.path(), name, LARGE_PAGE, true));
        let places = |memory: &GuestMemory| {
            let placed = place(memory, open(&configs).unwrap());
            placed.into_iter().map(|placed| placed.place.start >> 30).collect::<Vec<_>>()
        };
        assert_eq!(places(&allocate(16 << 20).unwrap()), [4, 5]);
        assert_eq!(places(&allocate_extensible(16 << 20, 16 << 20, Pages::Any).unwrap().all), [5, 6]);
    }

    #[test]
    fn only_what_is_for_writing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let configs = [("a", false), ("b", true)]
            .map(|(name, readonly)| config(directory.path(), name, LARGE_PAGE, readonly));
        let ram = allocate(16 << 20).unwrap();
        let files = place(&ram, open(&configs).unwrap());
        let reach = Reach::new(&ram, None, &files).unwrap();
        let [a, b] = [4 << 30, 5 << 30].map(GuestAddress);
        let rom = reach.rom.unwrap();
        assert!(reach.memory.check_range(a, 4096) && !reach.memory.check_range(b, 4096));
        assert!(!rom.check_range(a, 4096) && rom.check_range(b, 4096));
        for address in [a, b] {
            reach.devices.write_obj(7_u8, address).unwrap();
            assert_eq!(reach.devices.read_obj::<u8>(address).unwrap(), 7);
        }
        assert_eq!(rom.read_obj::<u8>(b).unwrap(), 0, "processors do not see it");
        let first = |config: &PmemConfig| {
            let mut byte = [0];
            File::open(&config.path).and_then(|file| file.read_exact_at(&mut byte, 0)).unwrap();
            byte[0]
        };
        assert_eq!(configs.each_ref().map(first), [7, 0]);
    }
}
