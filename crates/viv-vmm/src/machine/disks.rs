//! Opening a machine's disks.

use std::path::{Path, PathBuf};

use viv_disk::{Access, Caching, Disk, DiskError, OverlayDisk, RawDisk};

use crate::config::{CacheMode, DiskConfig, Overlay};

/// Opens a disk as the config says.
pub(crate) fn open(config: &DiskConfig) -> Result<Box<dyn Disk>, DiskError> {
    let caching = if config.tuning.cache == CacheMode::None { Caching::Direct } else { Caching::Host };
    let base = |access| RawDisk::open_with(&config.path, access, caching);
    match &config.overlay {
        Overlay::None if config.readonly => Ok(Box::new(base(Access::ReadOnly)?)),
        Overlay::None => Ok(Box::new(base(Access::ReadWrite)?)),
        Overlay::ThrowAway => {
            Ok(Box::new(OverlayDisk::throw_away(base(Access::ReadOnly)?, &scratch_directory())?))
        }
        Overlay::Kept { path } => Ok(Box::new(open_or_create(base(Access::ReadOnly)?, path)?)),
    }
}

/// Opens the image of a CD-ROM.
pub(crate) fn open_cdrom(path: &Path) -> Result<Box<dyn Disk>, DiskError> {
    Ok(Box::new(RawDisk::open(path, Access::ReadOnly)?))
}

fn open_or_create(base: RawDisk, path: &Path) -> Result<OverlayDisk, DiskError> {
    if path.exists() { OverlayDisk::open(base, path) } else { OverlayDisk::create(base, path) }
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
