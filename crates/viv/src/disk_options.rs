//! The options of `--disk` that have values: how a disk is used.

use viv_vmm::config::{AioMode, CacheMode, DiskTuning, MAX_SERIAL};

use crate::rate;

/// Takes over `option`, of the form `key=value`. `None`: there is no such key.
pub fn apply(tuning: &mut DiskTuning, option: &str) -> Option<Result<(), String>> {
    let (key, value) = option.split_once('=')?;
    Some(match key {
        "cache" => cache(value).map(|cache| tuning.cache = cache),
        "aio" => aio(value).map(|aio| tuning.aio = aio),
        "queues" => queues(value).map(|queues| tuning.queues = Some(queues)),
        "serial" => serial(value).map(|serial| tuning.serial = Some(serial)),
        "iops" => rate::count(key, "requests", value).map(|iops| tuning.iops = Some(iops)),
        "bps" => rate::bytes(key, value).map(|bps| tuning.bps = Some(bps)),
        _ => return None,
    })
}

fn cache(value: &str) -> Result<CacheMode, String> {
    Ok(match value {
        "writeback" => CacheMode::Writeback,
        "writethrough" => CacheMode::Writethrough,
        "none" => CacheMode::None,
        "unsafe" => CacheMode::Unsafe,
        _ => {
            return Err(format!("cache={value} is not known; give writeback, writethrough, none or unsafe"));
        }
    })
}

fn aio(value: &str) -> Result<AioMode, String> {
    match value {
        "io_uring" => Ok(AioMode::IoUring),
        "threads" => Ok(AioMode::Threads),
        _ => Err(format!("aio={value} is not known; give io_uring or threads, or leave it out")),
    }
}

fn queues(value: &str) -> Result<u16, String> {
    match value.parse() {
        Ok(queues @ 1..=16) => Ok(queues),
        _ => Err(format!("queues={value} is no number of queues; give 1 to 16")),
    }
}

fn serial(value: &str) -> Result<String, String> {
    if (1..=MAX_SERIAL).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(value.to_owned());
    }
    Err(format!("serial={value} is no serial number; give 1 to {MAX_SERIAL} printable ASCII characters"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn options_are_taken_over() {
        let mut tuning = DiskTuning::default();
        for option in ["cache=none", "aio=threads", "queues=2", "serial=x1", "iops=500", "bps=1.5M"] {
            assert_eq!(apply(&mut tuning, option), Some(Ok(())), "{option}");
        }
        let expected = DiskTuning {
            cache: CacheMode::None,
            aio: AioMode::Threads,
            queues: Some(2),
            serial: Some("x1".to_owned()),
            iops: NonZeroU64::new(500),
            bps: NonZeroU64::new(3 << 19),
        };
        assert_eq!(tuning, expected);
        assert_eq!((apply(&mut tuning, "readonly"), apply(&mut tuning, "cash=none")), (None, None));
    }

    #[test]
    fn a_wrong_value_is_told_with_the_right_ones() {
        let error = |option| apply(&mut DiskTuning::default(), option).unwrap().unwrap_err();
        for (option, right) in [
            ("cache=back", "give writeback, writethrough, none or unsafe"),
            ("aio=native", "give io_uring or threads"),
            ("queues=0", "give 1 to 16"),
            ("queues=many", "give 1 to 16"),
            ("serial=", "give 1 to 20 printable ASCII characters"),
            ("iops=0", "like 500"),
            ("bps=fast", "like 50M"),
            ("bps=0", "like 50M"),
        ] {
            assert!(error(option).contains(right), "{}", error(option));
        }
    }
}
