//! Images: had for a run, listed, built, removed.

use std::error::Error;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use viv_image::{ImageHandle, ImageName, Metadata, Store, overlay, store};

use crate::cli::{ImageCommand, Output};
use crate::failure::Failure;
use crate::progress::Building;

/// Does what `viv image` was asked to, and returns what to print.
pub fn command(command: ImageCommand) -> Result<String, Failure> {
    match command {
        ImageCommand::Ls { output } => list(output.form),
        ImageCommand::Rm { names } => names.iter().map(|name| remove(&open()?, name)).collect(),
        ImageCommand::Build { name } => {
            let image = ensure(&open()?, named(&name)?)?;
            Ok(format!("{} is built, with kernel {}\n", image.name(), image.metadata().kernel_version))
        }
    }
}

/// This user's store.
pub fn open() -> Result<Store, Failure> {
    Store::open().map_err(|error| Failure::of("opening the image store", &error))
}

/// The image of that name.
pub fn named(name: &str) -> Result<ImageName, Failure> {
    name.parse().map_err(|error: viv_image::name::UnknownName| Failure::line(error.to_string()))
}

/// The image, built first if it is not there; its user is shown how far that is.
///
/// A signal calls the building off, which is a failure with that signal's status.
pub fn ensure(store: &Store, name: ImageName) -> Result<ImageHandle, Failure> {
    let failed = |error: &dyn Error| Failure::of(format!("preparing image {name}"), error);
    let came = Arc::new(AtomicUsize::new(0));
    let mut registered = Vec::new();
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let number = signal.unsigned_abs() as usize;
        registered.push(flag::register_usize(signal, Arc::clone(&came), number).map_err(|e| failed(&e))?);
    }
    let result = store.ensure(name, &Building::new(name.to_string(), Arc::clone(&came)));
    for id in registered {
        signal_hook::low_level::unregister(id);
    }
    result.map_err(|error| match came.load(Ordering::Relaxed) {
        0 => Failure::of("", &error),
        signal => Failure::new(format!("preparing image {name}"), format!("stopped by signal {signal}"))
            .remedy("nothing of it is left behind")
            .status(128 + signal as u8),
    })
}

/// What `viv image ls -o json` prints.
#[derive(Debug, Serialize)]
struct Listing {
    /// The directory that they are in.
    store: PathBuf,
    /// The images that are here.
    images: Vec<Metadata>,
    /// The names of those that can be built.
    available: Vec<String>,
    /// The disks kept of guests.
    kept: Vec<overlay::Record>,
}

fn list(form: Output) -> Result<String, Failure> {
    let failed = |error: &dyn Error| Failure::of("listing images", error);
    let store = open()?;
    let found = store.list().map_err(|error| failed(&error))?;
    let images: Vec<Metadata> =
        found.into_iter().collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    let is_here = |name: &String| images.iter().any(|image| image.name == *name);
    let available = ImageName::all().map(|name| name.to_string()).filter(|name| !is_here(name)).collect();
    let kept = store.kept().map_err(|error| failed(&error))?;
    let listing = Listing { store: store.path().to_owned(), images, available, kept };
    match form {
        Output::Table => Ok(listing.to_table()),
        Output::Json => {
            let json = serde_json::to_string_pretty(&listing).map_err(|error| failed(&error))?;
            Ok(json + "\n")
        }
    }
}

impl Listing {
    fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["NAME", "STATE", "KERNEL", "SIZE", "BUILT"]);
        for image in &self.images {
            table.add_row([
                image.name.clone(),
                "ready".to_owned(),
                image.kernel_version.clone(),
                BinaryBytes(image.stored_size).to_string(),
                ago(image.created_at()),
            ]);
        }
        for name in &self.available {
            table.add_row([name.as_str(), "built when first run"]);
        }
        for kept in &self.kept {
            table.add_row([kept.name.clone(), format!("kept disk of {}", kept.image)]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt() + "\n"
    }
}

/// How long ago that was.
fn ago(time: SystemTime) -> String {
    let passed = SystemTime::now().duration_since(time).unwrap_or_default();
    format!("{} ago", HumanDuration(passed))
}

/// Removes the image or the kept disk of that name.
fn remove(store: &Store, name: &str) -> Result<String, Failure> {
    fn done(name: impl Display) -> String {
        format!("removed {name}\n")
    }
    let failed = |error: &dyn Error| Failure::of(format!("removing {name}"), error);
    match name.parse::<ImageName>() {
        Ok(image) => match store.remove(image, &viv_image::Silent) {
            Ok(()) => Ok(done(image)),
            Err(error @ store::Error::Absent(_)) => Err(failed(&error).remedy("see viv image ls")),
            Err(error) => Err(failed(&error)),
        },
        Err(unknown) => match store.remove_kept(name) {
            Ok(()) => Ok(done(name)),
            // Neither: the names of images that it is like help more than that no disk is called so.
            Err(overlay::Error::Absent(_) | overlay::Error::Name(_)) => Err(failed(&unknown)),
            Err(error) => Err(failed(&error)),
        },
    }
}
