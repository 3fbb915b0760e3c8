//! How `viv` fails: one line that says what was being done, why it failed and what to do.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

/// The exit status of `viv run` when `viv` itself failed, as docker has it: few commands return that
/// themselves, so that a script can tell the two apart.
pub const RUN_FAILED: u8 = 125;

/// A failure of `viv` itself.
///
/// Shown as `what was being done: why; what to do`, in one line whatever its parts hold. Before it may come
/// what another program said last, which is quoted.
#[derive(Debug)]
pub struct Failure {
    quoted: Vec<String>,
    /// Empty where `why` tells it already.
    doing: String,
    why: String,
    remedy: Option<String>,
    status: Option<u8>,
}

/// Says on standard error what nobody would wish for and is done nevertheless.
pub fn warn(what: &str) {
    // Where there is no standard error, it goes on all the same.
    let _ = writeln!(io::stderr().lock(), "viv: {}", one_line(what));
}

impl Failure {
    /// `doing` names the work with the value it was done to, `why` what stood in the way.
    pub fn new(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self { quoted: Vec::new(), doing: doing.into(), why: why.into(), remedy: None, status: None }
    }

    /// A failure with the causes that `error` carries, outermost first. Where they end with lines that are
    /// quoted, these are quoted here.
    pub fn of(doing: impl Into<String>, error: &dyn Error) -> Self {
        let causes = causes(error);
        match causes.split_once(":\n") {
            Some((why, quoted)) => Self::new(doing, format!("{why} is above")).quote(quoted.lines()),
            None => Self::new(doing, causes),
        }
    }

    /// Adds what another program said last.
    #[must_use]
    pub fn quote(mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.quoted.extend(lines.into_iter().map(|line| one_line(line.as_ref())));
        self
    }

    /// Shows it on standard error. Where there is none, the exit status has to do.
    pub fn show(&self) {
        let mut err = io::stderr().lock();
        for line in &self.quoted {
            let _ = writeln!(err, "  | {line}");
        }
        let _ = writeln!(err, "viv: {self}");
    }

    /// Gives the failure an exit status of its own.
    #[must_use]
    pub fn status(mut self, status: u8) -> Self {
        self.status = Some(status);
        self
    }

    /// Its exit status, which is `usual` unless it has one of its own.
    pub fn status_or(&self, usual: u8) -> u8 {
        self.status.unwrap_or(usual)
    }

    /// A failure that another part has put into words already, what was being done included.
    pub fn line(line: impl Into<String>) -> Self {
        Self::new(String::new(), line)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, why, remedy, .. } = self;
        let mut line = if doing.is_empty() { why.clone() } else { format!("{doing}: {why}") };
        if let Some(remedy) = remedy {
            line = format!("{line}; {remedy}");
        }
        f.write_str(&one_line(&line))
    }
}

impl Error for Failure {}

/// An error with its causes, outermost first, each once.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// `text` without line breaks or other control characters: names of files and images are the user's, and
/// what a guest or an archive says is not trusted to leave the terminal alone.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(['\n', '\r']).map(str::trim).filter(|w| !w.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot open the disk")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes_and_a_remedy() {
        let error = Outer(io::Error::other("no such\n  file"));
        let failure = Failure::of("--disk a\x1b[2Jb", &error).remedy("create it");
        assert_eq!(
            failure.to_string(),
            "--disk a\u{fffd}[2Jb: cannot open the disk: no such file; create it"
        );
    }

    #[test]
    fn what_a_program_said_last_is_quoted_apart() {
        let error = Outer(io::Error::other("apt failed; the end of its log:\nErr:1 a\x07\n\nE: b"));
        let failure = Failure::of("", &error);
        assert_eq!(failure.to_string(), "cannot open the disk: apt failed; the end of its log is above");
        assert_eq!(failure.quoted, ["Err:1 a\u{fffd}", "", "E: b"]);
    }

    #[test]
    fn a_cause_already_told_is_not_repeated() {
        let told = io::Error::other(io::Error::other("gone"));
        assert_eq!(causes(&told), "gone");
    }
}
