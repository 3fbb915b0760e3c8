//! Names of translated code for `perf`: `/tmp/perf-PID.map`, as perf's "jit-interface" has it.
//!
//! A line says where code is, how long it is, and what it is called. Code that is dropped stays in the file, so where code
//! memory was used again perf may give an older name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Mutex;

use crate::cpu::Bitness;
use crate::tlb::View;
use crate::translate::Mode;

/// The file.
#[derive(Debug)]
pub struct PerfMap(Mutex<File>);

impl PerfMap {
    /// Begins the file of this process.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create() -> io::Result<Self> {
        let path = format!("/tmp/perf-{}.map", std::process::id());
        // One that is there was left by an earlier process of this number. It is not followed if it is a link.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Names the code of a trace: what usually runs, and what seldom does.
    pub fn add(&self, code: &[Range<u64>; 2], mode: Mode, linear: u64) {
        let text = lines(code, mode, linear);
        if let Ok(mut file) = self.0.lock() {
            // What has no name is no reason to stop the guest.
            let _ = file.write_all(text.as_bytes());
        }
    }
}

fn lines(code: &[Range<u64>; 2], mode: Mode, linear: u64) -> String {
    let who = if mode.view() == View::User { "user" } else { "kernel" };
    let width = if mode.bitness() == Bitness::Bits64 { "" } else { "32" };
    let line = |code: &Range<u64>, suffix| {
        if code.is_empty() {
            return String::new();
        }
        format!("{:x} {:x} guest-{who}{width}:{linear:#x}{suffix}\n", code.start, code.end - code.start)
    };
    line(&code[0], "") + &line(&code[1], "-seldom")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_named_by_who_runs_it_and_where() {
        let text = lines(&[0x1000..0x1040, 0x9000..0x9004], Mode::default().with_view(View::User), 0x40_1000);
        assert_eq!(text, "1000 40 guest-user32:0x401000\n9000 4 guest-user32:0x401000-seldom\n");
        let text = lines(&[0x1000..0x1001, 0x9000..0x9000], Mode::default(), 0xffff_8000_0000_0000);
        assert_eq!(text, "1000 1 guest-kernel32:0xffff800000000000\n");
    }
}
