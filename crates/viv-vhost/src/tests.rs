//! Back ends that are not as they should be.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{BackEnd, Error, Lost, RingPlace};

/// Short where nothing is waited for that comes.
const IMPATIENCE: Duration = Duration::from_millis(200);
/// Long where what is waited for comes.
const PATIENCE: Duration = Duration::from_secs(60);

const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
/// Version 1, and a reply.
const REPLY: u32 = 1 | 4;

/// A back end that reads messages and gives `answer` to each, by its number.
fn back_end(
    mut answer: impl FnMut(&mut UnixStream, u32) -> bool + Send + 'static,
) -> (UnixStream, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let serve = move || {
        let mut head = [0; 12];
        while theirs.read_exact(&mut head).is_ok() {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let mut body = vec![0; word(8) as usize];
            if theirs.read_exact(&mut body).is_err() || !answer(&mut theirs, word(0)) {
                return;
            }
        }
    };
    (ours, thread::spawn(serve))
}

fn reply(request: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [request, REPLY, body.len() as u32] {
        message.extend(word.to_le_bytes());
    }
    message.extend(body);
    message
}

fn lost(connected: Result<BackEnd, Error>) -> Lost {
    match connected.err() {
        Some(Error::Lost(lost)) => lost,
        other => panic!("{other:?}"),
    }
}

/// A place for a ring that nobody looks at.
const PLACE: RingPlace = RingPlace { size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 };

#[test]
fn one_that_says_nothing_is_given_up() {
    let (socket, _silent) = UnixStream::pair().unwrap();
    let lost = lost(BackEnd::connect(socket, 4, IMPATIENCE));
    assert!(matches!(lost, Lost::Silent { .. }), "{lost}");
}

#[test]
fn one_that_says_a_byte_now_and_then_is_given_up() {
    let (socket, _thread) = back_end(|socket, request| {
        // A reply that never comes to its end.
        request != GET_FEATURES
            || reply(GET_FEATURES, &[0; 8]).iter().take(11).cycle().all(|byte| {
                thread::sleep(Duration::from_millis(20));
                socket.write_all(&[*byte]).is_ok()
            })
    });
    let lost = lost(BackEnd::connect(socket, 4, IMPATIENCE));
    assert!(matches!(lost, Lost::Silent { .. } | Lost::Failed { .. }), "{lost}");
}

#[test]
fn one_that_hangs_up_is_given_up() {
    let (socket, thread) = back_end(|_, _| false);
    let lost = lost(BackEnd::connect(socket, 4, PATIENCE));
    assert!(matches!(lost, Lost::Failed { .. }), "{lost}");
    thread.join().unwrap();
}

#[test]
fn nonsense_is_no_answer() {
    let answers = [vec![0xff; 64], reply(2, &[0; 8]), {
        let mut unasked = reply(GET_FEATURES, &[0; 8]);
        unasked[4] = 1;
        unasked
    }];
    for answer in answers {
        let (socket, _thread) =
            back_end(move |socket, request| request != GET_FEATURES || socket.write_all(&answer).is_ok());
        let lost = lost(BackEnd::connect(socket, 4, IMPATIENCE));
        assert!(matches!(lost, Lost::Failed { .. } | Lost::Silent { .. }), "{lost}");
    }
}

#[test]
fn an_old_one_is_asked_for_nothing_new_and_what_is_lost_stays_so() {
    let (socket, thread) = back_end(|socket, request| match request {
        GET_FEATURES => socket.write_all(&reply(request, &(1_u64 << 32).to_le_bytes())).is_ok(),
        // The position is none.
        GET_VRING_BASE => socket.write_all(&reply(request, &[0, 0, 0, 0, 0, 0, 1, 0])).is_ok(),
        _ => true,
    });
    let mut back_end = BackEnd::connect(socket, 4, PATIENCE).unwrap();
    assert_eq!((back_end.features(), back_end.queues()), (1 << 32, 2));
    assert!(matches!(back_end.config(8), Err(Error::Lacks(_))));
    back_end.set_up(1 << 32, std::iter::empty()).unwrap();
    back_end.start(1, PLACE).unwrap();
    assert_eq!(back_end.lost(), None);
    let why = back_end.stop(1, PATIENCE).unwrap_err();
    assert!(matches!(why, Lost::Ring(_)), "{why}");
    assert_eq!(back_end.start(1, PLACE), Err(why.clone()));
    assert_eq!(back_end.lose(Lost::HungUp), why);
    thread.join().unwrap();
}
