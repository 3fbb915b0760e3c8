//! `viv disk info`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use viv_disk::Format;
use viv_disk::qcow2::{self, Compression, Info};

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
#[serde(rename_all = "kebab-case")]
struct Image {
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
    let image = match format {
        Format::Raw => None,
        Format::Qcow2 => Some(qcow2::info(path).map_err(failed)?),
    };
    let report = Report {
        filename: path.to_string_lossy().into_owned(),
        format: format.to_string(),
        virtual_size: image.as_ref().map_or(metadata.len(), |image| image.size),
        actual_size: metadata.blocks() * 512,
        image: image.map(Image::from),
    };
    match form {
        Output::Table => Ok(report.to_table()),
        Output::Json => serde_json::to_string_pretty(&report)
            .map(|json| json + "\n")
            .map_err(|error| Failure::of("writing the report", &error)),
    }
}

impl From<Info> for Image {
    fn from(info: Info) -> Self {
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

impl Report {
    fn to_table(&self) -> String {
        let mut rows = vec![
            ("file", self.filename.clone()),
            ("format", self.format.clone()),
            ("size", Size(self.virtual_size).to_string()),
            ("space taken", Size(self.actual_size).to_string()),
        ];
        if let Some(image) = &self.image {
            rows.push(("version", image.version.to_string()));
            rows.push(("cluster size", Size(image.cluster_size).to_string()));
            rows.push(("refcount bits", image.refcount_bits.to_string()));
            let features = [
                ("subclusters", image.extended_l2),
                ("zstd", image.compression_type == Some("zstd")),
                ("lazy refcounts", image.lazy_refcounts),
                ("not closed", image.dirty_flag),
                ("corrupt", image.corrupt),
                ("encrypted", image.encrypted),
            ];
            let has: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
            if !has.is_empty() {
                rows.push(("features", has.join(", ")));
            }
            if let Some(name) = &image.backing_filename {
                let format =
                    image.backing_filename_format.as_deref().unwrap_or("of a format that is not stated");
                rows.push(("backing file", format!("{name}, {format}")));
            }
            for snapshot in &image.snapshots {
                rows.push(("snapshot", format!("{} {}", snapshot.id, snapshot.name)));
            }
            if let Some(why) = &image.refused {
                rows.push(("cannot be used", why.clone()));
            }
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
