//! The program inside a light guest: its first process, and the host's hand in it.
//!
//! The kernel starts it from the initial RAM disk as `/init`. It makes the devices work, finds the root file
//! system and enters it, tells the host that it is ready, runs the one program it is asked to run, and
//! powers the machine off when that program has ended.
//!
//! | part | subject |
//! |---|---|
//! | [`init`] | the order of things, from the first mount to power-off |
//! | [`boot`], [`modules`] | file systems, kernel modules, the change of root |
//! | [`link`], [`port`] | the host's end: named console ports (see `viv-guest-proto`) |
//! | [`supervise`] | the program's life: started, signalled, waited for |
//! | [`launch`] | the child between this program and the one it runs: session, terminal, exec |
//! | [`pump`] | standard streams between pipes and ports |
//! | [`plan`] | what to run and in which environment, as pure functions |
//! | [`power`] | the way down: processes, mounts, power |
//! | [`network`] | its interfaces, the loopback first; name servers |
//! | [`dhcp`] | addresses for those that the host gave none |
//! | [`share`], [`pmem`] | directories of the host, and files as memory |
//! | [`report`] | messages on the console |
//!
//! It is one static program without `unsafe`, small enough to go into every initial RAM disk. It must not
//! know which virtual machine monitor it runs under: it needs virtio devices and an ext4 file system. It
//! fails by telling the host why, or the kernel's console if there is no host to tell, and powering off; a
//! guest that could not start never lingers.
#![forbid(unsafe_code)]

mod boot;
mod dhcp;
mod init;
mod launch;
mod link;
mod modules;
mod network;
mod plan;
mod pmem;
mod port;
mod power;
mod pump;
mod report;
mod share;
mod supervise;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First, since the kernel hands words of its command line to the first process as arguments.
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        init::run();
    }
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == launch::ARGUMENT) {
        return launch::run(args);
    }
    eprintln!("viv-guest: this program is the first process of a guest and is not run by hand");
    ExitCode::from(2)
}
