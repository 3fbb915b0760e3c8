//! `viv disk info`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use viv_disk::qcow2::{self, Compression};
use viv_disk::{Format, vmdk};

use super::failed;
use crate::cli::Output;
use crate::failure::{Failure, one_line};
use crate::size::Size;

/// What `-o json` prints; the names are those of `qemu-img info`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    filename: String,
    format: String,
    virtual_size: u64,
    /// What the file takes on the host.
    actual_size: u64,
    #[serde(flatten)]
    image: Option<Image>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Image {
    Qcow2(Box<Qcow2>),
    Vmdk(Vmdk),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Vmdk {
    create_type: String,
    cid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_cid: Option<u32>,
    /// Bytes of a grain.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_size: Option<u64>,
    extents: Vec<Extent>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Extent {
    filename: String,
    format: &'static str,
    virtual_size: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Qcow2 {
    version: u32,
    cluster_size: u64,
    refcount_bits: u32,
    extended_l2: bool,
    compression_type: Option<&'static str>,
    lazy_refcounts: bool,
    dirty_flag: bool,
    corrupt: bool,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing_filename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing_filename_format: Option<String>,
    snapshots: Vec<Snapshot>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Snapshot {
    id: String,
    name: String,
    date_sec: u32,
    vm_state_size: u64,
}

/// Reads what an image says about itself, and nothing of what it refers to.
pub fn run(path: &Path, form: Output) -> Result<String, Failure> {
    let failed = |error| failed("reading", path, &error);
    let format = Format::begins_like(path).map_err(failed)?;
    let metadata =
        path.metadata().map_err(|error| Failure::of(format!("reading {}", path.display()), &error))?;
    let (size, image) = match format {
        Format::Raw => (metadata.len(), None),
        Format::Qcow2 => {
            let info = qcow2::info(path).map_err(failed)?;
            (info.size, Some(Image::Qcow2(Box::new(info.into()))))
        }
        Format::Vmdk => {
            let info = vmdk::info(path).map_err(failed)?;
            (info.size, Some(Image::Vmdk(info.into())))
        }
    };
    let report = Report {
        filename: path.to_string_lossy().into_owned(),
        format: format.to_string(),
        virtual_size: size,
        actual_size: metadata.blocks() * 512,
        image,
    };
    match form {
        Output::Table => Ok(report.to_table()),
        Output::Json => serde_json::to_string_pretty(&report)
            .map(|json| json + "\n")
            .map_err(|error| Failure::of("writing the report", &error)),
    }
}

impl From<qcow2::Info> for Qcow2 {
    fn from(info: qcow2::Info) -> Self {
        let snapshots = info.snapshots.into_iter().map(|snapshot| Snapshot {
            id: snapshot.id,
            name: snapshot.name,
            date_sec: snapshot.seconds,
            vm_state_size: snapshot.vm_state,
        });
        Self {
            version: info.version,
            cluster_size: info.cluster_size,
            refcount_bits: info.refcount_bits,
            extended_l2: info.extended_l2,
            compression_type: info.compression.map(|how| match how {
                Compression::Deflate => "zlib",
                Compression::Zstd => "zstd",
            }),
            lazy_refcounts: info.lazy_refcounts,
            dirty_flag: info.dirty,
            corrupt: info.corrupt,
            encrypted: info.encrypted,
            backing_filename: info.backing.map(|name| name.to_string_lossy().into_owned()),
            backing_filename_format: info
                .backing_format
                .map(|format| format.map_or_else(|other| other, |known| known.to_string())),
            snapshots: snapshots.collect(),
            refused: info.refused,
        }
    }
}

impl From<vmdk::Info> for Vmdk {
    fn from(info: vmdk::Info) -> Self {
        let extents = info.extents.into_iter().map(|extent| Extent {
            filename: extent.file,
            format: extent.kind,
            virtual_size: extent.size,
        });
        Self {
            create_type: info.create_type,
            cid: info.content_id,
            parent_cid: info.parent_content_id,
            cluster_size: info.grain_size,
            extents: extents.collect(),
            refused: info.refused,
        }
    }
}

/// A row of the table.
type Row = (&'static str, String);

impl Qcow2 {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![("version", self.version.to_string())];
        rows.push(("cluster size", Size(self.cluster_size).to_string()));
        rows.push(("refcount bits", self.refcount_bits.to_string()));
        let features = [
            ("subclusters", self.extended_l2),
            ("zstd", self.compression_type == Some("zstd")),
            ("lazy refcounts", self.lazy_refcounts),
            ("not closed", self.dirty_flag),
            ("corrupt", self.corrupt),
            ("encrypted", self.encrypted),
        ];
        let has: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        if !has.is_empty() {
            rows.push(("features", has.join(", ")));
        }
        if let Some(name) = &self.backing_filename {
            let format = self.backing_filename_format.as_deref().unwrap_or("of a format that is not stated");
            rows.push(("backing file", format!("{name}, {format}")));
        }
        for snapshot in &self.snapshots {
            rows.push(("snapshot", format!("{} {}", snapshot.id, snapshot.name)));
        }
        if let Some(why) = &self.refused {
            rows.push(("cannot be used", why.clone()));
        }
        rows
    }
}

impl Vmdk {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![("type", self.create_type.clone())];
        rows.extend(self.cluster_size.map(|size| ("grain size", Size(size).to_string())));
        rows.extend(self.extents.iter().map(|extent| {
            let Extent { filename, format, virtual_size } = extent;
            ("extent", format!("{format} of {} {filename}", Size(*virtual_size)).trim_end().to_owned())
        }));
        rows.extend(self.refused.iter().map(|why| ("cannot be used", why.clone())));
        rows
    }
}

impl Report {
    fn to_table(&self) -> String {
        let mut rows = vec![
            ("file", self.filename.clone()),
            ("format", self.format.clone()),
            ("size", Size(self.virtual_size).to_string()),
            ("space taken", Size(self.actual_size).to_string()),
        ];
        match &self.image {
            None => {}
            Some(Image::Qcow2(image)) => rows.extend(image.rows()),
            Some(Image::Vmdk(image)) => rows.extend(image.rows()),
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        for (name, value) in rows {
            table.add_row([name.to_owned(), one_line(&value)]);
        }
        let lines: Vec<String> = table.to_string().lines().map(|line| line.trim().to_owned()).collect();
        lines.join("\n") + "\n"
    }
}
