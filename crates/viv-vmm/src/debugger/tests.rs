//! Debuggers that speak for themselves, the protocol and what is none.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use viv_soft::SoftEngine;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::Notice;
use crate::machine::tests::bench::Bench;
use crate::protocol::MachineState;

/// `mov al, 1; again: inc rax; mov [0x5000], eax; jmp again`, in long mode at 1 MiB.
const CODE: [u8; 14] = [0xb0, 1, 0x48, 0xff, 0xc0, 0x89, 0x04, 0x25, 0, 0x50, 0, 0, 0xeb, 0xf4];
/// Where a round begins.
const AGAIN: u64 = 0x10_0002;

/// A machine with what its owner does for a debugger, and the path where one attaches.
struct Owner {
    bench: Bench,
    debugger: Debugger,
    directory: tempfile::TempDir,
    wish: Option<Wish>,
}

impl Owner {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("gdb")).unwrap();
        let mut bench = Bench::with(&SoftEngine::default(), &CODE, |mut config| {
            (config.vcpus, config.max_vcpus) = (2, 2);
            crate::config::tests::kernel(&mut config).protocol = crate::config::BootProtocol::Linux64;
            config
        });
        let debugger = Debugger::new(OwnedFd::from(listener), &mut bench.machine);
        bench.machine.start().unwrap();
        Self { bench, debugger, directory, wish: None }
    }

    fn connect(&mut self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("gdb")).unwrap();
        self.turn();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Does one thing that there is to do.
    fn turn(&mut self) {
        let machine = &mut self.bench.machine;
        let wish = match machine.take_notice() {
            Some(Notice::Debug { vcpu, stop }) => self.debugger.stopped(vcpu, stop, machine).unwrap(),
            // A guest whose registers are anything may do anything.
            Some(_) => None,
            None => {
                let ready = {
                    let debugger = PollFd::from_borrowed_fd(self.debugger.fd(), PollFlags::IN);
                    let noticed = PollFd::from_borrowed_fd(machine.noticed(), PollFlags::IN);
                    let mut fds = [debugger, noticed];
                    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
                    assert_ne!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 0, "nothing to do");
                    !fds[0].revents().is_empty()
                };
                if ready { self.debugger.ready(machine).unwrap() } else { None }
            }
        };
        self.wish = wish.or(self.wish.take());
    }

    /// Sends a packet and gives the answer, which comes when the guest has stopped again.
    fn ask(&mut self, stream: &mut UnixStream, payload: &str) -> String {
        let sum = payload.bytes().fold(0u8, u8::wrapping_add);
        stream.write_all(format!("+${payload}#{sum:02x}").as_bytes()).unwrap();
        self.hear(stream)
    }

    fn hear(&mut self, stream: &mut UnixStream) -> String {
        let mut answer = Vec::new();
        loop {
            stream.set_nonblocking(true).unwrap();
            let mut room = [0; 4096];
            match stream.read(&mut room) {
                Ok(0) => panic!("closed after {:?}", String::from_utf8_lossy(&answer)),
                Ok(count) => answer.extend_from_slice(&room[..count]),
                Err(_) => self.turn(),
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((body, sum)) = text.split_once('$').and_then(|(_, packet)| packet.split_once('#'))
                && sum.len() == 2
            {
                return body.to_owned();
            }
        }
    }

    fn rip(&self) -> u64 {
        self.bench.machine.vcpus()[0].vcpu().save().unwrap().rip
    }
}

#[test]
fn a_guest_waits_stops_and_steps() {
    let mut owner = Owner::new();
    let mut gdb = owner.connect();
    assert_eq!(owner.rip(), 0x10_0000, "it has begun");
    assert_eq!(owner.ask(&mut gdb, "Z0,100002,1"), "OK");
    for _ in 0..3 {
        let answer = owner.ask(&mut gdb, "vCont;c");
        assert!(answer.starts_with("T05") && answer.contains("thread"), "{answer}");
        assert_eq!(owner.rip(), AGAIN);
        assert_eq!(owner.ask(&mut gdb, "z0,100002,1"), "OK");
        assert!(owner.ask(&mut gdb, "vCont;s:1").starts_with("T05"));
        assert_eq!(owner.rip(), AGAIN + 3);
        assert_eq!(owner.ask(&mut gdb, "Z0,100002,1"), "OK");
    }
    assert_eq!(owner.ask(&mut gdb, "z0,100002,1"), "OK");
    assert_eq!(owner.ask(&mut gdb, "Z2,5000,4"), "OK");
    assert!(owner.ask(&mut gdb, "vCont;c").contains("watch:5000"));
    assert_eq!(owner.rip(), 0x10_000c);
    assert_eq!(owner.ask(&mut gdb, "z2,5000,4"), "OK");
    // The guest goes on, until it is interrupted.
    gdb.write_all(b"$vCont;c#a8").unwrap();
    owner.turn();
    assert!(owner.debugger.session.as_ref().unwrap().is_running());
    gdb.write_all(b"\x03").unwrap();
    assert!(owner.hear(&mut gdb).starts_with("T02"));
}

#[test]
fn a_debugger_that_leaves_lets_the_guest_run_and_one_that_is_lost_lets_it_be() {
    let mut owner = Owner::new();
    let mut gdb = owner.connect();
    assert_eq!(owner.ask(&mut gdb, "Z0,100002,1"), "OK");
    drop(gdb);
    owner.turn();
    assert!(owner.debugger.session.is_none());
    assert_eq!(owner.rip(), 0x10_0000, "it has begun");

    let mut gdb = owner.connect();
    assert_eq!(owner.ask(&mut gdb, "D"), "OK");
    drop(gdb);
    let memory = owner.bench.machine.memory().clone();
    while memory.read_obj::<u32>(GuestAddress(0x5000)).unwrap() == 0 {
        std::thread::yield_now();
    }
    // The breakpoint was the other's, and is gone.
    let _gdb = owner.connect();
    assert!(owner.bench.machine.take_notice().is_none());
    assert!((AGAIN..AGAIN + 12).contains(&owner.rip()));
}

/// A packet of the protocol, with numbers that may be of use or not.
fn command(random: &mut dyn FnMut(usize) -> usize) -> String {
    const ADDRESSES: [u64; 8] =
        [0, 0x5000, 0x10_0002, 0x10_0ffe, 0xa_0000, 0x3ff_fffe, 1 << 47, u64::MAX - 1];
    let address = ADDRESSES[random(8)] + random(2) as u64;
    let (small, thread) = (random(0x90), random(4));
    let bytes = "5a".repeat(random(20));
    match random(14) {
        0 => "g".to_owned(),
        1 => format!("p{small:x}"),
        2 => format!("P{small:x}={bytes}"),
        3 => format!("G{}", "0f".repeat(random(1100))),
        4 => format!("m{address:x},{:x}", random(0x2000)),
        5 => format!("M{address:x},{:x}:{bytes}", bytes.len() / 2),
        6 | 7 => format!("{}{},{address:x},{:x}", ["Z", "z"][random(2)], random(5), random(40)),
        8 => format!("vCont;s:{thread:x};c"),
        9 => format!("vCont;s:{thread:x};c:{:x}", random(4)),
        10 => format!("Hg{thread:x}"),
        11 => format!("Qqemu.PhyMemMode:{}", random(2)),
        12 => "qRcmd,706879732030783130303020313030".to_owned(),
        _ => format!("qThreadExtraInfo,{thread:x}"),
    }
}

#[test]
fn what_is_no_protocol_harms_nobody() {
    let words: &[&str] = &[
        "$",
        "#",
        "+",
        "-",
        "\u{3}",
        "vCont;c",
        "vCont;s:1",
        "vCont;s:7fffffff;c",
        "vCont",
        "vKill;1",
        "qRcmd,",
        "m",
        "M0,",
        "X100,",
        "Z0,",
        "Z1,",
        "Z2,",
        "Z4,",
        "z3,",
        "P",
        "p",
        "g",
        "G",
        "H",
        "Hg",
        "T",
        "?",
        "D",
        "qSupported:",
        "QStartNoAckMode",
        "Qqemu.PhyMemMode:1",
        "qqemu.PhyMemMode",
        "ffffffffffffffff",
        "100000",
        "5000",
        ",",
        ";",
        ":",
        "=",
        "0",
        "1",
        "7f",
        "20ffffff",
        "706879732030203430393600",
        "}",
        "*",
        "\u{7f}",
    ];
    let mut seed = 7u64;
    let mut random = |below: usize| -> usize {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 33) as usize % below
    };
    let mut owner = Owner::new();
    for _ in 0..300 {
        let mut gdb = owner.connect();
        gdb.set_nonblocking(true).unwrap();
        for _ in 0..random(30) {
            let payload = if random(4) == 0 {
                (0..=random(5)).map(|_| words[random(words.len())]).collect()
            } else {
                command(&mut random)
            };
            let sum = payload.bytes().fold(0u8, u8::wrapping_add);
            let packet = if random(8) == 0 { payload } else { format!("+${payload}#{sum:02x}") };
            if gdb.write_all(packet.as_bytes()).is_err() {
                break;
            }
            let _ = gdb.read(&mut [0; 65536]);
            owner.turn();
            if owner.debugger.session.is_none() {
                break;
            }
        }
        drop(gdb);
        while owner.debugger.session.is_some() {
            owner.turn();
        }
    }
    assert_eq!(owner.bench.machine.state(), MachineState::Running);
}
