//! What images are called.

use std::fmt;
use std::str::FromStr;

/// Debian releases that can be built, the default first.
const DEBIAN_SUITES: [&str; 2] = ["bookworm", "trixie"];

/// Name of an image: `debian`, which stands for the default release, or `debian:RELEASE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    suite: &'static str,
}

/// A name that is no image's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no image called {name:?}; {}", suggestion(nearest))]
pub struct UnknownName {
    /// The name as it was given.
    pub name: String,
    /// Names that exist, the most similar first.
    pub nearest: Vec<String>,
}

fn suggestion(nearest: &[String]) -> String {
    format!("did you mean {}?", nearest.join(", "))
}

impl ImageName {
    /// All names that can be built, in full.
    pub fn all() -> impl Iterator<Item = Self> {
        DEBIAN_SUITES.into_iter().map(|suite| Self { suite })
    }

    /// The Debian release, as the archive calls it.
    #[must_use]
    pub fn suite(&self) -> &'static str {
        self.suite
    }

    /// Name of its directory in the store.
    pub(crate) fn directory(&self) -> String {
        format!("debian-{}", self.suite)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "debian:{}", self.suite)
    }
}

impl FromStr for ImageName {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = || {
            let short = DEBIAN_SUITES.first().map(|suite| ("debian".to_owned(), Self { suite }));
            short.into_iter().chain(Self::all().map(|name| (name.to_string(), name)))
        };
        if let Some((_, found)) = known().find(|(full, _)| full == name) {
            return Ok(found);
        }
        let mut nearest: Vec<String> = known().map(|(full, _)| full).collect();
        nearest.sort_by_cached_key(|candidate| distance(name, candidate));
        Err(UnknownName { name: name.into(), nearest })
    }
}

/// Insertions, deletions and replacements that turn one word into the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    // Names are short; a long one is nobody's typing error.
    let from: Vec<char> = from.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (i, wanted) in to.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, given) in from.iter().enumerate() {
            let replaced = diagonal + usize::from(*given != wanted);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[from.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_are_the_same_image() {
        let short: ImageName = "debian".parse().unwrap();
        assert_eq!(short, "debian:bookworm".parse().unwrap());
        assert_eq!(short.to_string(), "debian:bookworm");
        assert_ne!(short, "debian:trixie".parse().unwrap());
    }

    #[test]
    fn unknown_names_get_the_nearest_first() {
        let nearest = |name: &str| name.parse::<ImageName>().unwrap_err().nearest[0].clone();
        assert_eq!(nearest("debain"), "debian");
        assert_eq!(nearest("debian:trixy"), "debian:trixie");
        assert_eq!(nearest("bookworm"), "debian:bookworm");
        assert_eq!(nearest(""), "debian");
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
