//! Streams of bytes.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Bytes that are written or read at a time.
const BLOCK: usize = 128 << 10;
/// One byte of so many counts: looking at all of them would be most of the work.
const SAMPLE: usize = 4096;

/// Sends so many bytes, a number of blocks.
pub fn give(stream: &mut TcpStream, bytes: u64) {
    let mut block = vec![0_u8; BLOCK];
    for (number, sample) in block.iter_mut().step_by(SAMPLE).enumerate() {
        *sample = number as u8 + 1;
    }
    for _ in 0..bytes / BLOCK as u64 {
        stream.write_all(&block).expect("the other end reads");
    }
}

/// Receives so many bytes: the sum of the samples among them.
pub fn take(stream: &mut TcpStream, bytes: u64) -> u64 {
    let mut block = vec![0_u8; BLOCK];
    let (mut done, mut sum) = (0, 0_u64);
    while done < bytes {
        let length = stream.read(&mut block).expect("the other end sends");
        assert_ne!(length, 0, "the stream ended after {done} bytes");
        let first = (done as usize).next_multiple_of(SAMPLE) - done as usize;
        sum += block[..length].iter().skip(first).step_by(SAMPLE).map(|&byte| u64::from(byte)).sum::<u64>();
        done += length as u64;
    }
    sum
}

/// Sends a byte and waits for it, so often: how often it came.
pub fn round_trips(stream: &mut TcpStream, count: u64) -> u64 {
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
