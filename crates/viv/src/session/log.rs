//! The end of what a guest's kernel said on its serial port, kept for the case that it does not come up.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::failure::one_line;

/// Bytes kept. A kernel that dies says why in its last lines.
const KEPT: usize = 16 << 10;

/// What came last.
#[derive(Debug, Clone, Default)]
pub struct SerialLog(Arc<Mutex<VecDeque<u8>>>);

impl SerialLog {
    /// A log that follows `port` to its end.
    pub fn follow(mut port: PipeReader) -> io::Result<Self> {
        let log = Self::default();
        let writer = log.clone();
        let follow = move || {
            let mut chunk = [0; 4096];
            loop {
                match port.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(count) => writer.push(&chunk[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        };
        thread::Builder::new().name("serial log".into()).spawn(follow)?;
        Ok(log)
    }

    fn push(&self, said: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(said);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    /// The last `count` lines that are not empty, fit to be shown on a terminal.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let kept: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<String> = text.lines().map(one_line).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// Why the guest's Linux gave up, if it did (`kernel/panic.c`).
    pub fn panic(&self) -> Option<String> {
        self.tail(usize::MAX).iter().find_map(|line| {
            let (_, reason) = line.split_once("Kernel panic - not syncing: ")?;
            Some(reason.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_makes_them_harmless() {
        let log = SerialLog::default();
        log.push(&vec![b'x'; 2 * KEPT]);
        log.push(b"\r\n[ 0.1] one\r\n\r\n[ 0.2] \x1b[31mtwo\xff\r\n");
        assert_eq!(log.tail(2), ["[ 0.1] one", "[ 0.2] \u{fffd}[31mtwo\u{fffd}"]);
        assert!(log.tail(usize::MAX).concat().len() <= 3 * KEPT);
        assert_eq!(log.panic(), None);
        log.push(b"[ 0.3] Kernel panic - not syncing: no init\r\n[ 0.4] bye\r\n");
        assert_eq!(log.panic().as_deref(), Some("no init"));
    }
}
