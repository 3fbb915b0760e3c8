//! The characters of code page 437, which the fonts of PC firmware have.

/// 0x00 to 0x1f.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
/// 0x7f to 0xff.
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The character with this code.
pub(super) fn character(code: u8) -> char {
    let (table, index) = match code {
        0x00..=0x1f => (LOW, code),
        0x20..=0x7e => return char::from(code),
        _ => (HIGH, code.saturating_sub(0x7f)),
    };
    table.chars().nth(index.into()).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_character() {
        let all: std::collections::BTreeSet<char> = (0..=255).map(character).collect();
        assert_eq!(all.len(), 255, "but for the space, which zero shows as well");
        assert!(!all.contains(&char::REPLACEMENT_CHARACTER));
        for (code, expected) in [(0x01, '☺'), (0x1f, '▼'), (b'A', 'A'), (0x80, 'Ç'), (0xb3, '│'), (0xdb, '█')]
        {
            assert_eq!(character(code), expected);
        }
        assert_eq!((character(0xe1), character(0xfe), character(0xff)), ('ß', '■', '\u{a0}'));
    }
}
