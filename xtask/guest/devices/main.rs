//! The program behind `cargo xtask bench devices`: pieces of work for a guest's devices, each timed by the clock of the
//! system that it runs on. It is built, started and speaks as the one in `../workloads`:
//!
//! ```text
//! devices --list                    the names of all rows, each after its group's
//! devices disk FILE ROW…            these rows on this file
//! devices network PORT SERVED ROW…  these rows with the server at this port; what it fetches, it fetches at port SERVED
//! devices serve                     that server, on the host, for as long as its standard input is open
//! ```
//!
//! As process 1 it does the same in a guest, past the cache or across the network card, and powers off.
//!
//! - [`disk`], [`network`]: the groups. That of other devices goes beside them.

mod disk;
mod network;
#[path = "../workloads/system.rs"]
#[allow(dead_code)]
mod system;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use disk::Disk;
use network::Network;

fn main() {
    std::panic::set_hook(Box::new(|panic| say(&format!("@failed {}", panic.to_string().replace('\n', " ")))));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--list"] => {
            disk::ROWS.iter().for_each(|row| say(&format!("disk {}", row.name)));
            network::ROWS.iter().for_each(|row| say(&format!("network {}", row.name)));
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
            names.iter().for_each(|name| measure(name, disk::ROWS, |row| row.name, |row| disk.work(row)));
        }
        ["network", port, served, names @ ..] => {
            let [port, served] = [port, served].map(|port| port.parse().expect("a port is a number"));
            let network = if is_guest() { Network::guests(port, served) } else { Network::hosts(port) };
            names.iter().for_each(|name| measure(name, network::ROWS, |row| row.name, |row| network.work(row)));
        }
        _ => panic!("there is no such group: {}", work.join(" ")),
    }
}

fn measure<R>(name: &str, rows: &[R], name_of: impl Fn(&R) -> &str, work: impl Fn(&R) -> u64) {
    let row = rows.iter().find(|row| name_of(row) == name).expect("the row is in the list");
    say(&format!("@begin {name}"));
    let begun = Instant::now();
    let result = work(row);
    let took = begun.elapsed().as_secs_f64();
    say(&format!("@end {name} {took:.6} {result:016x}"));
}

/// A line that is out when this returns.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output takes a line");
}
