//! One attempt: into the jail, and on.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc;

use viv_jail::{Fate, Forked, Inmate, Inside, Jail, ThreadKind};

use crate::KINDS;
use crate::attempts::{self, Open};

/// Exit status for an attempt that was refused.
const REFUSED: i32 = 3;

pub fn run(kind: &str, attempt: &str) -> ExitCode {
    let (name, kind) = *KINDS.iter().find(|(name, _)| *name == kind).expect("a kind");
    viv_jail::close_others(&[]);
    match viv_jail::fork().expect("a process") {
        Forked::Supervisor(supervisor) => {
            match supervisor.wait().expect("waits") {
                Fate::Exited(code) => println!("exited {code}"),
                Fate::Died(why) => println!("died: {why}"),
            }
            ExitCode::SUCCESS
        }
        Forked::Inmate(inmate) => {
            let open = Open { file: File::open("/proc/self/exe").expect("this program") };
            let jail = enter(inmate, kind);
            if matches!(kind, ThreadKind::Control | ThreadKind::ShareControl) {
                let name = CString::new(name).expect("a name");
                rustix::thread::set_name(&name).expect("named");
                jail.lock().expect("locked");
                end(&attempts::run(attempt, &open));
            }
            let (locked, lock) = mpsc::channel();
            let attempt = attempt.to_owned();
            let thread = viv_jail::spawn(kind, name, move || {
                lock.recv().expect("locked");
                end(&attempts::run(&attempt, &open));
            });
            jail.lock().expect("locked");
            locked.send(()).expect("it waits");
            let _ = thread.expect("a thread").join();
            ExitCode::FAILURE
        }
    }
}

/// The jail of a process that has such threads. A shared directory is this package's.
fn enter(inmate: Inmate, kind: ThreadKind) -> Jail {
    if !matches!(kind, ThreadKind::Share | ThreadKind::ShareControl) {
        let network = kind == ThreadKind::Network;
        return inmate.enter(Inside { kvm: false, network, connections: 0, largest_file: 1 << 30 });
    }
    let directory = File::open(env!("CARGO_MANIFEST_DIR")).expect("this package");
    let (jail, shared) = inmate.enter_directory(directory.as_fd(), false).expect("a jail");
    // What attackers find: the working directory is that of the links.
    std::mem::forget(shared);
    jail
}

fn end(attempted: &std::io::Result<()>) -> ! {
    std::process::exit(if attempted.is_ok() { 0 } else { REFUSED })
}
