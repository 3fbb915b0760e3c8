//! Work for a guest's devices, under both contenders, and for the host's own. Each group of rows has what it works on, and
//! a table: [`disks`], [`networks`], [`shares`].

mod disks;
mod networks;
mod shares;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Bench;
use super::contender::Placement;
use super::figures::Workloads;
use super::workloads;

/// Guest RAM in MiB.
const MEMORY: u64 = 512;

/// How a group is measured.
type Measure = fn(&Group<'_>) -> Result<Workloads>;

/// The groups, by the names that the program has for them.
const GROUPS: [(&str, Measure); 3] =
    [("disk", disks::measure), ("network", networks::measure), ("share", shares::measure)];

/// The rows that are wanted of one group.
struct Group<'a> {
    /// The root of the repository.
    root: &'a Path,
    bench: &'a Bench,
    /// The program with the rows, and the initial RAM disk with it.
    program: &'a Path,
    initrd: &'a Path,
    rows: Vec<String>,
}

impl Group<'_> {
    /// The program's words for these rows: the group, what it works on, the rows.
    fn words<const N: usize>(&self, on: [&str; N]) -> Vec<String> {
        on.into_iter().map(str::to_owned).chain(self.rows.iter().cloned()).collect()
    }
}

/// Runs everything alternately, as often as was asked for: a table for each group.
pub fn measure(root: &Path, bench: &Bench) -> Result<Vec<Workloads>> {
    let program = workloads::compile(&root.join("xtask/guest/devices/main.rs"), &bench.directory)?;
    let initrd = bench.initrd(&program)?;
    let list = workloads::list(&program)?;
    let known: Vec<&str> = list.lines().filter_map(|line| line.split_once(' ')).map(|(_, row)| row).collect();
    workloads::check_rows(&known, &bench.rows)?;
    let group = |name: &str| Group {
        root,
        bench,
        program: &program,
        initrd: &initrd,
        rows: rows(&list, name, &bench.rows),
    };
    let mut tables = Vec::new();
    for (name, measure) in GROUPS {
        let group = group(name);
        if !group.rows.is_empty() {
            tables.push(measure(&group)?);
        }
    }
    Ok(tables)
}

/// The rows of a group among those that are wanted, all if none is named.
fn rows(list: &str, group: &str, wanted: &[String]) -> Vec<String> {
    let of_group = list.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(' '));
    of_group
        .filter(|row| wanted.is_empty() || wanted.iter().any(|name| name == row))
        .map(str::to_owned)
        .collect()
}

/// The program on the host, where a guest would be, with these words.
fn native(group: &Group<'_>, placement: Placement, words: &[String]) -> Command {
    let mut command = placement.command(group.bench.processor);
    command.arg(group.program).args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_gets_its_rows() {
        let list = "disk a\ndisk b\nnetwork c\n";
        assert_eq!(rows(list, "disk", &[]), ["a", "b"]);
        assert_eq!(rows(list, "network", &["b".to_owned(), "c".to_owned()]), ["c"]);
        assert!(rows(list, "network", &["a".to_owned()]).is_empty());
    }
}
