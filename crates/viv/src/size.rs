//! Amounts of memory as people write them: `512M`, `2G`, `1.5G`, `1073741824`.
//!
//! Units are powers of 1024, as memory is sold; a number alone is bytes.

use std::fmt;

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units, largest first, with their power of two.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Digits kept behind the point; more say nothing about an amount of memory.
const MAX_FRACTION: usize = 6;

impl Size {
    /// Reads `512M`, `512MiB`, `2g`, `1.5G` or a number of bytes.
    ///
    /// # Errors
    /// A sentence that says what is wrong with `text` and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "give a number with K, M, G or T, like 512M or 2G";
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if text.starts_with('-') {
            return Err(format!("an amount of memory cannot be negative; {FORM}"));
        }
        if number.is_empty() {
            return Err(format!("this is not an amount of memory; {FORM}"));
        }
        let shift = shift_of(unit).ok_or_else(|| format!("the unit '{unit}' is not known; {FORM}"))?;
        let bytes = scale(number, shift).map_err(|e| match e {
            Scale::NotANumber => format!("'{number}' is not a number; {FORM}"),
            Scale::TooLarge => "no machine has that much memory; give less".to_owned(),
        })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    /// The shortest exact form: `512M` for 536870912, `17` for 17.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            let one = 1_u64 << shift;
            if self.0 >= one && self.0.is_multiple_of(one) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// The power of two a unit stands for; none for a unit that is not known.
fn shift_of(unit: &str) -> Option<u32> {
    let mut letters = unit.chars();
    let Some(first) = letters.next() else { return Some(0) };
    let rest = letters.as_str();
    let known = rest.is_empty() || rest.eq_ignore_ascii_case("b") || rest.eq_ignore_ascii_case("ib");
    UNITS.iter().find(|(u, _)| known && first.eq_ignore_ascii_case(u)).map(|&(_, shift)| shift)
}

/// Why a number could not be scaled.
enum Scale {
    NotANumber,
    TooLarge,
}

/// `number` × 2^`shift`, rounded down to whole bytes.
fn scale(number: &str, shift: u32) -> Result<u64, Scale> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(Scale::NotANumber);
    }
    // Only overflow is left to fail: both parts hold digits alone.
    let whole: u128 = whole.parse().map_err(|_| Scale::TooLarge)?;
    let fraction = &fraction[..fraction.len().min(MAX_FRACTION)];
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| Scale::NotANumber)? };
    let ten = 10_u128.pow(fraction.len() as u32);
    let bytes = whole.checked_mul(1 << shift).and_then(|b| b.checked_add((part << shift) / ten));
    bytes.and_then(|b| u64::try_from(b).ok()).ok_or(Scale::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("512MiB", 512 << 20),
            ("2G", 2 << 30),
            ("1.5G", 3 << 29),
            ("0.25k", 256),
            ("1073741824", 1 << 30),
            ("9999T", 9999 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_amount() {
        for (text, needle) in [
            ("", "not an amount"),
            ("M", "not an amount"),
            ("-1G", "negative"),
            ("1X", "unit 'X'"),
            ("1 G", "unit ' G'"),
            ("12Mb/s", "unit 'Mb/s'"),
            (".5G", "not a number"),
            ("5.G", "not a number"),
            ("1.2.3G", "not a number"),
            ("1é", "unit 'é'"),
            ("18446744073709551616", "no machine"),
            ("99999999T", "no machine"),
            ("340282366920938463463374607431768211456", "no machine"),
            ("340282366920938463463374607431768211455T", "no machine"),
        ] {
            let error = Size::parse(text).expect_err(text);
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn writes_the_shortest_exact_form() {
        for (bytes, text) in [(0, "0"), (17, "17"), (1 << 10, "1K"), (1536 << 20, "1536M"), (2 << 30, "2G")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
