//! What is done to damaged images.

use super::model::{Step, any_step};
use super::*;
use crate::testing::model::attempt;
use crate::testing::recorder::Recorder;

/// Does everything to an image that can be done, whatever is wrong with it.
pub(crate) fn exercise(image: &[u8], seed: u64) {
    let mut random = Random::new(seed);
    let file = Recorder::holding(image.to_vec());
    if let Ok(disk) = Qcow2Disk::over(Box::new(file.clone()), Access::ReadWrite, None) {
        let size = disk.size.min(1 << 20);
        for _ in 0..40 {
            let mut data = vec![0; 3000.min(size as usize)];
            let _ = disk.read_at(random.below(size - data.len() as u64 + 1), &mut data);
            let _ = match any_step(&mut random, size, disk.geometry.cluster_size().min(size)) {
                Step::Plain(step) => attempt(&disk, step),
                Step::Compressed(offset, fill) => {
                    disk.write_compressed(offset, &vec![fill; disk.piece(offset, size - offset) as usize])
                }
            };
        }
        let _ = disk.read_at(disk.size - 512, &mut [0; 512]);
        let _ = disk.discard(0, disk.size.min(1 << 32));
    }
    if let Ok(found) = check::check_file(&file, Repair::All)
        && found.errors == 0
    {
        let found = check::check_file(&file, Repair::No).unwrap();
        assert_eq!((found.errors, found.leaks), (0, 0), "{:?}", found.notes);
    }
}
