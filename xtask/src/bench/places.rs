//! The same rows in every place.

use std::process::Command;

use anyhow::{Context, Result};

use super::boot;
use super::contender::{Contender, Guest};
use super::figures::{Place, Runs, Workloads};
use super::session::Session;
use super::workloads;

/// Runs the rows of `guest` and of the program that `native` makes for the host alternately, as often as was asked for.
pub fn alternate(what: &str, guest: &Guest<'_>, native: impl Fn() -> Result<Command>) -> Result<Workloads> {
    alternate_in(&[Place::Native, Place::Viv, Place::Tcg], what, guest, native)
}

/// The same in these places, of which the host is one.
pub fn alternate_in(
    places: &[Place],
    what: &str,
    guest: &Guest<'_>,
    native: impl Fn() -> Result<Command>,
) -> Result<Workloads> {
    let mut runs = Runs::default();
    for number in 1..=guest.bench.runs {
        for &place in places {
            let mut command = match place {
                Place::Native => native()?,
                Place::Viv => Contender::Viv.command(guest),
                Place::Tcg => Contender::Tcg.command(guest),
                Place::Passt => Contender::Tcg.command(&guest.with_passt()),
            };
            let mut session = Session::start(&mut command)?;
            let timed = workloads::follow(&mut session).with_context(|| format!("{what}, {place}"))?;
            let ended = session.end().with_context(|| format!("{what}, {place}"))?;
            let rate = if place == Place::Viv { boot::rate(&ended.errors)? } else { None };
            eprintln!("{what} {number} of {}, {place}: {:.1} s", guest.bench.runs, ended.whole);
            runs.add(place, timed, rate.map(|(_, rate)| rate));
        }
    }
    runs.sum()
}
