//! The archives that the host's apt is configured for (sources.list(5)).
//!
//! Both styles are read, one line each and stanzas. An entry is taken if it offers component `main` of the
//! host's own release, its updates or its security updates. Whether it is Debian's shows when its index has
//! been read: see [`apt`](super::apt).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::files;
use crate::tool::{self, Program, Runner};

/// The component that Debian consists of.
const COMPONENT: &str = "main";
/// Names that stand for a release and move from one to the next.
const MOVING_NAMES: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];
/// Fields of a stanza that say what to fetch; they are written anew. All others, such as the key that signs
/// an archive, say how, and are kept.
const REWRITTEN: [&str; 8] =
    ["types", "uris", "suites", "components", "enabled", "architectures", "languages", "targets"];

/// Why the host's archives are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of them fits.
    #[error(
        "the host's apt configuration has no archive with component {COMPONENT} of {release}, its own release"
    )]
    None {
        /// The host's release.
        release: String,
    },
    /// The host does not say what it is.
    #[error("/etc/os-release names no release (VERSION_CODENAME)")]
    NoRelease,
    /// Asking apt failed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Which of a release's archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Release,
    Updates,
    Security,
}

impl Part {
    /// The ending of the suite's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Release => "",
            Self::Updates => "-updates",
            Self::Security => "-security",
        }
    }
}

/// One archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub uri: String,
    /// The release in it, with its ending.
    pub suite: String,
    part: Part,
    /// How to fetch it, as fields of a stanza: name and value, which may have several lines.
    options: Vec<(String, String)>,
}

/// The archives of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archives {
    entries: Vec<Entry>,
}

impl Archives {
    /// The same archives for another release.
    #[must_use]
    pub fn for_suite(mut self, suite: &str) -> Self {
        for entry in &mut self.entries {
            entry.suite = format!("{suite}{}", entry.part.suffix());
        }
        self.entries.dedup();
        self
    }

    /// The archives for which this holds.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
    }

    /// Whether there is the release itself, without which updates are of no use.
    #[must_use]
    pub fn has_release(&self) -> bool {
        self.entries.iter().any(|entry| entry.part == Part::Release)
    }

    /// The names of the suites, for messages.
    #[must_use]
    pub fn suites(&self) -> String {
        let mut names: Vec<&str> = self.entries.iter().map(|entry| entry.suite.as_str()).collect();
        names.dedup();
        names.join(", ")
    }

    /// The archives as stanzas. `keyring` may replace the path of a file with keys.
    #[must_use]
    pub fn to_stanzas(&self, keyring: impl Fn(&str) -> Option<String>) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "Types: deb\nURIs: {}\nSuites: {}\nComponents: {COMPONENT}",
                entry.uri, entry.suite
            );
            for (name, value) in &entry.options {
                if !name.eq_ignore_ascii_case("signed-by") || !value.starts_with('/') {
                    let _ = writeln!(text, "{name}: {value}");
                } else if let Some(value) = keyring(value) {
                    let _ = writeln!(text, "{name}: {value}");
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Reads the host's archives of the host's release.
///
/// # Errors
/// If there are none.
pub fn of_host(runner: &Runner<'_>) -> Result<Archives, Error> {
    let release =
        host_release(&files::read_to_string(Path::new("/etc/os-release"))?).ok_or(Error::NoRelease)?;
    let question = ["shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"];
    let places = runner.query(&Program::new("apt-config").args(question))?;
    let mut entries = Vec::new();
    for file in source_files(&places)? {
        let text = files::read_to_string(&file)?;
        let found = if file.extension().is_some_and(|ending| ending == "sources") {
            parse_stanzas(&text)
        } else {
            parse_lines(&text)
        };
        entries.extend(found.into_iter().filter_map(|source| source.entry(&release)));
    }
    if entries.is_empty() { Err(Error::None { release }) } else { Ok(Archives { entries }) }
}

/// The files that apt reads, from what `apt-config shell` says about them.
fn source_files(places: &str) -> Result<Vec<PathBuf>, Error> {
    let place = |name: &str| {
        let line = places.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(PathBuf::from(line.trim_matches('\'')))
    };
    let mut found: Vec<PathBuf> = place("LIST").filter(|list| list.is_file()).into_iter().collect();
    if let Some(parts) = place("PARTS") {
        let read =
            |file: &PathBuf| file.extension().is_some_and(|ending| ending == "list" || ending == "sources");
        found.extend(files::entries(&parts)?.into_iter().filter(read));
    }
    Ok(found)
}

/// `VERSION_CODENAME` (os-release(5)).
fn host_release(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// One place and one suite as configured.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    components: Vec<String>,
    options: Vec<(String, String)>,
}

impl Source {
    /// The archive, if it is one of the host's release.
    fn entry(self, release: &str) -> Option<Entry> {
        if !self.components.iter().any(|component| component == COMPONENT) {
            return None;
        }
        let (name, part) = [Part::Updates, Part::Security]
            .into_iter()
            .find_map(|part| Some((self.suite.strip_suffix(part.suffix())?, part)))
            .unwrap_or((&self.suite, Part::Release));
        (name == release || MOVING_NAMES.contains(&name)).then_some(())?;
        Some(Entry { uri: self.uri, suite: self.suite, part, options: self.options })
    }
}

/// The one-line style: `deb [option=value ...] uri suite component ...`.
fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(|line| parse_line(line.split('#').next().unwrap_or_default())).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let mut rest = line.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    rest = rest.trim_start();
    let mut options = Vec::new();
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        for (name, value) in inside.split_whitespace().filter_map(|option| option.split_once('=')) {
            // Short names of what is called otherwise in stanzas.
            if !matches!(name, "arch" | "lang" | "target") {
                options.push((name.to_owned(), value.replace(',', " ")));
            }
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source { uri: words.next()?, suite: words.next()?, components: words.collect(), options })
}

/// The style of stanzas with fields (deb822(5)).
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    // The empty line at the end closes the last stanza.
    for line in text.lines().filter(|line| !line.starts_with('#')).chain([""]) {
        if line.trim().is_empty() {
            sources.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sources
}

/// The sources of one stanza: each place with each suite.
fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map_or("", |(_, value)| value.as_str())
    };
    let disabled = ["no", "false", "0", "off", "disable", "without"];
    if disabled.contains(&field("enabled").to_ascii_lowercase().as_str())
        || !field("types").split_whitespace().any(|kind| kind == "deb")
    {
        return Vec::new();
    }
    let options: Vec<(String, String)> = fields
        .iter()
        .filter(|(name, _)| !REWRITTEN.contains(&name.to_ascii_lowercase().as_str()))
        .cloned()
        .collect();
    let components: Vec<String> = field("components").split_whitespace().map(str::to_owned).collect();
    let mut sources = Vec::new();
    for uri in field("uris").split_whitespace() {
        for suite in field("suites").split_whitespace() {
            sources.push(Source {
                uri: uri.into(),
                suite: suite.into(),
                components: components.clone(),
                options: options.clone(),
            });
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archives(sources: Vec<Source>) -> Archives {
        Archives { entries: sources.into_iter().filter_map(|source| source.entry("bookworm")).collect() }
    }

    const LINES: &str = "\
# a comment
deb http://mirror.invalid/debian bookworm main contrib # and another
deb-src http://mirror.invalid/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.invalid/security bookworm-security main
deb http://other.invalid/tools bookworm stable
deb http://other.invalid/flat ./
debian is not a keyword
";

    const STANZAS: &str = "\
Types: deb deb-src
# a comment inside
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main
";

    #[test]
    fn lines_are_read() {
        let found = archives(parse_lines(LINES)).entries;
        let places: Vec<_> = found.iter().map(|entry| (entry.uri.as_str(), entry.suite.as_str())).collect();
        assert_eq!(
            places,
            [
                ("http://mirror.invalid/debian", "bookworm"),
                ("http://mirror.invalid/security", "bookworm-security")
            ]
        );
        assert_eq!(found[1].options, [("signed-by".into(), "/usr/share/keyrings/k.gpg".into())]);
    }

    #[test]
    fn stanzas_are_read_with_their_keys() {
        let found = archives(parse_stanzas(STANZAS)).entries;
        let suites: Vec<_> = found.iter().map(|entry| entry.suite.as_str()).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates"]);
        let (name, key) = &found[0].options[0];
        assert_eq!(name, "Signed-By");
        assert!(key.ends_with("\n .\n abc"), "{key:?}");
    }

    #[test]
    fn other_releases_keep_places_and_options() {
        let text = archives(parse_lines(LINES)).for_suite("trixie").to_stanzas(|path| Some(path.to_owned()));
        assert!(text.contains("URIs: http://mirror.invalid/debian\nSuites: trixie\nComponents: main\n"));
        assert!(
            text.contains(
                "Suites: trixie-security\nComponents: main\nsigned-by: /usr/share/keyrings/k.gpg\n"
            )
        );
        assert!(!text.contains("bookworm"));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let before = archives(parse_stanzas(STANZAS));
        let text = before.to_stanzas(|path| Some(path.to_owned()));
        assert_eq!(archives(parse_stanzas(&text)), before);
    }

    #[test]
    fn moving_names_count_as_the_hosts_release() {
        let found =
            archives(parse_lines("deb http://m.invalid/d stable main\ndeb http://m.invalid/d trixie main\n"));
        assert_eq!(found.entries.len(), 1);
        assert!(found.has_release());
    }

    #[test]
    fn the_hosts_release_is_found() {
        assert_eq!(host_release("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(host_release("VERSION_CODENAME=\"trixie\"").as_deref(), Some("trixie"));
        assert_eq!(host_release("ID=debian\n"), None);
    }
}
