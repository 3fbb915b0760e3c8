//! Opening a machine's disks.

use std::path::{Path, PathBuf};

use viv_disk::qcow2::Qcow2Disk;
use viv_disk::{Access, Caching, Disk, DiskError, Format, RawDisk, open_kept};

use crate::config::{CacheMode, DiskConfig, DiskFormat, Overlay};

/// Opens a disk as the config says.
pub(crate) fn open(config: &DiskConfig) -> Result<Box<dyn Disk>, DiskError> {
    let format = match config.format {
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
        DiskFormat::Vmdk => Format::Vmdk,
    };
    let direct = config.tuning.cache == CacheMode::None;
    let disk = |access| -> Result<Box<dyn Disk>, DiskError> {
        match format {
            Format::Raw if direct => Ok(Box::new(RawDisk::open_with(&config.path, access, Caching::Direct)?)),
            Format::Raw | Format::Qcow2 | Format::Vmdk => viv_disk::open(&config.path, format, access),
        }
    };
    match &config.overlay {
        Overlay::None if config.readonly => disk(Access::ReadOnly),
        Overlay::None => disk(Access::ReadWrite),
        Overlay::ThrowAway => {
            Ok(Box::new(Qcow2Disk::throw_away(disk(Access::ReadOnly)?, &scratch_directory())?))
        }
        Overlay::Kept { path } => Ok(Box::new(open_kept(&config.path, format, path)?)),
    }
}

/// Opens the image of a CD-ROM.
pub(crate) fn open_cdrom(path: &Path) -> Result<Box<dyn Disk>, DiskError> {
    Ok(Box::new(RawDisk::open(path, Access::ReadOnly)?))
}

/// Where throw-away overlays take space: not `/tmp` by itself, which is often in memory.
fn scratch_directory() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DiskBus, DiskTuning};

    #[test]
    fn writes_go_where_the_config_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![1; 4096]).unwrap();
        let config = |readonly, overlay| DiskConfig {
            path: path.clone(),
            format: DiskFormat::Raw,
            readonly,
            overlay,
            bus: DiskBus::Virtio,
            tuning: DiskTuning::default(),
        };
        let kept = Overlay::Kept { path: directory.path().join("kept") };

        assert!(open(&config(true, Overlay::None)).unwrap().read_only());
        open(&config(false, Overlay::ThrowAway)).unwrap().write_at(0, &[2; 512]).unwrap();
        let disk = open(&config(false, kept.clone())).unwrap();
        disk.write_at(0, &[3; 512]).unwrap();
        disk.flush().unwrap();
        drop(disk);
        assert_eq!(std::fs::read(&path).unwrap()[0], 1, "the base is as it was");

        let mut sector = [0; 512];
        open(&config(false, kept)).unwrap().read_at(0, &mut sector).unwrap();
        assert_eq!(sector[0], 3);

        open(&config(false, Overlay::None)).unwrap().write_at(0, &[4; 512]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0], 4);
    }
}
