//! What is understood of DNS messages (RFC 1035): enough to say that nobody answers.

/// The length of a message's header, in bytes.
const HEADER: usize = 12;
/// The longest name (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;
/// The longest query that is kept until it is answered, in bytes.
pub(crate) const MAX_QUERY: usize = 1232;

/// The flags of an answer: a response that recursion was there for, and that the server failed.
const RESPONSE: u8 = 0x80;
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;
/// Operation code and "recursion desired", which an answer repeats.
const REPEATED: u8 = 0x79;

/// The identifier of a message.
pub(crate) fn identifier(message: &[u8]) -> Option<u16> {
    message.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The answer that no server could be asked. Nothing: the message is no query.
pub(crate) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let (&[id_high, id_low, flags, _, count_high, count_low, ..], rest) =
        query.split_first_chunk::<HEADER>()?;
    if flags & RESPONSE != 0 || [count_high, count_low] != [0, 1] {
        return None;
    }
    let question = rest.get(..question_length(rest)?)?;
    let flags = [flags & REPEATED | RESPONSE, RECURSION_AVAILABLE | SERVER_FAILURE];
    let mut answer = vec![id_high, id_low];
    answer.extend(flags);
    answer.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    answer.extend(question);
    Some(answer)
}

/// How long the question is that `data` begins with: a name, a type and a class.
fn question_length(data: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    while at <= MAX_NAME {
        match *data.get(at)? {
            0 => return at.checked_add(5),
            // Labels have up to 63 bytes; there is nothing yet that a pointer could point to.
            length @ 1..=63 => at = at.checked_add(usize::from(length))?.checked_add(1)?,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x07example\x03org\0\0\x01\0\x01\0\0\x29";

    #[test]
    fn a_failure_repeats_the_question() {
        let answer = failure(QUERY).unwrap();
        assert_eq!(answer, b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01");
        assert_eq!(failure(&answer), None, "an answer is not answered");
        assert_eq!(identifier(QUERY), Some(0x1234));
    }

    #[test]
    fn what_is_no_query_is_not_answered() {
        for end in 0..QUERY.len() - 3 {
            assert_eq!(failure(&QUERY[..end]), None, "{end} bytes");
        }
        let pointer = [&QUERY[..12], b"\xC0\x0C\0\x01\0\x01"].concat();
        assert_eq!(failure(&pointer), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_its_query(query in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answer) = failure(&query) {
                prop_assert!(answer.len() <= query.len());
                prop_assert_eq!(identifier(&answer), identifier(&query));
            }
        }
    }
}
