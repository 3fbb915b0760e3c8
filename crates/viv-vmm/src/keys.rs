//! What somebody types, as text.
//!
//! Characters stand for themselves, as on a keyboard of the US layout; a line break is the enter key. What is in angle
//! brackets is
//!
//! - a key by its name: `<enter>`, `<esc>`, `<f12>`, `<pgdn>`, `<kp5>`;
//! - keys that are pressed together: `<ctrl-alt-del>`, `<alt-f4>`, `<ctrl-c>`, `<shift-tab>`;
//! - a pause in seconds: `<wait 2>`, `<wait 0.5>`;
//! - `<` itself: `<lt>`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use viv_devices::i8042::Key;

/// The longest text, in bytes.
pub const MAX_LENGTH: usize = 16 << 10;
/// The longest pause.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// What stands for `<`.
const LESS_THAN: &str = "lt";

/// What is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keystrokes(Vec<Keystroke>);

/// One thing that a typist does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keystroke {
    /// Presses keys one after the other, and lets them go.
    Press(Vec<Key>),
    /// Waits.
    Wait(Duration),
}

/// Why a text cannot be typed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is too long.
    #[error("{length} bytes are too much to type: give at most {MAX_LENGTH}")]
    Length {
        /// Its length.
        length: usize,
    },
    /// No key has the character.
    #[error("no key of the US layout gives '{}'", .0.escape_default())]
    Character(char),
    /// A `<` without its `>`.
    #[error("'<' begins the name of a key and there is no '>' behind it: give <lt> for the character")]
    Open,
    /// There is no such key.
    #[error("there is no key '{name}': give a character or one of {names}", names = Names)]
    Key {
        /// What was given.
        name: String,
    },
    /// A pause that is none.
    #[error("'{given}' is no time to wait: give seconds up to {}, as in <wait 2>", MAX_WAIT.as_secs())]
    Wait {
        /// What was given.
        given: String,
    },
}

/// The names of keys, as a list.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Key::names().collect();
        f.write_str(&names.join(", "))
    }
}

impl Keystrokes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Keystroke> {
        self.0.iter()
    }
}

impl FromStr for Keystrokes {
    type Err = KeysError;

    fn from_str(text: &str) -> Result<Self, KeysError> {
        if text.len() > MAX_LENGTH {
            return Err(KeysError::Length { length: text.len() });
        }
        let mut strokes = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (stroke, behind) = match rest.strip_prefix('<') {
                Some(named) => {
                    let (name, behind) = named.split_once('>').ok_or(KeysError::Open)?;
                    (in_brackets(name)?, behind)
                }
                None => (of_character(character)?, &rest[character.len_utf8()..]),
            };
            strokes.push(stroke);
            rest = behind;
        }
        Ok(Self(strokes))
    }
}

fn of_character(character: char) -> Result<Keystroke, KeysError> {
    let (key, shift) = Key::by_character(character).ok_or(KeysError::Character(character))?;
    Ok(Keystroke::Press(if shift { vec![Key::SHIFT, key] } else { vec![key] }))
}

/// What is between angle brackets.
fn in_brackets(name: &str) -> Result<Keystroke, KeysError> {
    if name == LESS_THAN {
        return of_character('<');
    }
    if let Some(seconds) = name.strip_prefix("wait ") {
        let wait = seconds.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let wait = wait.filter(|wait| *wait <= MAX_WAIT);
        return wait.map(Keystroke::Wait).ok_or_else(|| KeysError::Wait { given: seconds.to_owned() });
    }
    let mut keys = Vec::new();
    let mut rest = name;
    loop {
        // The name of a whole key goes first, because some have a hyphen in them, and one is nothing else.
        if let Some(key) = Key::by_name(rest) {
            keys.push(key);
            return Ok(Keystroke::Press(keys));
        }
        let hyphens = rest.match_indices('-').rev();
        let mut splits = hyphens.map(|(at, _)| (&rest[..at], &rest[at + 1..]));
        let split = splits.find_map(|(first, behind)| Some((Key::by_name(first)?, behind)));
        let (key, behind) = split.ok_or_else(|| KeysError::Key { name: rest.to_owned() })?;
        keys.push(key);
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(names: &[&str]) -> Keystroke {
        Keystroke::Press(names.iter().map(|name| Key::by_name(name).unwrap()).collect())
    }

    fn typed(text: &str) -> Vec<Keystroke> {
        text.parse::<Keystrokes>().unwrap().0
    }

    #[test]
    fn text_is_typed_as_it_is() {
        assert_eq!(
            typed("aB1!\n"),
            [press(&["a"]), press(&["shift", "b"]), press(&["1"]), press(&["shift", "1"]), press(&["enter"]),]
        );
        assert_eq!(typed(""), []);
    }

    #[test]
    fn keys_have_names() {
        assert_eq!(
            typed("<esc><f12><lt>><ctrl-alt-del>"),
            [
                press(&["esc"]),
                press(&["f12"]),
                press(&["shift", ","]),
                press(&["shift", "."]),
                press(&["ctrl", "alt", "del"]),
            ]
        );
        assert_eq!(
            typed("<ctrl--><-><right-ctrl-a><kp-><shift-kp->"),
            [
                press(&["ctrl", "-"]),
                press(&["-"]),
                press(&["right-ctrl", "a"]),
                press(&["kp-"]),
                press(&["shift", "kp-"]),
            ]
        );
    }

    #[test]
    fn pauses_are_in_seconds() {
        let seconds = |seconds| Keystroke::Wait(Duration::from_secs_f64(seconds));
        assert_eq!(typed("<wait 2><wait 0.5>"), [seconds(2.0), seconds(0.5)]);
    }

    #[test]
    fn what_cannot_be_typed_is_refused() {
        let refused = |text: &str| text.parse::<Keystrokes>().unwrap_err();
        assert_eq!(refused("ä"), KeysError::Character('ä'));
        assert_eq!(refused("a<esc"), KeysError::Open);
        for (text, name) in [("<entr>", "entr"), ("<ctrl-x1>", "x1"), ("<>", ""), ("<ctrl->", "")] {
            assert_eq!(refused(text), KeysError::Key { name: name.to_owned() }, "{text}");
        }
        for wait in ["x", "-1", "3601", "nan", "inf", ""] {
            assert_eq!(refused(&format!("<wait {wait}>")), KeysError::Wait { given: wait.to_owned() });
        }
        assert_eq!(refused(&"a".repeat(MAX_LENGTH + 1)), KeysError::Length { length: MAX_LENGTH + 1 });
        assert!(refused("<entr>").to_string().contains("esc, enter"));
    }
}
