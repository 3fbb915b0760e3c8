//! The child between this program and the one it runs.
//!
//! A session and its controlling terminal can only be made by a process of its own, between fork and exec.
//! What runs there in a program with threads must be chosen with great care, so nothing does: the first
//! process starts *itself* anew with [`ARGUMENT`], and that single-threaded process arranges things at
//! leisure, then becomes the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr};

use crate::plan::Program;

/// First argument of the child.
pub(crate) const ARGUMENT: &str = "launch";

/// Exit status of a program that was found but could not be run (POSIX, shell command language 2.8.2).
const CANNOT_RUN: u8 = 126;
/// Exit status of a program that was not found.
const NOT_FOUND: u8 = 127;

const WITH_TERMINAL: &str = "terminal";
const WITH_PIPES: &str = "pipes";
const LOGIN: &str = "login";
const COMMAND: &str = "command";

/// The command that starts a program by way of [`run`], on this terminal or on three pipes.
pub(crate) fn command(program: &Program, directory: &str, terminal: Option<File>) -> io::Result<Command> {
    // The name stays good although the file was removed with the initial RAM disk.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(ARGUMENT)
        .arg(if terminal.is_some() { WITH_TERMINAL } else { WITH_PIPES })
        .arg(if program.login { LOGIN } else { COMMAND })
        .arg(directory)
        .arg(&program.file)
        .args(&program.args)
        .env_clear();
    match terminal {
        Some(terminal) => {
            command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        }
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
    }
    Ok(command)
}

/// Is the child; returns only if the program could not be started.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(streams), Some(manner), Some(directory), Some(file)) =
        (args.next(), args.next(), args.next(), args.next())
    else {
        eprintln!("viv-guest: {ARGUMENT} needs the streams, the manner, a directory and a program");
        return ExitCode::from(2);
    };
    // Fails only for a process that leads a group already, which a fresh child does not.
    let _ = rustix::process::setsid();
    if streams == WITH_TERMINAL
        && let Err(error) = take_terminal()
    {
        eprintln!("viv-guest: taking the console as terminal: {error}");
        return ExitCode::from(CANNOT_RUN);
    }
    if let Err(error) = env::set_current_dir(&directory) {
        eprintln!("viv: cannot enter directory {}: {error}", directory.display());
        return ExitCode::from(CANNOT_RUN);
    }
    let mut command = Command::new(&file);
    command.args(args);
    if manner == LOGIN {
        command.arg0(login_name(&file));
    }
    let error = command.exec();
    eprintln!("viv: cannot run {}: {error}", file.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
}

/// Makes the terminal on standard input the controlling terminal of this session.
fn take_terminal() -> io::Result<()> {
    let terminal = rustix::stdio::stdin();
    rustix::process::ioctl_tiocsctty(terminal)?;
    // Erasing a character in a line must erase all its bytes.
    let mut settings = tcgetattr(terminal)?;
    settings.input_modes |= InputModes::IUTF8;
    tcsetattr(terminal, OptionalActions::Now, &settings)?;
    Ok(())
}

/// `-bash` for `/bin/bash`: how a shell knows that it is a login shell.
fn login_name(file: &OsStr) -> OsString {
    let mut name = OsString::from("-");
    name.push(Path::new(file).file_name().unwrap_or(file));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_names_have_a_dash_and_no_directory() {
        assert_eq!(login_name("/bin/bash".as_ref()), "-bash");
        assert_eq!(login_name("sh".as_ref()), "-sh");
    }
}
