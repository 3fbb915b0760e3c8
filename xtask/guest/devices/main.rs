//! The program behind `cargo xtask bench devices`: pieces of work for a guest's devices, each timed by the clock of the
//! system that it runs on. It is built, started and speaks as the one in `../workloads`:
//!
//! ```text
//! devices --list                    the names of all rows, each after its group's
//! devices disk FILE ROW…            these rows on this file
//! devices network PORT SERVED IPERF3 ROW…
//!                                   these rows with the server at this port; what it fetches, it fetches at port SERVED;
//!                                   iperf3's server is at port IPERF3
//! devices serve                     that server, on the host, for as long as its standard input is open
//! devices share DIRECTORY ROW…      these rows in this directory
//! ```
//!
//! As process 1 it does the same in a guest, past the cache, across the network card or in the directory that the guest is
//! given, and powers off.
//!
//! - [`disk`], [`network`], [`share`]: the groups. That of other devices goes beside them.

mod disk;
mod network;
mod share;
#[path = "../workloads/system.rs"]
#[allow(dead_code)]
mod system;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use disk::Disk;
use network::Network;
use share::Share;

fn main() {
    std::panic::set_hook(Box::new(|panic| say(&format!("@failed {}", panic.to_string().replace('\n', " ")))));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--list"] => {
            disk::ROWS.iter().for_each(|row| say(&format!("disk {}", row.name)));
            network::ROWS.iter().for_each(|row| say(&format!("network {}", row.name)));
            share::ROWS.iter().for_each(|row| say(&format!("share {}", row.name)));
        }
        ["serve"] => network::serve(),
        work if is_guest() => {
            system::load_modules();
            run(work);
            system::power_off();
        }
        work => run(work),
    }
}

/// Whether this is the first process of a guest, rather than a program on the host.
fn is_guest() -> bool {
    std::process::id() == 1
}

/// Runs the rows of a group.
fn run(work: &[&str]) {
    match work {
        ["disk", file, names @ ..] => {
            system::await_file(Path::new(file));
            let disk = Disk::open(Path::new(file), is_guest());
            for row in named(names, disk::ROWS, |row| row.name) {
                measure(row.name, || disk.work(row));
            }
        }
        ["network", port, served, iperf3, names @ ..] => {
            let [port, served, iperf3] =
                [port, served, iperf3].map(|port| port.parse().expect("a port is a number"));
            let network =
                if is_guest() { Network::guests(port, served, iperf3) } else { Network::hosts(port, iperf3) };
            for row in named(names, network::ROWS, |row| row.name) {
                network.prepare(row);
                measure(row.name, || network.work(row));
            }
        }
        ["share", directory, names @ ..] => {
            let share = if is_guest() { Share::guests() } else { Share::hosts(Path::new(directory)) };
            for row in named(names, share::ROWS, |row| row.name) {
                share.prepare(row);
                measure(row.name, || share.work(row));
            }
        }
        _ => panic!("there is no such group: {}", work.join(" ")),
    }
}

/// The rows of these names.
fn named<'a, R>(
    names: &'a [&str],
    rows: &'a [R],
    name_of: impl Fn(&R) -> &str + 'a,
) -> impl Iterator<Item = &'a R> {
    names
        .iter()
        .map(move |name| rows.iter().find(|row| name_of(row) == *name).expect("the row is in the list"))
}

fn measure(name: &str, work: impl FnOnce() -> u64) {
    say(&format!("@begin {name}"));
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed().as_secs_f64();
    say(&format!("@end {name} {took:.6} {result:016x}"));
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}
