//! Dates of the Gregorian calendar.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "every value is bounded: seconds are clamped to the years 0 to 9999 before anything is computed"
)]

const SECONDS_PER_DAY: i64 = 86_400;
/// From 1 March of year 0 to 1 January 1970. Counting years from March puts the leap day last.
const DAYS_TO_EPOCH: i64 = 719_468;
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// A date and time of day, as a clock shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    /// 0 to 9999.
    pub(super) year: u16,
    /// From 1.
    pub(super) month: u8,
    /// From 1.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// What a clock shows `seconds` after the Unix epoch; the nearest it can show, for times beyond its years.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let seconds = seconds.clamp(FIRST_SECOND, LAST_SECOND);
        let days = seconds.div_euclid(SECONDS_PER_DAY) + DAYS_TO_EPOCH;
        let in_day = seconds.rem_euclid(SECONDS_PER_DAY);
        // A cycle of 400 years has 146,097 days.
        let cycle = days.div_euclid(146_097);
        let in_cycle = days.rem_euclid(146_097);
        let year_in_cycle = (in_cycle - in_cycle / 1460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
        let in_year = in_cycle - days_before_year(year_in_cycle);
        let month = (5 * in_year + 2) / 153;
        let day = in_year - days_before_month(month) + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self {
            year: (cycle * 400 + year_in_cycle + carry) as u16,
            month: month as u8,
            day: day as u8,
            hour: (in_day / 3600) as u8,
            minute: (in_day / 60 % 60) as u8,
            second: (in_day % 60) as u8,
        }
    }

    /// Seconds since the Unix epoch. Fields beyond their range run over into the next.
    pub(super) fn to_unix(self) -> i64 {
        let months = i64::from(self.year) * 12 + i64::from(self.month) - 3;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12));
        let (cycle, year_in_cycle) = (year.div_euclid(400), year.rem_euclid(400));
        let days = cycle * 146_097
            + days_before_year(year_in_cycle)
            + days_before_month(month)
            + i64::from(self.day)
            - 1
            - DAYS_TO_EPOCH;
        let seconds = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + seconds
    }

    /// The day of the week, 1 for Sunday.
    pub(super) fn day_of_week(self) -> u8 {
        // The epoch was a Thursday.
        ((self.to_unix().div_euclid(SECONDS_PER_DAY) + 4).rem_euclid(7) + 1) as u8
    }
}

/// The days before a year of a cycle, years beginning in March.
fn days_before_year(year: i64) -> i64 {
    365 * year + year / 4 - year / 100
}

/// The days before a month of a year, 0 for March: months of 31 and 30 days alternate, 153 in five.
fn days_before_month(month: i64) -> i64 {
    (153 * month + 2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, year, month, day, day_of_week) in [
            (0, 1970, 1, 1, 5),
            (951_782_400, 2000, 2, 29, 3),
            (951_868_800, 2000, 3, 1, 4),
            (4_107_456_000, 2100, 2, 28, 1),
            (4_107_542_400, 2100, 3, 1, 2),
            (1_735_603_200, 2024, 12, 31, 3),
            (FIRST_SECOND, 0, 1, 1, 7),
            (LAST_SECOND - 86_399, 9999, 12, 31, 6),
        ] {
            let date = DateTime::from_unix(seconds);
            assert_eq!((date.year, date.month, date.day), (year, month, day), "{seconds}");
            assert_eq!(date.day_of_week(), day_of_week, "{date:?}");
            assert_eq!(date.to_unix(), seconds);
        }
        let date = DateTime::from_unix(86_399);
        assert_eq!((date.hour, date.minute, date.second), (23, 59, 59));
    }

    #[test]
    fn every_day_follows_its_day_before() {
        let mut last = DateTime::from_unix(FIRST_SECOND);
        for day in 1..1_200_000 {
            let date = DateTime::from_unix(FIRST_SECOND + day * SECONDS_PER_DAY);
            let follows = (date.year, date.month, date.day) == (last.year, last.month, last.day + 1)
                || (date.year, date.month, date.day) == (last.year, last.month + 1, 1)
                || (date.year, date.month, date.day) == (last.year + 1, 1, 1) && last.month == 12;
            assert!(follows, "{last:?} {date:?}");
            assert_eq!(date.to_unix(), FIRST_SECOND + day * SECONDS_PER_DAY);
            last = date;
        }
    }

    #[test]
    fn fields_beyond_their_range_run_over() {
        let date = DateTime { year: 2023, month: 2, day: 31, hour: 0, minute: 0, second: 0 };
        let over = DateTime::from_unix(date.to_unix());
        assert_eq!((over.month, over.day), (3, 3));
        for byte in [0, 0xff] {
            let odd = DateTime { year: 9999, month: byte, day: byte, hour: byte, minute: byte, second: byte };
            DateTime::from_unix(odd.to_unix());
        }
    }
}
