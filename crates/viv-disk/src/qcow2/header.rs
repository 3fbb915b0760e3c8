//! The header, its extensions and the name of the backing file.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::geometry::Geometry;
use crate::bytes::{be32, be64, index, put};
use crate::{Format, SECTOR};

/// How an image begins.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Incompatible features: refcounts may be wrong.
pub(super) const DIRTY: u64 = 1 << 0;
/// Incompatible features: it must not be written before it is repaired.
pub(super) const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Compatible features: refcounts may be written late.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear features: the bitmaps are up to date.
pub(super) const BITMAPS: u64 = 1 << 0;

/// Header extensions that are known.
const BACKING_FORMAT: u32 = 0xe279_2aca;
const BITMAPS_EXTENSION: u32 = 0x2385_2875;
/// What the base was when the image was made: [`crate::open_kept`].
pub(super) const BASE_STAMP: u32 = 0x5669_7642;
const END: u32 = 0;

/// Bytes of the header in version 2, and at the least in version 3.
const LENGTH_2: usize = 72;
const LENGTH_3: usize = 104;
/// What is made now: with the compression type.
const LENGTH_NOW: usize = 112;

/// The largest L1 table and refcount table, in bytes, as other programs have it.
pub(super) const MAX_L1: u64 = 32 << 20;
pub(super) const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_NAME: usize = 1023;

/// Offsets of the fields that are changed by themselves.
pub(super) mod field {
    pub(in super::super) const SIZE: u64 = 24;
    pub(in super::super) const REFCOUNT_TABLE: u64 = 48;
    pub(in super::super) const INCOMPATIBLE: u64 = 72;
    pub(in super::super) const AUTOCLEAR: u64 = 88;
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Deflate without the header of zlib.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// A header extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

/// What an image says about itself in its first cluster.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The fixed part as it lies in the file, with fields that are not known.
    fixed: Vec<u8>,
    pub(super) geometry: Geometry,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_table: u64,
    pub(super) refcount_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: u8,
    pub(super) backing: Option<PathBuf>,
    pub(super) extensions: Vec<Extension>,
}

impl Header {
    /// The header of a new image, whose tables are not there yet.
    pub(super) fn new(geometry: Geometry, size: u64) -> Self {
        let length = if geometry.version >= 3 { LENGTH_NOW } else { LENGTH_2 };
        Self {
            fixed: vec![0; length],
            geometry,
            size,
            crypt_method: 0,
            l1_size: 0,
            l1_offset: 0,
            refcount_table: 0,
            refcount_clusters: 0,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: if geometry.extended { EXTENDED_L2 } else { 0 },
            compatible: 0,
            autoclear: 0,
            compression: 0,
            backing: None,
            extensions: Vec::new(),
        }
    }

    /// The size of the first cluster, from the first bytes of a file.
    pub(super) fn first_cluster(start: &[u8]) -> Result<u64, String> {
        if start.get(..4) != Some(&MAGIC) {
            return Err("it does not begin like one".into());
        }
        let version = be32(start, 4);
        if !(2..=3).contains(&version) {
            return Err(format!("its format has version {version}; versions 2 and 3 are known"));
        }
        let bits = be32(start, 20);
        if !(9..=21).contains(&bits) {
            return Err(format!("its clusters have 2^{bits} bytes; from 2^9 to 2^21 are known"));
        }
        Ok(1_u64.wrapping_shl(bits))
    }

    /// Reads the header from the first cluster, or as much of it as the file has.
    pub(super) fn decode(cluster: &[u8]) -> Result<Self, String> {
        Self::first_cluster(cluster)?;
        let version = be32(cluster, 4);
        let length = if version >= 3 { index(be32(cluster, 100).into()) } else { LENGTH_2 };
        if version >= 3 && (length < LENGTH_3 || !length.is_multiple_of(8)) {
            return Err(format!("its header has {length} bytes"));
        }
        let fixed =
            cluster.get(..length).ok_or_else(|| format!("its header of {length} bytes does not fit"))?;
        let word = |offset| if version >= 3 { be64(fixed, offset) } else { 0 };
        let incompatible = word(72);
        let geometry = Geometry {
            version,
            cluster_bits: be32(fixed, 20),
            refcount_order: if version >= 3 { be32(fixed, 96) } else { 4 },
            extended: incompatible & EXTENDED_L2 != 0,
        };
        let compression = fixed.get(LENGTH_3).copied().unwrap_or(0);
        let mut header = Self {
            geometry,
            size: be64(fixed, 24),
            crypt_method: be32(fixed, 32),
            l1_size: be32(fixed, 36),
            l1_offset: be64(fixed, 40),
            refcount_table: be64(fixed, 48),
            refcount_clusters: be32(fixed, 56),
            snapshots: be32(fixed, 60),
            snapshots_offset: be64(fixed, 64),
            incompatible,
            compatible: word(80),
            autoclear: word(88),
            compression: if version >= 3 { compression } else { 0 },
            backing: None,
            extensions: Vec::new(),
            fixed: fixed.to_vec(),
        };
        header.check()?;
        header.read_backing(cluster)?;
        header.read_extensions(cluster)?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        let geometry = self.geometry;
        if geometry.refcount_order > 6 {
            return Err(format!(
                "its refcounts have 2^{} bits; up to 2^6 are known",
                geometry.refcount_order
            ));
        }
        if geometry.extended && geometry.cluster_bits < 14 {
            return Err(format!("clusters of 2^{} bytes have no subclusters", geometry.cluster_bits));
        }
        let l1_bytes = u64::from(self.l1_size).saturating_mul(8);
        if l1_bytes > MAX_L1 {
            return Err(format!("its L1 table has {l1_bytes} bytes; up to {MAX_L1} are allowed"));
        }
        if geometry.l1_entries(self.size) > self.l1_size.into() {
            return Err(format!(
                "its L1 table of {} entries is too small for {} bytes",
                self.l1_size, self.size
            ));
        }
        let refcounts = geometry.offset_of(self.refcount_clusters.into());
        if refcounts > MAX_REFCOUNT_TABLE || refcounts == 0 {
            return Err(format!(
                "its refcount table has {refcounts} bytes; up to {MAX_REFCOUNT_TABLE} are allowed"
            ));
        }
        let tables = [
            ("L1 table", self.l1_offset, l1_bytes),
            ("refcount table", self.refcount_table, refcounts),
            ("snapshot table", self.snapshots_offset, u64::from(self.snapshots)),
        ];
        for (name, offset, length) in tables.iter().filter(|(_, _, length)| *length > 0) {
            if geometry.within(*offset) != 0
                || *offset == 0
                || offset.checked_add(*length).is_none_or(|end| end >> 56 != 0)
            {
                return Err(format!("its {name} cannot be at offset {offset}"));
            }
        }
        let [(_, l1, _), (_, table, _), _] = tables;
        let apart = l1.saturating_add(l1_bytes) <= table || table.saturating_add(refcounts) <= l1;
        if !apart && l1_bytes > 0 {
            return Err("its L1 table and its refcount table overlap".into());
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(format!("it has {} snapshots; up to {MAX_SNAPSHOTS} are allowed", self.snapshots));
        }
        Ok(())
    }

    fn read_backing(&mut self, cluster: &[u8]) -> Result<(), String> {
        let offset = index(be64(&self.fixed, 8));
        let length = index(be32(&self.fixed, 16).into());
        if offset == 0 {
            return Ok(());
        }
        if length > MAX_NAME {
            return Err(format!(
                "the name of its backing file has {length} bytes; up to {MAX_NAME} are allowed"
            ));
        }
        let name = cluster.get(offset..).and_then(|rest| rest.get(..length));
        let name = name.ok_or("the name of its backing file is not in the first cluster")?;
        if name.contains(&0) {
            return Err("the name of its backing file holds a zero byte".into());
        }
        if !name.is_empty() {
            self.backing = Some(OsString::from_vec(name.to_vec()).into());
        }
        Ok(())
    }

    fn read_extensions(&mut self, cluster: &[u8]) -> Result<(), String> {
        let name = index(be64(&self.fixed, 8));
        let end = if name == 0 { cluster.len() } else { name.min(cluster.len()) };
        let mut rest = cluster.get(self.fixed.len()..end).unwrap_or_default();
        // In version 2 there may be none, and then nothing ends them.
        while rest.len() >= 8 {
            let (kind, length) = (be32(rest, 0), index(be32(rest, 4).into()));
            if kind == END {
                break;
            }
            let data = rest.get(8..).and_then(|data| data.get(..length));
            let data =
                data.ok_or_else(|| format!("its header extension {kind:#x} of {length} bytes does not fit"))?;
            self.extensions.push(Extension { kind, data: data.to_vec() });
            let next = length.saturating_add(15) & !7;
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(())
    }

    /// The first cluster, or why it does not fit there.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut bytes = self.fixed.clone();
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 4, &self.geometry.version.to_be_bytes());
        put(&mut bytes, 20, &self.geometry.cluster_bits.to_be_bytes());
        put(&mut bytes, 24, &self.size.to_be_bytes());
        put(&mut bytes, 32, &self.crypt_method.to_be_bytes());
        put(&mut bytes, 36, &self.l1_size.to_be_bytes());
        put(&mut bytes, 40, &self.l1_offset.to_be_bytes());
        put(&mut bytes, 48, &self.refcount_table.to_be_bytes());
        put(&mut bytes, 56, &self.refcount_clusters.to_be_bytes());
        put(&mut bytes, 60, &self.snapshots.to_be_bytes());
        put(&mut bytes, 64, &self.snapshots_offset.to_be_bytes());
        if self.geometry.version >= 3 {
            put(&mut bytes, 72, &self.incompatible.to_be_bytes());
            put(&mut bytes, 80, &self.compatible.to_be_bytes());
            put(&mut bytes, 88, &self.autoclear.to_be_bytes());
            put(&mut bytes, 96, &self.geometry.refcount_order.to_be_bytes());
            put(&mut bytes, 100, &(self.fixed.len() as u32).to_be_bytes());
            put(&mut bytes, LENGTH_3, &[self.compression]);
        }
        for extension in &self.extensions {
            bytes.extend(extension.kind.to_be_bytes());
            bytes.extend((extension.data.len() as u32).to_be_bytes());
            bytes.extend(&extension.data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]);
        let name = self.backing.as_deref().map(|name| name.as_os_str().as_bytes()).unwrap_or_default();
        let at = if name.is_empty() { 0 } else { bytes.len() as u64 };
        put(&mut bytes, 8, &at.to_be_bytes());
        put(&mut bytes, 16, &(name.len() as u32).to_be_bytes());
        bytes.extend(name);
        if name.len() > MAX_NAME || bytes.len() > self.geometry.cluster_len() {
            return Err(format!(
                "the name of the backing file, of {} bytes, does not fit into the first cluster",
                name.len()
            ));
        }
        bytes.resize(self.geometry.cluster_len(), 0);
        Ok(bytes)
    }

    /// Why an image cannot be used, for writing or at all.
    pub(super) fn refuse(&self, write: bool) -> Result<(), String> {
        if self.crypt_method != 0 {
            return Err("it is encrypted, which is not supported".into());
        }
        if self.incompatible & EXTERNAL_DATA != 0 {
            return Err("its data is in another file, which is not supported".into());
        }
        let unknown = self.incompatible & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2);
        if unknown != 0 {
            return Err(format!("it uses features that are not known, bits {unknown:#x}"));
        }
        if self.compression().is_none() {
            return Err(format!("its compression type {} is not known", self.compression));
        }
        if write && self.incompatible & CORRUPT != 0 {
            return Err("it is marked as corrupt; repair it with `viv disk check --repair`".into());
        }
        if write && self.incompatible & DIRTY != 0 {
            return Err(
                "it was not closed, and its refcounts may be wrong; repair it with `viv disk check --repair`"
                    .into(),
            );
        }
        if self.size < SECTOR {
            return Err(format!("it holds {} bytes, less than one sector", self.size));
        }
        Ok(())
    }

    /// How its clusters are compressed, if that is known.
    pub(super) fn compression(&self) -> Option<Compression> {
        match self.compression {
            0 => Some(Compression::Deflate),
            1 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Says how clusters are compressed.
    pub(super) fn set_compression(&mut self, compression: Compression) {
        self.compression = match compression {
            Compression::Deflate => 0,
            Compression::Zstd => 1,
        };
        if self.compression != 0 {
            self.incompatible |= COMPRESSION;
        }
    }

    /// What the backing file's format is said to be.
    pub(super) fn backing_format(&self) -> Option<Result<Format, String>> {
        let name = self.extensions.iter().find(|extension| extension.kind == BACKING_FORMAT)?;
        let name = String::from_utf8_lossy(&name.data).into_owned();
        Some(name.parse().map_err(|_| name))
    }

    /// Names the backing file, or none.
    pub(super) fn set_backing(&mut self, backing: Option<(&Path, Format)>) {
        self.extensions.retain(|extension| ![BACKING_FORMAT, BASE_STAMP].contains(&extension.kind));
        self.backing = backing.map(|(path, _)| path.to_owned());
        if let Some((_, format)) = backing {
            let data = format.to_string().into_bytes();
            self.extensions.insert(0, Extension { kind: BACKING_FORMAT, data });
        }
    }

    /// An extension's data.
    pub(super) fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|extension| extension.kind == kind).map(|found| found.data.as_slice())
    }

    /// The directory of bitmaps, if they are up to date: its offset and length.
    pub(super) fn bitmap_directory(&self) -> Option<(u64, u64, u32)> {
        if self.autoclear & BITMAPS == 0 {
            return None;
        }
        let data = self.extension(BITMAPS_EXTENSION)?;
        Some((be64(data, 16), be64(data, 8), be32(data, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let geometry = Geometry { version: 3, cluster_bits: 16, refcount_order: 4, extended: false };
        let mut header = Header::new(geometry, 1 << 30);
        (header.l1_size, header.l1_offset) = (2, 0x30000);
        (header.refcount_clusters, header.refcount_table) = (1, 0x10000);
        header
    }

    #[test]
    fn extensions_that_are_not_known_are_kept() {
        let mut header = header();
        header.extensions.push(Extension { kind: 0x1234_5678, data: vec![1, 2, 3] });
        header.set_backing(Some((Path::new("base.img"), Format::Raw)));
        let mut again = Header::decode(&header.encode().unwrap()).unwrap();
        assert_eq!(again.backing.as_deref(), Some(Path::new("base.img")));
        assert_eq!(again.backing_format(), Some(Ok(Format::Raw)));
        again.set_backing(None);
        let last = Header::decode(&again.encode().unwrap()).unwrap();
        assert_eq!((last.backing.as_ref(), last.backing_format()), (None, None));
        assert_eq!(last.extension(0x1234_5678), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let refused = |change: fn(&mut Header), write| {
            let mut header = header();
            change(&mut header);
            Header::decode(&header.encode().unwrap()).and_then(|header| header.refuse(write)).unwrap_err()
        };
        assert!(refused(|h| h.crypt_method = 2, false).contains("encrypted"));
        assert!(refused(|h| h.incompatible = EXTERNAL_DATA, false).contains("another file"));
        assert!(refused(|h| h.incompatible = 1 << 40, false).contains("0x10000000000"));
        assert!(refused(|h| h.incompatible = DIRTY, true).contains("--repair"));
        assert!(refused(|h| h.incompatible = CORRUPT, true).contains("--repair"));
        assert!(refused(|h| h.l1_size = 1, false).contains("too small"));
        assert!(refused(|h| h.l1_size = u32::MAX, false).contains("L1 table has"));
        assert!(refused(|h| h.l1_offset = 0x10000, false).contains("overlap"));
        assert!(refused(|h| h.refcount_table = 0x10008, false).contains("refcount table"));
        assert!(refused(|h| h.size = u64::MAX, false).contains("too small"));
    }
}
