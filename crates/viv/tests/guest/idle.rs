//! What a guest costs that does nothing.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::thread;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

use crate::debian::{debian, is_tortured, vm_process};
use crate::ended::{Guard, start};

/// How long a system is left alone before it counts as idle: its kernel still has things to put off.
const SETTLING: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(10);

#[test]
fn an_idle_guest_costs_less_than_3_percent_of_a_processor() {
    let mut viv = start(&mut debian(&["bash", "-c", "echo idle; read line"]));
    let _guard = Guard::of(&viv);
    let mut line = String::new();
    BufReader::new(viv.stdout.take().expect("piped")).read_line(&mut line).expect("said");
    assert_eq!(line, "idle\n");
    let vm = vm_process(&viv);
    thread::sleep(SETTLING);
    let before = ticks(vm);
    thread::sleep(MEASURED);
    let spent = ticks(vm) - before;
    drop(viv.stdin.take());
    viv.wait().expect("ends");
    let allowed = clock_ticks_per_second() * MEASURED.as_secs() * 3 / 100;
    if is_tortured() {
        // What little an idle system does is some 20 times as much work then. Not by a macro, whose output is kept back.
        let said =
            format!("no limit under torture: {spent} ticks of processor time, else {allowed} are allowed\n");
        io::stderr().write_all(said.as_bytes()).expect("said");
        return;
    }
    assert!(spent < allowed, "{spent} ticks of processor time in {MEASURED:?}, {allowed} are allowed");
}

/// Processor time that a process has spent, in ticks: fields 14 and 15 of its `stat` (proc(5)).
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    // Its name, the second field, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    [11, 12].iter().map(|&n| fields[n].parse::<u64>().expect("a number")).sum()
}
