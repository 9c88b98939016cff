//! The two ways in which vocabularies write single bytes: GPT-2's printable alphabet and SentencePiece's `<0xHH>`.

/// GPT-2's alphabet: the printable Latin-1 characters stand for themselves, the other 68 bytes take the
/// characters from U+0100 on, in order.
#[derive(Debug, Clone)]
pub(super) struct ByteAlphabet {
    chars: [char; 256],
}

/// First character of the alphabet for bytes that do not stand for themselves.
const FIRST_REPLACEMENT: u32 = 0x100;

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut replacement = FIRST_REPLACEMENT;
        let chars = std::array::from_fn(|index| {
            // An index of a 256-entry array is a byte.
            let byte = index as u8;
            if is_printable(byte) {
                return char::from(byte);
            }
            let replaced = char::from_u32(replacement).unwrap_or(char::REPLACEMENT_CHARACTER);
            replacement += 1;
            replaced
        });
        Self { chars }
    }

    /// The character that stands for `byte`.
    pub(super) fn char(&self, byte: u8) -> char {
        self.chars[usize::from(byte)]
    }

    /// The byte that `c` stands for, or nothing for a character outside the alphabet.
    pub(super) fn byte(&self, c: char) -> Option<u8> {
        match u32::from(c) {
            code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| is_printable(*byte)),
            FIRST_REPLACEMENT..=0x143 => {
                let index = self.chars.iter().position(|other| *other == c)?;
                u8::try_from(index).ok()
            }
            _ => None,
        }
    }

    /// `bytes` written in the alphabet.
    pub(super) fn write(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|byte| self.char(*byte)).collect()
    }

    /// The bytes that a token text stands for. A character outside the alphabet (some models list added tokens as
    /// ordinary ones) stands for its own UTF-8 bytes.
    pub(super) fn read(&self, text: &str, out: &mut Vec<u8>) {
        for c in text.chars() {
            match self.byte(c) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// Whether `byte` stands for itself: `!`..`~`, `¡`..`¬`, `®`..`ÿ`.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte of a token written exactly `<0xHH>` with two upper-case hexadecimal digits; nothing else is accepted.
pub(super) fn parse_byte_token(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [b'<', b'0', b'x', high, low, b'>'] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_alphabet() {
        let alphabet = ByteAlphabet::new();
        for byte in 0..=255u8 {
            assert_eq!(alphabet.byte(alphabet.char(byte)), Some(byte));
        }
        assert_eq!(alphabet.write(b" \n\t\0A\x7f\xad"), "ĠĊĉĀAġŃ");
    }

    #[test]
    fn characters_outside_the_alphabet_stand_for_themselves() {
        let mut out = Vec::new();
        ByteAlphabet::new().read("Ġ\u{144}世 ", &mut out);
        assert_eq!(out, " \u{144}世 ".as_bytes());
    }

    #[test]
    fn byte_tokens_are_parsed_strictly() {
        for byte in 0..=255u8 {
            assert_eq!(parse_byte_token(&format!("<0x{byte:02X}>")), Some(byte));
        }
        for bad in
            ["<0x0a>", "<0X0A>", "<0xA>", "<0x00A>", "<0x+A>", "<0xG0>", " <0x0A>", "<0x0A", "0x0A", ""]
        {
            assert_eq!(parse_byte_token(bad), None, "{bad}");
        }
    }
}
