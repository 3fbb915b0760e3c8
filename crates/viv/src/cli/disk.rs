//! `viv disk`: its subcommands, their options and their help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use viv_disk::Format;

use super::OutputArg;
use crate::size::Size;

/// `viv disk`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make an empty disk
    Create(CreateArgs),
    /// Tell what an image says about itself
    Info {
        /// The image
        file: PathBuf,
        /// How to print it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Copy a disk into a new image, of the same or another format
    Convert(ConvertArgs),
    /// Make a disk larger, or smaller
    Resize {
        /// Format of the image
        #[arg(long, short, value_name = "FORMAT")]
        format: Option<Format>,
        /// Allow what lies behind the new end to be lost
        #[arg(long)]
        shrink: bool,
        /// The image
        file: PathBuf,
        /// The new size: a number with K, M, G or T, or with + before it how much there is to be more
        #[arg(value_name = "[+]SIZE")]
        size: String,
    },
    /// Look for damage in a qcow2 image, and repair it
    #[command(after_long_help = "Exit status:
  0  nothing is wrong, or not any more
  1  the check could not be made
  2  something is wrong that endangers data
  3  clusters have leaked: nothing but space is lost")]
    Check {
        /// Repair what is wrong, or only give leaked clusters back
        #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true)]
        #[arg(default_missing_value = "all")]
        repair: Option<RepairArg>,
        /// The image
        file: PathBuf,
        /// How to print it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Write what a qcow2 image holds into its backing file, and empty it
    Commit {
        /// The image
        file: PathBuf,
    },
    /// Give a qcow2 image another backing file
    Rebase(RebaseArgs),
}

/// What `viv disk create` takes.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Format of the image [default: qcow2 or vmdk for a name that ends so, else raw]
    #[arg(long, short, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Image that shows where nothing is written yet; it must not change from then on
    #[arg(long, short, value_name = "FILE")]
    pub backing: Option<PathBuf>,
    /// Format of the backing file
    #[arg(long, short = 'F', value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<Format>,
    /// How the image is made inside
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// The image, which must not be there yet
    pub file: PathBuf,
    /// Size of the disk: a number with K, M, G or T [default: that of the backing file]
    #[arg(value_parser = Size::parse, required_unless_present = "backing")]
    pub size: Option<Size>,
}

/// How a qcow2 image is made inside.
#[derive(Debug, Args)]
pub struct LayoutArgs {
    /// Bytes in a cluster of a qcow2 image, from 512 to 2M
    #[arg(long, value_name = "SIZE", value_parser = Size::parse)]
    pub cluster_size: Option<Size>,
    /// How clusters of a qcow2 image are compressed
    #[arg(long, value_enum, value_name = "HOW")]
    pub compression: Option<CompressionArg>,
    /// Give clusters 32 parts, which take less to write to for the first time
    #[arg(long)]
    pub extended_l2: bool,
}

/// What `viv disk convert` takes.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Format of the source
    #[arg(long, short, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Format of the copy [default: qcow2 or vmdk for a name that ends so, else raw]
    #[arg(long, short = 'O', value_name = "FORMAT")]
    pub output_format: Option<Format>,
    /// Compress the copy, which has to be qcow2, or vmdk (streamOptimized, read alone from then on)
    #[arg(long, short)]
    pub compress: bool,
    /// How the copy is made inside
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// What is copied
    pub source: PathBuf,
    /// The copy, which must not be there yet
    pub target: PathBuf,
}

/// What `viv disk rebase` takes.
#[derive(Debug, Args)]
pub struct RebaseArgs {
    /// Only write the name into the image: for a backing file that was moved or renamed
    #[arg(long = "unsafe", short = 'u')]
    pub unchecked: bool,
    /// The backing file as the image is to name it, or '' for none
    // The parser of paths takes no empty one.
    #[arg(long, short, value_name = "FILE", required = true, value_parser = clap::value_parser!(OsString))]
    pub backing: OsString,
    /// Format of the backing file
    #[arg(long, short = 'F', value_name = "FORMAT")]
    pub backing_format: Option<Format>,
    /// The image
    pub file: PathBuf,
}

/// `--compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// Deflate, which every program reads
    Zlib,
    /// Zstandard, which is faster
    Zstd,
}

/// `--repair`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RepairArg {
    /// Leaked clusters
    Leaks,
    /// All that can be
    All,
}
