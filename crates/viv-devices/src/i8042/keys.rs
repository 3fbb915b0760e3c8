//! The keys of an enhanced keyboard in the US layout, by name and by character, with their codes of scan code set 2.

use serde::{Deserialize, Serialize};

use super::regs::BREAK;

/// The prefix of keys that the first keyboards had not.
const EXTENDED: u16 = 0xe0 << 8;
/// What goes before the pause key's codes.
const PAUSE_PREFIX: u8 = 0xe1;
/// The pause key. It has a sequence of its own.
const PAUSE: u16 = (PAUSE_PREFIX as u16) << 8;

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(u16);

impl Key {
    /// The left shift key.
    pub const SHIFT: Self = Self(0x12);

    /// The key with this name, such as `enter`, `f12`, `ctrl` or `a`: see [`Key::names`]. A character that a key gives
    /// without others is its name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let named = NAMED.iter().find(|(known, _)| *known == name);
        let mut characters = name.chars();
        let character = characters.next().filter(|_| characters.next().is_none());
        let plain = || Self::by_character(character?).filter(|(_, shift)| !shift);
        named.map(|&(_, code)| Self(code)).or_else(|| Some(plain()?.0))
    }

    /// The names of keys that are no characters.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, _)| *name)
    }

    /// The key that gives this character, and whether it does so together with [`Key::SHIFT`].
    #[must_use]
    pub fn by_character(character: char) -> Option<(Self, bool)> {
        CHARACTERS.iter().find_map(|&(code, plain, shifted)| match character {
            _ if character == plain => Some((Self(code), false)),
            _ if character == shifted => Some((Self(code), true)),
            _ => None,
        })
    }

    /// What a keyboard sends when it goes down or up.
    pub(super) fn set_2(self, down: bool) -> Vec<u8> {
        let [prefix, code] = self.0.to_be_bytes();
        match (prefix, down) {
            (0, true) => vec![code],
            (0, false) => vec![BREAK, code],
            // It is never up.
            (PAUSE_PREFIX, true) => vec![0xe1, 0x14, 0x77, 0xe1, BREAK, 0x14, BREAK, 0x77],
            (PAUSE_PREFIX, false) => Vec::new(),
            (_, true) => vec![prefix, code],
            (_, false) => vec![prefix, BREAK, code],
        }
    }
}

/// The keys that are no characters.
const NAMED: [(&str, u16); 62] = [
    ("esc", 0x76),
    ("enter", 0x5a),
    ("tab", 0x0d),
    ("space", 0x29),
    ("backspace", 0x66),
    ("ctrl", 0x14),
    ("shift", 0x12),
    ("alt", 0x11),
    ("win", EXTENDED | 0x1f),
    ("right-ctrl", EXTENDED | 0x14),
    ("right-shift", 0x59),
    ("right-alt", EXTENDED | 0x11),
    ("right-win", EXTENDED | 0x27),
    ("menu", EXTENDED | 0x2f),
    ("caps", 0x58),
    ("num", 0x77),
    ("scroll", 0x7e),
    ("print", EXTENDED | 0x7c),
    ("pause", PAUSE),
    ("ins", EXTENDED | 0x70),
    ("del", EXTENDED | 0x71),
    ("home", EXTENDED | 0x6c),
    ("end", EXTENDED | 0x69),
    ("pgup", EXTENDED | 0x7d),
    ("pgdn", EXTENDED | 0x7a),
    ("up", EXTENDED | 0x75),
    ("down", EXTENDED | 0x72),
    ("left", EXTENDED | 0x6b),
    ("right", EXTENDED | 0x74),
    ("f1", 0x05),
    ("f2", 0x06),
    ("f3", 0x04),
    ("f4", 0x0c),
    ("f5", 0x03),
    ("f6", 0x0b),
    ("f7", 0x83),
    ("f8", 0x0a),
    ("f9", 0x01),
    ("f10", 0x09),
    ("f11", 0x78),
    ("f12", 0x07),
    ("kp0", 0x70),
    ("kp1", 0x69),
    ("kp2", 0x72),
    ("kp3", 0x7a),
    ("kp4", 0x6b),
    ("kp5", 0x73),
    ("kp6", 0x74),
    ("kp7", 0x6c),
    ("kp8", 0x75),
    ("kp9", 0x7d),
    ("kp.", 0x71),
    ("kp+", 0x79),
    ("kp-", 0x7b),
    ("kp*", 0x7c),
    ("kp/", EXTENDED | 0x4a),
    ("kpenter", EXTENDED | 0x5a),
    ("lt", 0x41),
    ("minus", 0x4e),
    ("iso", 0x61),
    ("power", EXTENDED | 0x37),
    ("sleep", EXTENDED | 0x3f),
];

/// The keys of characters: what they give alone, and with shift.
const CHARACTERS: [(u16, char, char); 50] = [
    (0x0e, '`', '~'),
    (0x16, '1', '!'),
    (0x1e, '2', '@'),
    (0x26, '3', '#'),
    (0x25, '4', '$'),
    (0x2e, '5', '%'),
    (0x36, '6', '^'),
    (0x3d, '7', '&'),
    (0x3e, '8', '*'),
    (0x46, '9', '('),
    (0x45, '0', ')'),
    (0x4e, '-', '_'),
    (0x55, '=', '+'),
    (0x15, 'q', 'Q'),
    (0x1d, 'w', 'W'),
    (0x24, 'e', 'E'),
    (0x2d, 'r', 'R'),
    (0x2c, 't', 'T'),
    (0x35, 'y', 'Y'),
    (0x3c, 'u', 'U'),
    (0x43, 'i', 'I'),
    (0x44, 'o', 'O'),
    (0x4d, 'p', 'P'),
    (0x54, '[', '{'),
    (0x5b, ']', '}'),
    (0x5d, '\\', '|'),
    (0x1c, 'a', 'A'),
    (0x1b, 's', 'S'),
    (0x23, 'd', 'D'),
    (0x2b, 'f', 'F'),
    (0x34, 'g', 'G'),
    (0x33, 'h', 'H'),
    (0x3b, 'j', 'J'),
    (0x42, 'k', 'K'),
    (0x4b, 'l', 'L'),
    (0x4c, ';', ':'),
    (0x52, '\'', '"'),
    (0x1a, 'z', 'Z'),
    (0x22, 'x', 'X'),
    (0x21, 'c', 'C'),
    (0x2a, 'v', 'V'),
    (0x32, 'b', 'B'),
    (0x31, 'n', 'N'),
    (0x3a, 'm', 'M'),
    (0x41, ',', '<'),
    (0x49, '.', '>'),
    (0x4a, '/', '?'),
    (0x29, ' ', ' '),
    (0x5a, '\n', '\r'),
    (0x0d, '\t', '\t'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_that_can_be_typed_has_a_key() {
        for character in (' '..='~').chain(['\n', '\t']) {
            assert!(Key::by_character(character).is_some(), "{character:?}");
        }
        assert_eq!(Key::by_character('ä'), None);
        assert_eq!(Key::by_character('A'), Key::by_character('a').map(|(key, _)| (key, true)));
    }

    #[test]
    fn names_are_of_one_key_each() {
        let names: std::collections::HashSet<_> = Key::names().collect();
        assert_eq!(names.len(), NAMED.len());
        assert_eq!(Key::by_name("a"), Key::by_character('a').map(|(key, _)| key));
        assert_eq!(Key::by_name("shift"), Some(Key::SHIFT));
        for nothing in ["A", "", "f13", "enterr", "ä"] {
            assert_eq!(Key::by_name(nothing), None);
        }
    }

    #[test]
    fn keys_go_down_and_up_with_their_codes() {
        let codes = |name, down| Key::by_name(name).unwrap().set_2(down);
        assert_eq!((codes("a", true), codes("a", false)), (vec![0x1c], vec![0xf0, 0x1c]));
        assert_eq!((codes("up", true), codes("up", false)), (vec![0xe0, 0x75], vec![0xe0, 0xf0, 0x75]));
        assert_eq!((codes("pause", true).len(), codes("pause", false).len()), (8, 0));
    }
}
