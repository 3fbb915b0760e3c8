//! What gdb's `monitor` command takes.

use std::fmt::Write;

use super::target::Guest;

const HELP: &str = "\
monitor phys ADDRESS LENGTH   print memory at a physical address, 4096 bytes at most
monitor phys on|off           take all addresses as physical ones, or as linear ones again
monitor reset                 reset the machine, which stays stopped
";

/// The most bytes that are printed at once.
const MOST: u64 = 4096;
/// How many are printed in a line.
const LINE: usize = 16;

/// Does what a command says; gives what it has to say itself.
pub(super) fn command(guest: &mut Guest, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["phys", "on"] => {
            guest.memory.physical = true;
            "addresses are physical\n".into()
        }
        ["phys", "off"] => {
            guest.memory.physical = false;
            "addresses are linear\n".into()
        }
        ["phys", address, length] => match (number(address), number(length)) {
            (Some(address), Some(length @ 1..=MOST)) => dump(guest, address, length),
            (None, _) => format!("'{address}' is no address; give one like 0x1000\n"),
            (_, _) => format!("'{length}' is no length; give 1 to {MOST}\n"),
        },
        ["reset"] => {
            guest.wants_reset = true;
            "the machine is reset; registers are as gdb last saw them until 'flushregs'\n".into()
        }
        _ => HELP.into(),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn dump(guest: &Guest, address: u64, length: u64) -> String {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let count = guest.memory.read_physical(address, &mut bytes);
    let mut text = String::new();
    for (n, line) in bytes.get(..count).unwrap_or_default().chunks(LINE).enumerate() {
        let _ = write!(text, "{:#018x}:", address.wrapping_add((n * LINE) as u64));
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    if count < bytes.len() {
        let _ = writeln!(text, "no memory at {:#x}", address.wrapping_add(count as u64));
    }
    text
}
