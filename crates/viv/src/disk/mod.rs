//! `viv disk`: images of disks, made, converted, checked and changed.

mod check;
mod convert;
mod info;

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use viv_disk::qcow2::{self, Compression, CreateOptions};
use viv_disk::vmdk::Layout;
use viv_disk::{Access, DiskError, Format, NewDisk, NewFormat};

use crate::cli::{CompressionArg, CreateArgs, DiskCommand, LayoutArgs, RebaseArgs};
use crate::failure::Failure;
use crate::size::Size;

/// Does what is asked for, and returns what is to be printed, with the exit status.
pub fn command(command: DiskCommand) -> Result<(String, u8), Failure> {
    match command {
        DiskCommand::Create(args) => create(&args)?,
        DiskCommand::Info { file, output } => return info::run(&file, output.form).map(|text| (text, 0)),
        DiskCommand::Convert(args) => convert::run(&args)?,
        DiskCommand::Resize { format, shrink, file, size } => resize(&file, format, &size, shrink)?,
        DiskCommand::Check { repair, file, output } => return check::run(&file, repair, output.form),
        DiskCommand::Commit { file } => commit(&file)?,
        DiskCommand::Rebase(args) => rebase(&args)?,
    }
    Ok((String::new(), 0))
}

/// A failure with its remedy, where options of these commands are one.
fn failed(doing: &str, path: &Path, error: &DiskError) -> Failure {
    let failure = Failure::of(format!("{doing} {}", path.display()), error);
    match error {
        DiskError::Format { .. } => failure.remedy("state it with -f raw, -f qcow2 or -f vmdk"),
        _ => failure,
    }
}

/// The format of a file: the one that is stated, or else what its name and its contents agree on.
fn format_of(path: &Path, stated: Option<Format>) -> Result<Format, DiskError> {
    stated.map_or_else(|| Format::detect(path), Ok)
}

/// What a new file is to be: of the format that is stated, or else of that which its name stands for. Options that the
/// format does not have are refused.
fn new_format(path: &Path, stated: Option<Format>, layout: &LayoutArgs) -> Result<NewFormat, Failure> {
    let format = stated.unwrap_or_else(|| Format::named(path));
    let mut options = CreateOptions { extended_l2: layout.extended_l2, ..CreateOptions::default() };
    if let Some(Size(size)) = layout.cluster_size {
        options.cluster_size = size;
    }
    options.compression = match layout.compression {
        Some(CompressionArg::Zstd) => Compression::Zstd,
        Some(CompressionArg::Zlib) | None => Compression::Deflate,
    };
    let given = [
        ("--cluster-size", layout.cluster_size.is_some()),
        ("--compression", layout.compression.is_some()),
        ("--extended-l2", layout.extended_l2),
    ];
    match given.iter().find(|(_, given)| *given && format != Format::Qcow2) {
        Some((option, _)) => Err(Failure::new(*option, format!("a {format} image has nothing of the kind"))),
        None => Ok(match format {
            Format::Raw => NewFormat::Raw,
            Format::Qcow2 => NewFormat::Qcow2(options),
            Format::Vmdk => NewFormat::Vmdk(Layout::Sparse),
        }),
    }
}

fn create(args: &CreateArgs) -> Result<(), Failure> {
    let failed = |error: DiskError| failed("creating", &args.file, &error);
    let mut new = new_format(&args.file, args.format, &args.layout)?;
    let mut size = args.size.map(|size| size.0);
    if let Some(name) = &args.backing {
        let NewFormat::Qcow2(options) = &mut new else {
            let reason = format!("a {} image cannot have a backing file", new.format());
            return Err(Failure::new("--backing", reason).remedy("give -f qcow2"));
        };
        let path = viv_disk::backing_path(&args.file, name).map_err(failed)?;
        let below = backing_format(&path, args.backing_format)?;
        // Opened, so that a mistake shows now and not at the first start.
        let disk = viv_disk::open(&path, below, Access::ReadOnly).map_err(failed)?;
        size = size.or(Some(disk.size()));
        options.backing = Some((name.clone(), below));
    }
    let size = size.unwrap_or_default().next_multiple_of(viv_disk::SECTOR);
    if size == 0 {
        return Err(Failure::new(
            format!("creating {}", args.file.display()),
            "a disk has at least one byte",
        ));
    }
    NewDisk::create(&args.file, size, &new).and_then(NewDisk::finish).map_err(failed)
}

fn backing_format(path: &Path, stated: Option<Format>) -> Result<Format, Failure> {
    format_of(path, stated).map_err(|error| {
        let failure = Failure::of(format!("--backing {}", path.display()), &error);
        if matches!(error, DiskError::Format { .. }) {
            failure.remedy("give -F raw, -F qcow2 or -F vmdk")
        } else {
            failure
        }
    })
}

fn resize(path: &Path, stated: Option<Format>, wanted: &str, shrink: bool) -> Result<(), Failure> {
    let failed = |error: DiskError| failed("resizing", path, &error);
    let format = format_of(path, stated).map_err(failed)?;
    let (more, number) = wanted.strip_prefix('+').map_or((false, wanted), |rest| (true, rest));
    let usage = |why: String| Failure::new(format!("the size '{wanted}'"), why);
    let Size(mut size) = Size::parse(number).map_err(usage)?;
    if more {
        let now = viv_disk::open(path, format, Access::ReadOnly).map_err(failed)?.size();
        size = now.checked_add(size).ok_or_else(|| usage("no disk has that much".to_owned()))?;
    }
    match format {
        Format::Raw => viv_disk::resize_raw(path, size, shrink),
        Format::Qcow2 => qcow2::resize(path, size, shrink),
        Format::Vmdk => {
            let failure = Failure::new(format!("resizing {}", path.display()), "a vmdk image keeps its size");
            return Err(failure.remedy("convert it to qcow2 or raw first, with `viv disk convert`"));
        }
    }
    .map_err(failed)
}

fn commit(path: &Path) -> Result<(), Failure> {
    let size = qcow2::info(path).map(|info| info.size);
    let size = size.map_err(|error| failed("committing", path, &error))?;
    let bar = bar("committing", size);
    let done = viv_disk::commit(path, &mut |at| bar.set_position(at));
    bar.finish_and_clear();
    done.map_err(|error| failed("committing", path, &error))
}

fn rebase(args: &RebaseArgs) -> Result<(), Failure> {
    let failed = |error: DiskError| failed("rebasing", &args.file, &error);
    let to: Option<(PathBuf, Format)> = if args.backing.is_empty() {
        None
    } else {
        let path = viv_disk::backing_path(&args.file, Path::new(&args.backing)).map_err(failed)?;
        Some((args.backing.clone().into(), backing_format(&path, args.backing_format)?))
    };
    let to = to.as_ref().map(|(path, format)| (path.as_path(), *format));
    if args.unchecked {
        return qcow2::set_backing(&args.file, to).map_err(failed);
    }
    let bar = bar("rebasing", qcow2::info(&args.file).map_err(failed)?.size);
    let done = viv_disk::rebase(&args.file, to, &mut |at| bar.set_position(at));
    bar.finish_and_clear();
    done.map_err(failed)
}

/// A bar for so many bytes on a terminal; nothing elsewhere.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let target =
        if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style = ProgressStyle::with_template("{msg} {bar:24} {percent}% of {total_bytes} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}
