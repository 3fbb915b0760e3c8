//! The 128 bytes, and the time and the alarm as they are encoded in them.

use super::calendar::DateTime;
use super::regs::{self, Control};

/// How many bytes there are.
pub(super) const SIZE: usize = 128;

/// The bytes.
#[derive(Debug, Clone)]
pub(super) struct Ram([u8; SIZE]);

impl Ram {
    pub(super) fn zeroed() -> Self {
        Self([0; SIZE])
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The byte at `index`, of which bit 7 does not count.
    pub(super) fn get(&self, index: u8) -> u8 {
        self.0.get(usize::from(index & 0x7f)).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.0.get_mut(usize::from(index & 0x7f)) {
            *byte = value;
        }
    }

    /// Writes successive bytes.
    pub(super) fn set_all(&mut self, index: u8, values: &[u8]) {
        for (index, &value) in (index..).zip(values) {
            self.set(index, value);
        }
    }

    /// Register B.
    pub(super) fn control(&self) -> Control {
        Control::from_bits_retain(self.get(regs::B))
    }

    /// Writes the time in the format that register B names.
    pub(super) fn set_time(&mut self, time: DateTime) {
        let [century, year] = [time.year / 100, time.year % 100].map(|part| u8::try_from(part).unwrap_or(0));
        for (index, value) in [
            (regs::SECONDS, self.encode(time.second)),
            (regs::MINUTES, self.encode(time.minute)),
            (regs::HOURS, self.encode_hour(time.hour)),
            (regs::DAY_OF_WEEK, self.encode(time.day_of_week())),
            (regs::DAY_OF_MONTH, self.encode(time.day)),
            (regs::MONTH, self.encode(time.month)),
            (regs::YEAR, self.encode(year)),
            (regs::CENTURY, self.encode(century)),
        ] {
            self.set(index, value);
        }
    }

    /// Reads the time in the format that register B names. The day of the week follows from the date.
    pub(super) fn time(&self) -> DateTime {
        let field = |index| self.decode(self.get(index));
        let century = u16::from(field(regs::CENTURY).min(99));
        DateTime {
            year: century.saturating_mul(100).saturating_add(field(regs::YEAR).min(99).into()),
            month: field(regs::MONTH),
            day: field(regs::DAY_OF_MONTH),
            hour: self.decode_hour(self.get(regs::HOURS)),
            minute: field(regs::MINUTES),
            second: field(regs::SECONDS),
        }
    }

    /// How many seconds after a second of the day (0 to 86,399) the alarm is next due: 1 to 86,400, if ever.
    pub(super) fn seconds_to_alarm(&self, second_of_day: u32) -> Option<u32> {
        let field = |index: u8, decode: &dyn Fn(u8) -> u8| {
            let value = self.get(index);
            // With both top bits set, every value matches.
            (value & 0xc0 != 0xc0).then(|| u32::from(decode(value)))
        };
        let hour = field(regs::HOURS_ALARM, &|value| self.decode_hour(value));
        let minute = field(regs::MINUTES_ALARM, &|value| self.decode(value));
        let second = field(regs::SECONDS_ALARM, &|value| self.decode(value));
        let start = second_of_day / 60;
        // The same minute of the next day is tried too: its seconds up to the present one have not been.
        (0..=1440_u32).find_map(|later| {
            let absolute = start.saturating_add(later);
            let minute_of_day = absolute % 1440;
            let matches = hour.is_none_or(|hour| hour == minute_of_day / 60)
                && minute.is_none_or(|minute| minute == minute_of_day % 60);
            let earliest = if later == 0 { (second_of_day % 60).saturating_add(1) } else { 0 };
            let second = second.unwrap_or(earliest);
            (matches && (earliest..60).contains(&second))
                .then(|| absolute.saturating_mul(60).saturating_add(second).saturating_sub(second_of_day))
        })
    }

    fn encode(&self, value: u8) -> u8 {
        if self.control().contains(Control::BINARY) { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.control().contains(Control::BINARY) {
            value
        } else {
            (value >> 4).saturating_mul(10).saturating_add(value & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.control().contains(Control::HOURS_24) {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        let hour = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        afternoon | self.encode(hour)
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.control().contains(Control::HOURS_24) {
            return self.decode(value);
        }
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        (self.decode(value & 0x7f) % 12).saturating_add(afternoon)
    }
}
