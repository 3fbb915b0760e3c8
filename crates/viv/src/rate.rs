//! How much there may be in a second, as options have it: `iops=500`, `bps=50M`.

use std::num::NonZeroU64;

use crate::size::Size;

/// Reads the value of option `key`: a number of `what`.
///
/// # Errors
/// A sentence that says what would be right.
pub fn count(key: &str, what: &str, value: &str) -> Result<NonZeroU64, String> {
    value.parse().map_err(|_| format!("{key}={value} is no rate; give the {what} in a second, like 500"))
}

/// Reads the value of option `key`: an amount of bytes.
///
/// # Errors
/// A sentence that says what would be right.
pub fn bytes(key: &str, value: &str) -> Result<NonZeroU64, String> {
    let bytes = Size::parse(value).ok().and_then(|size| NonZeroU64::new(size.0));
    bytes.ok_or_else(|| format!("{key}={value} is no rate; give the bytes in a second, like 50M"))
}
