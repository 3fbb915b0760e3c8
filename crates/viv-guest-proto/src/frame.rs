//! Messages as frames in a byte stream.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest encoded message, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes before the payload: its length.
const HEADER: usize = 4;

/// Why a message could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The message is longer than [`MAX_PAYLOAD`].
    #[error("encoding a message of {0} bytes; at most {MAX_PAYLOAD} fit into a frame")]
    TooLong(usize),
    /// The encoder failed.
    #[error("encoding a message")]
    Postcard(#[source] postcard::Error),
}

/// Why a stream is broken.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The peer announced a frame longer than [`MAX_PAYLOAD`].
    #[error("reading a frame: it claims {0} bytes, at most {MAX_PAYLOAD} are allowed")]
    TooLong(u32),
    /// The frame does not hold a message of the expected kind, or holds more than one.
    #[error("reading a frame of {length} bytes: it holds no message of the expected kind")]
    Malformed {
        /// Payload bytes of the frame.
        length: usize,
    },
    /// The stream was broken by an earlier frame.
    #[error("reading a frame: the stream is out of step after an earlier error")]
    OutOfStep,
}

/// The frame for one message.
///
/// # Errors
/// [`EncodeError::TooLong`] if the message does not fit, for instance by too many arguments.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let payload = postcard::to_stdvec(message).map_err(EncodeError::Postcard)?;
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= MAX_PAYLOAD => length,
        _ => return Err(EncodeError::TooLong(payload.len())),
    };
    let mut frame = Vec::with_capacity(HEADER.saturating_add(payload.len()));
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Finds the messages of type `M` in a byte stream, however it is cut into pieces.
///
/// Call [`next`](Self::next) until it returns `None` after each [`push`](Self::push); what is held then is
/// less than one frame.
#[derive(Debug)]
pub struct Decoder<M> {
    pending: Vec<u8>,
    broken: bool,
    kind: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { pending: Vec::new(), broken: false, kind: PhantomData }
    }
}

impl<M: DeserializeOwned> Decoder<M> {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// The next complete message, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Any error is final: every further call returns [`DecodeError::OutOfStep`].
    // Not `Iterator`: an iterator that ends and later goes on, and that fails, would mislead.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<M>, DecodeError> {
        if self.broken {
            return Err(DecodeError::OutOfStep);
        }
        let result = self.take();
        if result.is_err() {
            self.broken = true;
            self.pending = Vec::new();
        }
        result
    }

    fn take(&mut self) -> Result<Option<M>, DecodeError> {
        let Some((header, rest)) = self.pending.split_first_chunk::<HEADER>() else { return Ok(None) };
        let announced = u32::from_le_bytes(*header);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= MAX_PAYLOAD => length,
            _ => return Err(DecodeError::TooLong(announced)),
        };
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let Ok((message, [])) = postcard::take_from_bytes::<M>(payload) else {
            return Err(DecodeError::Malformed { length });
        };
        self.pending.drain(..HEADER.saturating_add(length));
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;
    use crate::{GuestMessage, HostMessage, Interface, Mount, Run, Terminal, WindowSize};

    fn run() -> HostMessage {
        HostMessage::Run(Run {
            argv: Some(vec!["printf".into(), OsString::from_vec(vec![0xff, b'x'])]),
            env: vec![("A".into(), OsString::from_vec(vec![0xfe]))],
            terminal: Some(Terminal { term: "xterm".into(), size: Some(WindowSize { rows: 24, cols: 80 }) }),
            cwd: Some("/tmp".into()),
            hostname: None,
            interfaces: vec![Interface {
                mac: [2, 0, 0, 0, 0, 1],
                addresses: vec![([10, 0, 2, 15].into(), 24), ("fd00::1".parse().unwrap(), 64)],
                gateways: vec![[10, 0, 2, 2].into()],
                name_servers: Vec::new(),
            }],
            mounts: vec![Mount { tag: "t".into(), directory: "/mnt".into(), readonly: true }],
        })
    }

    #[test]
    fn messages_survive_any_cutting() {
        let sent = [run(), HostMessage::Signal(15), HostMessage::Run(Run::default()), HostMessage::Shutdown];
        let stream: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
        for piece in 1..stream.len() {
            let mut decoder = Decoder::<HostMessage>::new();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn too_long_frames_are_refused_on_both_sides() {
        let message = GuestMessage::Failed { message: "x".repeat(MAX_PAYLOAD) };
        assert!(matches!(encode(&message), Err(EncodeError::TooLong(_))));

        let mut decoder = Decoder::<GuestMessage>::new();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next(), Err(DecodeError::TooLong(u32::MAX))));
    }

    #[test]
    fn a_broken_stream_stays_broken_and_holds_nothing() {
        let mut decoder = Decoder::<GuestMessage>::new();
        decoder.push(&[1, 0, 0, 0, 0xff]);
        assert!(matches!(decoder.next(), Err(DecodeError::Malformed { length: 1 })));
        decoder.push(&encode(&GuestMessage::Exited { code: 0 }).unwrap());
        assert!(matches!(decoder.next(), Err(DecodeError::OutOfStep)));
        assert!(decoder.pending.is_empty());
    }

    #[test]
    fn bytes_after_the_message_are_an_error() {
        let mut frame = encode(&GuestMessage::Exited { code: 3 }).unwrap();
        frame.push(0);
        frame[0] += 1;
        let mut decoder = Decoder::<GuestMessage>::new();
        decoder.push(&frame);
        assert!(matches!(decoder.next(), Err(DecodeError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut decoder = Decoder::<HostMessage>::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }

        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut decoder = Decoder::<HostMessage>::new();
            decoder.push(&u32::try_from(payload.len()).unwrap().to_le_bytes());
            decoder.push(&payload);
            let _ = decoder.next();
        }
    }
}
