//! What a CD-ROM drive tells of itself and its medium (MMC-6, SPC-3).

use super::regs::Sense;
use super::{BLOCK, PRODUCT, REVISION, VENDOR};

/// The peripheral device type.
pub(super) const CDROM: u8 = 0x05;
/// Pages of vital product data.
pub(super) const PAGE_LIST: u8 = 0x00;
pub(super) const PAGE_SERIAL: u8 = 0x80;
/// The class of events about the medium, as a bit.
pub(super) const MEDIA_CLASS: u8 = 1 << 4;

/// The number of the lead-out as a track.
const LEAD_OUT: u8 = 0xaa;
/// A data track, with its position in the Q subchannel.
const DATA_TRACK: u8 = 0x14;
/// The lead-out's.
const LEAD_OUT_CONTROL: u8 = 0x16;
/// The time before block 0, in frames: two seconds.
const PREGAP: u64 = 150;
/// What a CD holds at most; a larger medium is a DVD.
const MAX_CD_BLOCKS: u64 = 450_000;
const PROFILE_CD: u16 = 0x0008;
const PROFILE_DVD: u16 = 0x0010;

/// `text` in `N` bytes, padded with spaces.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = text.bytes();
    std::array::from_fn(|_| bytes.next().filter(u8::is_ascii_graphic).unwrap_or(b' '))
}

/// Bytes of `data`, for a length field.
fn length(data: &[u8]) -> u16 {
    u16::try_from(data.len()).unwrap_or(u16::MAX)
}

/// `body` after its length in two bytes.
fn with_length(body: Vec<u8>) -> Vec<u8> {
    let mut data = length(&body).to_be_bytes().to_vec();
    data.extend(body);
    data
}

/// Standard INQUIRY data (SPC-3, 6.4.2): a removable medium, ATAPI's version and format.
pub(super) fn inquiry() -> Vec<u8> {
    let mut data = vec![CDROM, 0x80, 0x00, 0x21, 31, 0, 0, 0];
    data.extend(padded::<8>(VENDOR));
    data.extend(padded::<16>(PRODUCT));
    data.extend(padded::<4>(REVISION));
    data
}

/// The page with the serial number.
pub(super) fn inquiry_serial(serial: &str) -> Vec<u8> {
    let mut data = vec![CDROM, PAGE_SERIAL, 0, 20];
    data.extend(padded::<20>(serial));
    data
}

/// READ CAPACITY: the last block, and the size of one.
pub(super) fn capacity(blocks: u64) -> [u8; 8] {
    let [a, b, c, d] = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX).to_be_bytes();
    let [e, f, g, h] = (BLOCK as u32).to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The mode pages that the third byte of MODE SENSE asks for (MMC-6, 7).
pub(super) fn mode_page(request: u8, locked: bool) -> Result<Vec<u8>, Sense> {
    const ERROR_RECOVERY: [u8; 12] = [0x01, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    let capabilities = [
        0x2a,
        18, // page and length
        0x1b,
        0x00, // reads CD-R, CD-RW, DVD-ROM, DVD-R; writes nothing
        0x70,
        0x00, // mode 2 forms 1 and 2, several sessions
        0x29 | (u8::from(locked) << 1),
        0x00, // a tray, with a lock, that ejects
        0x02,
        0xc2,
        0,
        2,
        0x02,
        0x00,
        0x02,
        0xc2,
        0,
        0,
        0,
        0, // speeds of 706 kB/s, 512 KiB of buffer
    ];
    let (control, page) = (request >> 6, request & 0x3f);
    let bytes = match (control, page) {
        (3, _) => return Err(Sense::NOTHING_SAVED),
        // Nothing can be changed.
        (1, 0x01) => [[0x01, 10].as_slice(), &[0; 10]].concat(),
        (1, 0x2a) => [[0x2a, 18].as_slice(), &[0; 18]].concat(),
        (_, 0x01) => ERROR_RECOVERY.to_vec(),
        (_, 0x2a) => capabilities.to_vec(),
        (_, 0x3f) => [ERROR_RECOVERY.as_slice(), &capabilities].concat(),
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(bytes)
}

/// MODE SENSE(6)'s answer.
pub(super) fn mode_sense_6(pages: &[u8]) -> Vec<u8> {
    let rest = u8::try_from(pages.len().saturating_add(3)).unwrap_or(u8::MAX);
    [[rest, 0, 0, 0].as_slice(), pages].concat()
}

/// MODE SENSE(10)'s answer.
pub(super) fn mode_sense_10(pages: &[u8]) -> Vec<u8> {
    with_length([[0; 6].as_slice(), pages].concat())
}

/// A block's address, or its time in minutes, seconds and frames.
fn address(block: u64, by_time: bool) -> [u8; 4] {
    if !by_time {
        return u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    }
    let frames = block.saturating_add(PREGAP);
    let minutes = u8::try_from(frames / (75 * 60)).unwrap_or(u8::MAX);
    [0, minutes, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

/// READ TOC's answer for a medium with one track (MMC-6, 6.25).
pub(super) fn contents(format: u8, track: u8, by_time: bool, blocks: u64) -> Result<Vec<u8>, Sense> {
    let mut body = vec![1, 1];
    match format {
        // Tracks, from `track` on.
        0 => {
            if track > 1 && track != LEAD_OUT {
                return Err(Sense::INVALID_FIELD);
            }
            if track != LEAD_OUT {
                body.extend([0, DATA_TRACK, 1, 0]);
                body.extend(address(0, by_time));
            }
            body.extend([0, LEAD_OUT_CONTROL, LEAD_OUT, 0]);
            body.extend(address(blocks, by_time));
        }
        // The last session's first track.
        1 => {
            body.extend([0, DATA_TRACK, 1, 0]);
            body.extend(address(0, by_time));
        }
        // As the lead-in has it: first track, last track, lead-out, track 1; always by time.
        2 => {
            let [_, m, s, f] = address(blocks, true);
            let [_, m1, s1, f1] = address(0, true);
            body.extend([1, DATA_TRACK, 0, 0xa0, 0, 0, 0, 0, 1, 0, 0]);
            body.extend([1, DATA_TRACK, 0, 0xa1, 0, 0, 0, 0, 1, 0, 0]);
            body.extend([1, DATA_TRACK, 0, 0xa2, 0, 0, 0, 0, m, s, f]);
            body.extend([1, DATA_TRACK, 0, 1, 0, 0, 0, 0, m1, s1, f1]);
        }
        _ => return Err(Sense::INVALID_FIELD),
    }
    Ok(with_length(body))
}

/// GET CONFIGURATION's answer (MMC-6, 5.2 and 6.6), for a medium of so many blocks or none.
pub(super) fn configuration(kind: u8, first: u16, blocks: Option<u64>) -> Result<Vec<u8>, Sense> {
    /// Feature descriptors: code, whether it can come and go, what it says.
    fn feature(code: u16, version: u8, always: bool, current: bool, says: &[u8]) -> (u16, bool, Vec<u8>) {
        let current = always || current;
        let [high, low] = code.to_be_bytes();
        let flags = (version << 2) | (u8::from(always) << 1) | u8::from(current);
        let length = u8::try_from(says.len()).unwrap_or(u8::MAX);
        (code, current, [[high, low, flags, length].as_slice(), says].concat())
    }

    let is_dvd = blocks.is_some_and(|blocks| blocks > MAX_CD_BLOCKS);
    let is_cd = blocks.is_some() && !is_dvd;
    let profile = |code: u16, current: bool| {
        let [high, low] = code.to_be_bytes();
        [high, low, u8::from(current), 0]
    };
    let profiles = [profile(PROFILE_DVD, is_dvd), profile(PROFILE_CD, is_cd)].concat();
    let features = [
        feature(0x0000, 0, true, true, &profiles),
        // Core: ATAPI, and events as they are.
        feature(0x0001, 2, true, true, &[0, 0, 0, 2, 1, 0, 0, 0]),
        // Removable medium: a tray, ejects, locks.
        feature(0x0003, 0, true, true, &[0x29, 0, 0, 0]),
        // Random reads of 2048 bytes, of which one can be read alone.
        feature(0x0010, 0, false, blocks.is_some(), &[0, 0, 8, 0, 0, 1, 0, 0]),
        feature(0x001e, 2, false, is_cd, &[0, 0, 0, 0]),
        feature(0x001f, 1, false, is_dvd, &[0, 0, 0, 0]),
    ];
    let wanted = features.into_iter().filter(|(code, current, _)| match kind {
        0 => *code >= first,
        1 => *code >= first && *current,
        _ => *code == first,
    });
    if kind > 2 {
        return Err(Sense::INVALID_FIELD);
    }
    let current = if is_dvd {
        PROFILE_DVD
    } else if is_cd {
        PROFILE_CD
    } else {
        0
    };
    let [high, low] = current.to_be_bytes();
    let mut body = vec![0, 0, high, low];
    body.extend(wanted.flat_map(|(_, _, descriptor)| descriptor));
    let mut data = u32::from(length(&body)).to_be_bytes().to_vec();
    data.extend(body);
    Ok(data)
}

/// GET EVENT STATUS NOTIFICATION's answer: the medium's event, or that no such class is there.
pub(super) fn event_status(event: Option<u8>, open: bool, present: bool) -> Vec<u8> {
    const NO_EVENT: u8 = 1 << 7;
    const MEDIA: u8 = 4;
    match event {
        None => vec![0, 2, NO_EVENT, MEDIA_CLASS],
        Some(event) => {
            let medium = u8::from(open) | (u8::from(present) << 1);
            vec![0, 6, MEDIA, MEDIA_CLASS, event, medium, 0, 0]
        }
    }
}

/// READ DISC INFORMATION's answer (MMC-6, 6.21): complete, one session with one track.
pub(super) fn disc_information() -> Vec<u8> {
    const COMPLETE: u8 = 0b1110;
    const UNRESTRICTED: u8 = 1 << 5;
    let mut body = vec![COMPLETE, 1, 1, 1, 1, UNRESTRICTED];
    body.resize(32, 0);
    with_length(body)
}

/// MECHANISM STATUS's answer (MMC-6, 6.10): one place for a medium.
pub(super) fn mechanism_status(open: bool) -> Vec<u8> {
    vec![0, u8::from(open) << 4, 0, 0, 0, 1, 0, 0]
}
