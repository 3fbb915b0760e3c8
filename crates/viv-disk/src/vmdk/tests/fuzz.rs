//! What is done to damaged images.

use super::model::any_step;
use super::*;
use crate::testing::model::attempt;

/// Images: that grow, to be sent, and of several files.
pub(crate) fn images() -> Vec<Vec<u8>> {
    let size = 40 << 20;
    let grows = new_image(size);
    let disk = open_recorded(&grows).unwrap();
    for offset in [0, 70_000, 35 << 20] {
        disk.write_at(offset, &[0x5a; 40]).unwrap();
    }
    drop(disk);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vmdk");
    let mut sent = crate::NewDisk::create(&path, size, &crate::NewFormat::Vmdk(Layout::Stream)).unwrap();
    for offset in [0, 65536, 35 << 20] {
        sent.write_at(offset, &[0x5a; 65536]).unwrap();
    }
    sent.finish().unwrap();
    let text = "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
                createType=\"twoGbMaxExtentSparse\"\n\
                RW 20 SPARSE \"a\"\nRW 20 SPARSE \"b\"\nRW 10 FLAT \"c\" 10\nRDONLY 5 ZERO\n";
    vec![grows.bytes(), std::fs::read(path).unwrap(), text.as_bytes().to_vec()]
}

/// Does everything to an image that can be done, whatever is wrong with it. Text is taken for a descriptor whose extents are
/// all small images.
pub(crate) fn exercise(image: &[u8], seed: u64) {
    let mut random = Random::new(seed);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let file = Recorder::holding(image.to_vec());
        let beside = |_: &str| -> Result<Arc<dyn Storage>, DiskError> { Ok(Arc::new(new_image(20 * 512))) };
        let Ok(disk) = VmdkDisk::over(Arc::new(file.clone()), access, &beside) else { continue };
        let before = file.bytes();
        let size = disk.size.min(1 << 21);
        for _ in 0..30 {
            let mut data = vec![0; 3000.min(size as usize)];
            let _ = disk.read_at(random.below(size - data.len() as u64 + 1), &mut data);
            let _ = attempt(&disk, any_step(&mut random, size));
        }
        let _ = disk.read_at(disk.size - 512, &mut [0; 512]);
        let _ = disk.data_from(0);
        let _ = disk.discard(0, disk.size.min(1 << 32));
        drop(disk);
        assert_header_stays(&before, &file.bytes());
        if access == Access::ReadWrite {
            // What the guest has written made no other image of it.
            VmdkDisk::over(Arc::new(file), access, &beside).unwrap();
        }
    }
}

/// Nothing but the content ID changes in the first sectors.
fn assert_header_stays(before: &[u8], after: &[u8]) {
    let differ = before.iter().take(4096).zip(after).filter(|(before, after)| before != after).count();
    assert!(differ <= 8, "a guest has written over the header or the descriptor");
}
