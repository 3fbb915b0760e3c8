//! The descriptor: text that says what kind of image it is and what it consists of.

use std::ops::Range;

use crate::SECTOR;

/// How a descriptor in a file of its own begins.
pub(crate) const BEGINNING: [u8; 21] = *b"# Disk DescriptorFile";
/// The longest descriptor that is read, in bytes.
pub(super) const MAX_LENGTH: u64 = 1 << 20;
/// The most extents: 2 TiB in parts of 2 GiB.
pub(super) const MAX_EXTENTS: usize = 1024;
/// What an image without a parent has as its parent's content ID.
const NO_PARENT: u32 = u32::MAX;
/// What BIOSes make of a disk on a SCSI controller.
const HEADS: u64 = 255;
const PER_TRACK: u64 = 63;

/// What an image consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateType {
    /// One file with a descriptor inside.
    MonolithicSparse,
    /// The same, compressed, to be written once.
    StreamOptimized,
    /// A descriptor beside one file whose bytes are the disk's.
    MonolithicFlat,
    /// A descriptor beside files that grow, of up to 2 GB of the disk each.
    TwoGbMaxExtentSparse,
    /// A descriptor beside files whose bytes are the disk's.
    TwoGbMaxExtentFlat,
    /// A flat image as hypervisors have it in their file system.
    Vmfs,
}

impl CreateType {
    const ALL: [Self; 6] = [
        Self::MonolithicSparse,
        Self::StreamOptimized,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::TwoGbMaxExtentFlat,
        Self::Vmfs,
    ];

    /// Its name in descriptors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::Vmfs => "vmfs",
        }
    }

    /// Whether the descriptor lies in the only extent.
    pub(super) fn is_one_file(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::StreamOptimized)
    }
}

/// What an extent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grains, found by tables.
    Sparse,
    /// The bytes of a file from an offset in sectors on.
    Flat(u64),
    /// Nothing but zeroes.
    Zero,
}

/// A part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sectors: u64,
    pub(super) kind: Kind,
    /// Whether it must not be written.
    pub(super) read_only: bool,
    /// The name of its file; empty for zeroes.
    pub(super) file: String,
}

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// The type that it names, known or not.
    pub(super) create_type: String,
    /// The content ID, which changes whenever the contents do.
    pub(super) content: u32,
    /// Where in the text its digits are, up to eight.
    pub(super) content_digits: Option<Range<usize>>,
    /// The content ID of the image below, if there is one.
    pub(super) parent: Option<u32>,
    /// Whether somebody relies on a record of what has changed.
    pub(super) tracks_changes: bool,
    pub(super) parts: Vec<Part>,
}

impl Descriptor {
    /// Reads a descriptor, which ends with the text or with a zero.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = str::from_utf8(bytes.get(..end).unwrap_or_default())
            .map_err(|_| "its descriptor is not text in UTF-8".to_owned())?;
        let mut found = Self {
            create_type: String::new(),
            content: 0,
            content_digits: None,
            parent: None,
            tracks_changes: false,
            parts: Vec::new(),
        };
        let mut version = None;
        let mut at = 0_usize;
        for line in text.split_inclusive('\n') {
            let begin = at;
            at = at.saturating_add(line.len());
            let line = line.trim_end();
            let first = line.split_whitespace().next().unwrap_or_default();
            if first.starts_with('#') || first.is_empty() {
                continue;
            }
            if ["RW", "RDONLY", "NOACCESS"].contains(&first) {
                if found.parts.len() >= MAX_EXTENTS {
                    return Err(format!("it has more than {MAX_EXTENTS} extents"));
                }
                let part = Part::parse(line.trim_start());
                found.parts.push(part.ok_or_else(|| format!("of its extents, '{line}' is not understood"))?);
                continue;
            }
            let Some((key, quoted)) = line.split_once('=') else {
                return Err(format!("the line '{line}' of its descriptor is not understood"));
            };
            let value = quoted.trim().trim_matches('"');
            let hexadecimal = || {
                u32::from_str_radix(value, 16)
                    .map_err(|_| format!("its descriptor has '{line}', which is no number"))
            };
            match key.trim() {
                "version" => version = Some(value.to_owned()),
                "createType" => value.clone_into(&mut found.create_type),
                "CID" => {
                    found.content = hexadecimal()?;
                    let digits = begin.saturating_add(line.len().saturating_sub(value.len()));
                    let plain = (1..=8).contains(&value.len()) && line.ends_with(value);
                    found.content_digits = plain.then(|| digits..digits.saturating_add(value.len()));
                }
                "parentCID" => found.parent = Some(hexadecimal()?).filter(|parent| *parent != NO_PARENT),
                "changeTrackPath" => found.tracks_changes = !value.is_empty(),
                _ => {}
            }
        }
        match version.as_deref() {
            Some("1" | "2" | "3") => Ok(found),
            Some(other) => Err(format!("its descriptor has version {other}; versions 1 to 3 are known")),
            None => Err("its descriptor does not say its version".into()),
        }
    }

    /// The text for a new image of one sparse file.
    pub(super) fn write(create_type: CreateType, file: &str, sectors: u64, content: u32) -> String {
        let cylinders = sectors.div_ceil(HEADS * PER_TRACK).min(65535);
        format!(
            "# Disk DescriptorFile\n\
             version=1\n\
             CID={content:08x}\n\
             parentCID={NO_PARENT:08x}\n\
             createType=\"{}\"\n\
             \n\
             # Extent description\n\
             RW {sectors} SPARSE \"{file}\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.virtualHWVersion = \"4\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{HEADS}\"\n\
             ddb.geometry.sectors = \"{PER_TRACK}\"\n\
             ddb.adapterType = \"lsilogic\"\n",
            create_type.name()
        )
    }

    /// The type, if it is known.
    pub(super) fn create_type(&self) -> Option<CreateType> {
        CreateType::ALL.into_iter().find(|known| known.name() == self.create_type)
    }

    /// Why an image that says so cannot be used, for writing or at all.
    pub(super) fn refuse(&self, write: bool) -> Result<(), String> {
        let Some(create_type) = self.create_type() else {
            return Err(format!("its type '{}' is not supported", self.create_type));
        };
        if let Some(parent) = self.parent {
            return Err(format!(
                "it holds what differs from another image (parentCID={parent:08x}), which is not supported; \
                 let the program that made it make one image of them"
            ));
        }
        if create_type.is_one_file() && self.parts.len() != 1 {
            return Err(format!(
                "its descriptor says {} and has {} extents",
                self.create_type,
                self.parts.len()
            ));
        }
        let sectors = self.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.sectors));
        if sectors.is_none_or(|sectors| sectors == 0 || sectors.checked_mul(SECTOR).is_none()) {
            return Err("its extents are no size of a disk".into());
        }
        if write {
            self.refuse_writing(create_type)?;
        }
        Ok(())
    }

    fn refuse_writing(&self, create_type: CreateType) -> Result<(), String> {
        if create_type == CreateType::StreamOptimized {
            return Err("it is compressed (streamOptimized), and cannot be written in its place; convert it first, or give readonly or temporary".into());
        }
        if self.tracks_changes {
            return Err("a record is kept of what changes in it (changeTrackPath), which would miss what is written here".into());
        }
        match self.parts.iter().find(|part| part.read_only || part.kind == Kind::Zero) {
            Some(part) if part.kind == Kind::Zero => {
                Err("a part of it is zeroes that cannot be written to".into())
            }
            Some(part) => Err(format!("its extent '{}' must not be written (RDONLY)", part.file)),
            None => Ok(()),
        }
    }

    /// The size of the disk in sectors; what is too large for that is refused.
    pub(super) fn sectors(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.sectors))
    }
}

impl Part {
    /// Reads a line like `RW 4192256 FLAT "disk-f001.vmdk" 0`.
    fn parse(line: &str) -> Option<Self> {
        let (told, quoted) = line.split_once('"').unwrap_or((line, ""));
        let (file, rest) = quoted.rsplit_once('"').unwrap_or(("", ""));
        let mut words = told.split_whitespace();
        let read_only = match words.next()? {
            "RW" => false,
            "RDONLY" => true,
            _ => return None,
        };
        let sectors = words.next()?.parse().ok().filter(|sectors| *sectors > 0)?;
        let kind = words.next()?;
        if words.next().is_some() {
            return None;
        }
        let mut rest = rest.split_whitespace();
        let offset = match rest.next() {
            Some(number) => Some(number.parse().ok()?),
            None => None,
        };
        let kind = match (kind, offset) {
            ("SPARSE", None) => Kind::Sparse,
            ("FLAT", Some(offset)) => Kind::Flat(offset),
            ("VMFS", offset) => Kind::Flat(offset.unwrap_or(0)),
            ("ZERO", None) => Kind::Zero,
            _ => return None,
        };
        let named = !file.is_empty();
        (rest.next().is_none() && named == (kind != Kind::Zero)).then(|| Self {
            sectors,
            kind,
            read_only,
            file: file.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\r\nversion=1\r\nCID = 0123abcd\r\nparentCID=ffffffff\r\n\
        createType=\"twoGbMaxExtentFlat\"\r\nencoding=\"UTF-8\"\r\n\r\n\
        RW 100 FLAT \"a \"b\" c-f001.vmdk\" 7\r\nRDONLY 3 ZERO\r\nRW 5 VMFS \"x\"\r\n#DDB\r\nddb.x = \"1\"\r\n\0junk";

    #[test]
    fn descriptors_are_read() {
        let found = Descriptor::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(found.create_type(), Some(CreateType::TwoGbMaxExtentFlat));
        assert_eq!((found.content, found.parent, found.sectors()), (0x0123_abcd, None, 108));
        assert_eq!(&TEXT[found.content_digits.clone().unwrap()], "0123abcd");
        let kinds: Vec<(Kind, bool, &str)> =
            found.parts.iter().map(|part| (part.kind, part.read_only, part.file.as_str())).collect();
        assert_eq!(
            kinds,
            [
                (Kind::Flat(7), false, "a \"b\" c-f001.vmdk"),
                (Kind::Zero, true, ""),
                (Kind::Flat(0), false, "x")
            ]
        );
        assert_eq!(found.refuse(false), Ok(()));
        assert!(found.refuse(true).unwrap_err().contains("zeroes"));
    }

    #[test]
    fn what_is_written_is_read() {
        let text = Descriptor::write(CreateType::MonolithicSparse, "a.vmdk", 2048, 0xfe);
        let found = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(found.refuse(true), Ok(()));
        assert_eq!(&text[found.content_digits.unwrap()], "000000fe");
        assert!(text.as_bytes().starts_with(&BEGINNING));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let parse = |from: &str, to: &str| {
            let text = TEXT.replacen(from, to, 1);
            Descriptor::parse(text.as_bytes()).and_then(|found| found.refuse(true)).unwrap_err()
        };
        assert!(parse("version=1", "version=9").contains("version 9"));
        assert!(parse("version=1", "#").contains("does not say"));
        assert!(parse("0123abcd", "x").contains("no number"));
        assert!(parse("ffffffff", "01020304").contains("parentCID=01020304"));
        assert!(parse("twoGbMaxExtentFlat", "fullDevice").contains("'fullDevice'"));
        assert!(parse("twoGbMaxExtentFlat", "monolithicSparse").contains("3 extents"));
        assert!(parse("RDONLY 3 ZERO", "changeTrackPath=\"a-ctk.vmdk\"").contains("changeTrackPath"));
        assert!(parse("RDONLY 3 ZERO", "RDONLY 3 SPARSE \"y\"").contains("RDONLY"));
        let huge = format!("RW {} ZERO", u64::MAX);
        assert!(parse("RDONLY 3 ZERO", &huge).contains("no size"));
        for line in [
            "NOACCESS 3 ZERO",
            "RW 0 ZERO",
            "RW 3 ZERO \"x\"",
            "RW 3 FLAT \"x\"",
            "RW 3 SPARSE",
            "RW 3 SESPARSE \"x\"",
            "RW",
            "RW 3 FLAT \"x\" 0 0",
            "RW 1 2 ZERO",
        ] {
            assert!(parse("RDONLY 3 ZERO", line).contains("not understood"), "{line}");
        }
        let many = "RW 1 ZERO\n".repeat(MAX_EXTENTS + 1);
        assert!(parse("RDONLY 3 ZERO", &many).contains("more than"));
    }
}
