//! One byte there and back.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Sends a byte and waits for it, so often: how often it came.
pub fn make(stream: &mut TcpStream, count: u64) -> u64 {
    for number in 0..count {
        let mut byte = [number as u8];
        stream.write_all(&byte).expect("the other end reads");
        stream.read_exact(&mut byte).expect("the other end answers");
        assert_eq!(byte, [number as u8], "it is what was sent");
    }
    count
}

/// Sends back what comes until there is no more.
pub fn echo(stream: &mut TcpStream) {
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|length| length == 1) {
        stream.write_all(&byte).expect("the other end reads");
    }
}
