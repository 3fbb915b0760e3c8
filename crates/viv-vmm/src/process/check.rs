//! What a jail would lack on this host, found by going into one.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

use viv_jail::{Forked, Inside};

use crate::client::Launch;

/// Goes to jail and prints what it lacks, a line for each.
///
/// To be called once, on the main thread of a process that does nothing else and has no other thread.
#[must_use]
pub fn check_jail() -> ExitCode {
    match viv_jail::fork() {
        Ok(Forked::Supervisor(supervisor)) => match supervisor.wait() {
            Ok(viv_jail::Fate::Exited(code)) => ExitCode::from(code),
            Ok(viv_jail::Fate::Died(_)) | Err(_) => ExitCode::FAILURE,
        },
        Ok(Forked::Inmate(inmate)) => {
            let jail =
                inmate.enter(Inside { kvm: false, network: false, connections: 0, largest_file: 1 << 30 });
            let mut text = jail.missing().join("\n");
            text.extend((!text.is_empty()).then_some('\n'));
            let mut out = io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a jail would lack, each in one line, as a process that is started for it finds.
///
/// # Errors
/// When that process does not start, or does not come to an end in order.
pub fn jail_lacks(launch: &Launch) -> io::Result<Vec<String>> {
    let output = Command::new(&launch.program)
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("a process that goes into one ends with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
