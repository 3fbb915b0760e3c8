use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;

fn wait_for(notify: &Notify) {
    let mut fds = [PollFd::new(notify, PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    notify.clear();
}

fn notify() -> Arc<Notify> {
    Arc::new(Notify::new().unwrap())
}

/// Bytes whose order shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[test]
fn a_slow_reader_loses_nothing_and_blocks_nobody() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (wake, drained) = (notify(), notify());
    let outlet = Outlet::start(ours.into(), Arc::clone(&wake), Arc::clone(&drained)).unwrap();
    let sent = pattern(1 << 20);
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        received
    });
    let mut rest = sent.as_slice();
    while !rest.is_empty() {
        let taken = outlet.write(rest);
        rest = &rest[taken..];
        if !rest.is_empty() {
            wait_for(&wake);
        }
    }
    while !outlet.is_drained() {
        wait_for(&drained);
    }
    drop(outlet);
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_full_outlet_takes_no_more_and_can_be_dropped() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let outlet = Outlet::start(ours.into(), notify(), notify()).unwrap();
    let chunk = pattern(CAPACITY);
    let mut total = 0;
    // The socket's buffer fills first, then ours, whatever their sizes.
    while total < 64 << 20 {
        let taken = outlet.write(&chunk);
        total += taken;
        if taken == 0 {
            break;
        }
        std::thread::yield_now();
    }
    assert!(total < 64 << 20);
    assert!(!outlet.is_drained());
}

#[test]
fn a_reader_that_goes_is_noticed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let wake = notify();
    let outlet = Outlet::start(ours.into(), Arc::clone(&wake), notify()).unwrap();
    drop(theirs);
    outlet.write(b"x");
    wait_for(&wake);
    assert!(outlet.is_gone() && outlet.is_drained());
    assert_eq!(outlet.write(&pattern(2 * CAPACITY)), 2 * CAPACITY);
}

#[test]
fn input_arrives_in_order_up_to_its_end() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let wake = notify();
    let inlet = Inlet::start(ours.into(), Arc::clone(&wake)).unwrap();
    let sent = pattern(3 * CAPACITY);
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || theirs.write_all(&sent).unwrap()
    });
    let mut received = Vec::new();
    loop {
        match inlet.peek(1000) {
            Received::Bytes(bytes) => {
                assert_eq!(inlet.peek(bytes.len()), Received::Bytes(bytes.clone()), "it stays in place");
                inlet.consume(bytes.len());
                received.extend(bytes);
            }
            Received::Nothing => wait_for(&wake),
            Received::End => break,
        }
    }
    writer.join().unwrap();
    assert!(received == sent);
}

#[test]
fn files_are_streams_too() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"text").unwrap();
    file.rewind().unwrap();
    let wake = notify();
    let inlet = Inlet::start(file.into(), Arc::clone(&wake)).unwrap();
    while inlet.peek(10) == Received::Nothing {
        wait_for(&wake);
    }
    assert_eq!(inlet.peek(10), Received::Bytes(b"text".to_vec()));
}

#[test]
fn an_inlet_that_waits_can_be_dropped() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    drop(Inlet::start(ours.into(), notify()).unwrap());
}
