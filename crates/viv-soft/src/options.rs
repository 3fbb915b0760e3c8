//! How the engine runs guest code, chosen from outside. A guest behaves the same whatever is chosen.

use std::fmt;

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// One instruction after the other, by its handler.
    Interpret,
    /// As host code from its first execution on, wherever there can be host code for it.
    Translate,
    /// Interpreted first, and as host code once it has turned out to be hot.
    #[default]
    Auto,
}

impl Tier {
    /// All of them with the names by which they are chosen.
    const NAMES: [(&str, Self); 3] =
        [("interp", Self::Interpret), ("translate", Self::Translate), ("auto", Self::Auto)];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, tier)| tier == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// What makes mistakes of the engine show early, at a great loss of speed: code is translated at its first
/// execution, some of it an instruction at a time, and caches are dropped and links cut at random moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torture {
    /// Where the random moments come from. Equal seeds give equal ones.
    pub seed: u64,
}

/// What can be chosen about a software engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How guest code is executed.
    pub tier: Tier,
    /// Whether the engine is tortured, and how.
    pub torture: Option<Torture>,
    /// Memory of each processor for translated code.
    pub code_memory: CodeMemory,
    /// Whether `perf` is told what translated code is called.
    pub perf_map: bool,
}

/// How much memory there is for translated code. With little of it translations are dropped and made again all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeMemory {
    kib: usize,
}

impl CodeMemory {
    const MIN_KIB: usize = 256;
    const MAX_KIB: usize = 1 << 20;
    const DEFAULT: Self = Self { kib: 128 << 10 };

    /// So many KiB; at least 256 and at most a million or so.
    pub const fn new(kib: usize) -> Option<Self> {
        if kib < Self::MIN_KIB || kib > Self::MAX_KIB { None } else { Some(Self { kib }) }
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.kib << 10
    }
}

impl Default for CodeMemory {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a text chooses no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no such key.
    #[error("the soft engine has no option '{key}'; give {ACCEPTED}")]
    Unknown {
        /// What was given for one.
        key: String,
    },
    /// There is no value.
    #[error("the engine option '{key}' has no value; give {accepted}")]
    NoValue {
        /// The key.
        key: &'static str,
        /// What it takes.
        accepted: &'static str,
    },
    /// The value is none of those that the key takes.
    #[error("the engine option '{key}' cannot be '{value}'; give {accepted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given for it.
        value: String,
        /// What it takes.
        accepted: &'static str,
    },
    /// A key is there more than once.
    #[error("the engine option '{key}' is given more than once; give it once")]
    Repeated {
        /// The key.
        key: &'static str,
    },
}

/// All options, for those who have found none of them.
const ACCEPTED: &str = "tier=interp|translate|auto, torture=SEED, code-memory=KIB or perf-map=on|off";

/// The keys with what each takes.
const KEYS: [(&str, &str); 4] = [
    ("tier", "interp, translate or auto"),
    ("torture", "a seed, which is a number below 2^64"),
    ("code-memory", "a number of KiB from 256 to 1048576"),
    ("perf-map", "on or off"),
];

impl Options {
    /// Everything as by default but the way in which code is executed.
    pub const fn with_tier(tier: Tier) -> Self {
        Self { tier, torture: None, code_memory: CodeMemory::DEFAULT, perf_map: false }
    }

    /// Reads options from texts of the form `key=value`: `tier=interp`, `tier=translate` or `tier=auto`,
    /// `torture=SEED`, `code-memory=KIB`, and `perf-map=on` or `perf-map=off`. What is not named is as by default.
    ///
    /// # Errors
    /// One for the first text that chooses nothing.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for text in texts {
            let text = text.as_ref();
            let (name, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
            let &(key, accepted) = KEYS
                .iter()
                .find(|(key, _)| *key == name)
                .ok_or_else(|| OptionError::Unknown { key: name.to_owned() })?;
            let value = value.ok_or(OptionError::NoValue { key, accepted })?;
            if seen.contains(&key) {
                return Err(OptionError::Repeated { key });
            }
            seen.push(key);
            options.set(key, value).ok_or_else(|| OptionError::Value {
                key,
                value: value.to_owned(),
                accepted,
            })?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "tier" => self.tier = Tier::NAMES.iter().find(|(name, _)| *name == value)?.1,
            "torture" => self.torture = Some(Torture { seed: value.parse().ok()? }),
            "code-memory" => self.code_memory = CodeMemory::new(value.parse().ok()?)?,
            _ => self.perf_map = ["off", "on"].iter().position(|name| *name == value)? == 1,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_pairs() {
        let parse = |texts: &[&str]| Options::parse(texts).unwrap();
        assert_eq!(parse(&[]), Options::default());
        assert_eq!(parse(&["tier=interp"]).tier, Tier::Interpret);
        let both = Options {
            tier: Tier::Translate,
            torture: Some(Torture { seed: u64::MAX }),
            ..Options::default()
        };
        assert_eq!(parse(&["torture=18446744073709551615", "tier=translate"]), both);
        assert_eq!(parse(&["code-memory=256"]).code_memory.bytes(), 256 << 10);
        assert!(parse(&["perf-map=on"]).perf_map && !parse(&["perf-map=off"]).perf_map);
        for (name, tier) in Tier::NAMES {
            assert_eq!(parse(&[&format!("tier={tier}")]).tier, tier, "{name}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused_with_what_would_be() {
        let line = |texts: &[&str]| Options::parse(texts).unwrap_err().to_string();
        for (texts, needle) in [
            (&["teir=auto"][..], "no option 'teir'; give tier=interp|translate|auto, torture=SEED, code"),
            (&["=auto"], "no option ''"),
            (&["tier"], "'tier' has no value; give interp, translate or auto"),
            (&["tier="], "'tier' cannot be ''"),
            (&["tier=jit"], "'tier' cannot be 'jit'; give interp, translate or auto"),
            (&["torture=yes"], "'torture' cannot be 'yes'; give a seed"),
            (&["torture=18446744073709551616"], "'torture' cannot be"),
            (&["code-memory=255"], "'code-memory' cannot be '255'; give a number of KiB"),
            (&["code-memory=1048577"], "'code-memory' cannot be"),
            (&["perf-map=1"], "'perf-map' cannot be '1'; give on or off"),
            (&["tier=auto", "tier=auto"], "'tier' is given more than once"),
        ] {
            let line = line(texts);
            assert!(line.contains(needle), "{texts:?}: {line}");
        }
    }
}
