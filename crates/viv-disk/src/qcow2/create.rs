//! New images.

use std::path::{Path, PathBuf};

use super::bad;
use super::geometry::Geometry;
use super::header::{BASE_STAMP, Compression, Extension, Header, LAZY_REFCOUNTS, MAX_L1, MAX_REFCOUNT_TABLE};
use crate::bytes::{bytes_of, index};
use crate::new_file::NewFile;
use crate::storage::Storage;
use crate::{DiskError, Format, SECTOR};

/// What an image is made like.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// Bytes in a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits in a refcount: a power of two up to 64; 16 in version 2.
    pub refcount_bits: u32,
    /// Whether clusters, of at least 16 KiB, have 32 subclusters each.
    pub extended_l2: bool,
    /// Whether others may write refcounts late.
    pub lazy_refcounts: bool,
    /// How clusters are compressed, by those who compress.
    pub compression: Compression,
    /// The backing file as the image names it, and its format.
    pub backing: Option<(PathBuf, Format)>,
    /// What the backing file is now, for [`crate::open_kept`] to compare.
    pub base_stamp: Option<Vec<u8>>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Deflate,
            backing: None,
            base_stamp: None,
        }
    }
}

impl CreateOptions {
    fn geometry(&self) -> Result<Geometry, String> {
        let power = |value: u64, from: u64, to: u64| value.is_power_of_two() && (from..=to).contains(&value);
        if !(2..=3).contains(&self.version) {
            return Err(format!("version {} is not known; 2 and 3 are", self.version));
        }
        if !power(self.cluster_size, 512, 2 << 20) {
            return Err(format!(
                "clusters cannot have {} bytes; give a power of two from 512 to 2M",
                self.cluster_size
            ));
        }
        if !power(self.refcount_bits.into(), 1, 64) {
            return Err(format!(
                "refcounts cannot have {} bits; give a power of two up to 64",
                self.refcount_bits
            ));
        }
        if self.extended_l2 && self.cluster_size < 16 << 10 {
            return Err(format!(
                "clusters of {} bytes cannot have subclusters; give 16K or more",
                self.cluster_size
            ));
        }
        let plain = self.refcount_bits == 16
            && !self.extended_l2
            && !self.lazy_refcounts
            && self.compression == Compression::Deflate;
        if self.version < 3 && !plain {
            return Err(
                "version 2 knows neither other refcounts than of 16 bits, nor lazy ones, subclusters or zstd"
                    .into(),
            );
        }
        Ok(Geometry {
            version: self.version,
            cluster_bits: self.cluster_size.trailing_zeros(),
            refcount_order: self.refcount_bits.trailing_zeros(),
            extended: self.extended_l2,
        })
    }
}

/// Makes an image of `size` bytes at `path`, where nothing may be yet. It appears there complete, or not at all.
///
/// # Errors
/// When the options or the size do not fit each other, or the file cannot be made.
pub fn create(path: &Path, size: u64, options: &CreateOptions) -> Result<(), DiskError> {
    let new = NewFile::create(path)?;
    write_new(new.file(), size, options)?;
    new.finish()
}

/// Writes an empty image into an empty file.
pub(crate) fn write_new(file: &dyn Storage, size: u64, options: &CreateOptions) -> Result<(), DiskError> {
    let refuse = |reason| DiskError::CannotCreate { path: file.path().to_owned(), reason };
    let geometry = options.geometry().map_err(refuse)?;
    let size = size.checked_next_multiple_of(SECTOR).filter(|size| *size > 0);
    let size = size.ok_or_else(|| refuse("a disk has at least one byte and less than 2^64".into()))?;
    let entries = geometry.l1_entries(size);
    if entries.saturating_mul(8) > MAX_L1 {
        return Err(refuse(format!(
            "{size} bytes are too many for clusters of {} bytes; give larger clusters",
            options.cluster_size
        )));
    }
    let l1_clusters = geometry.clusters_for(entries.saturating_mul(8));
    let used = l1_clusters.saturating_add(1);
    let (table, table_clusters) = write_refcounts(file, geometry, used, |_| 1)?;
    let mut header = Header::new(geometry, size);
    header.l1_size = entries as u32;
    header.l1_offset = geometry.cluster_size();
    (header.refcount_table, header.refcount_clusters) = (table, table_clusters);
    if options.lazy_refcounts {
        header.compatible |= LAZY_REFCOUNTS;
    }
    header.set_compression(options.compression);
    header.set_backing(options.backing.as_ref().map(|(path, format)| (path.as_path(), *format)));
    let stamp = options.base_stamp.as_ref().map(|data| Extension { kind: BASE_STAMP, data: data.clone() });
    header.extensions.extend(stamp);
    let first = header.encode().map_err(refuse)?;
    file.write_at(0, &first)?;
    file.sync()
}

/// Writes refcounts for `used` clusters behind them, and for what they take themselves: the offset and the clusters of
/// the table. They are durable then.
pub(super) fn write_refcounts(
    file: &dyn Storage,
    geometry: Geometry,
    used: u64,
    count: impl Fn(u64) -> u64,
) -> Result<(u64, u32), DiskError> {
    let (blocks, clusters) = geometry.plan_refcounts(used);
    if geometry.offset_of(clusters) > MAX_REFCOUNT_TABLE {
        return Err(bad(file, format!("its {used} clusters are too many for a refcount table")));
    }
    let end = used.saturating_add(blocks).saturating_add(clusters);
    let mut table = Vec::new();
    for block in 0..blocks {
        let mut bytes = vec![0; geometry.cluster_len()];
        let first = block.saturating_mul(geometry.per_block());
        for at in 0..geometry.per_block().min(end.saturating_sub(first)) {
            let cluster = first.saturating_add(at);
            let value = if cluster < used { count(cluster) } else { 1 };
            if value > geometry.max_refcount() {
                let most = geometry.max_refcount();
                return Err(bad(
                    file,
                    format!("cluster {cluster} is referred to {value} times, and refcounts reach to {most}"),
                ));
            }
            geometry.set_refcount(&mut bytes, at, value);
        }
        let offset = geometry.offset_of(used.saturating_add(block));
        file.write_at(offset, &bytes)?;
        table.push(offset);
    }
    table.resize(index(geometry.offset_of(clusters) / 8), 0);
    let offset = geometry.offset_of(used.saturating_add(blocks));
    file.write_at(offset, &bytes_of(&table))?;
    file.sync()?;
    Ok((offset, clusters as u32))
}
