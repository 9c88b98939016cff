//! Text out of tokens as they come. A token may end in the middle of a character, so the bytes of an incomplete
//! character are held back until the rest is there; nothing that was given out is ever taken back.

use super::Tokenizer;
use super::error::TokenizerError;

/// What becomes of control and unknown tokens in the decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlTokens {
    /// They give no text.
    #[default]
    Hide,
    /// They are written out, as `<|im_end|>`.
    Show,
}

/// Turns bytes into text piece by piece. All pieces together equal the lossy conversion of all bytes at once: U+FFFD
/// stands for each invalid sequence, written as soon as it is certain, and for a character cut off by the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Utf8Stream {
    /// The beginning of a character: at most three bytes between calls.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// The text that is certain once `bytes` have come.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            kept += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the last chunk can be a character still coming.
            if kept + invalid.len() == self.held.len() && is_incomplete(invalid) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            kept += invalid.len();
        }
        self.held.drain(..kept);
        text
    }

    /// What is left when no more bytes come.
    pub(super) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&held).into_owned()
    }
}

/// Whether `bytes` are the beginning of a character rather than an error.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Decodes the tokens of one generated text as they come. Only whole characters are given out.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlTokens,
    utf8: Utf8Stream,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, control: ControlTokens) -> Self {
        Self { tokenizer, control, utf8: Utf8Stream::default() }
    }

    /// The text that token `id` completes; empty while a character is incomplete. Errors on an id past the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        Ok(self.utf8.push(self.tokenizer.token_bytes(id, self.control)?))
    }

    /// What is left at the end of the stream: U+FFFD for a character that was never completed, else nothing. The
    /// decoder can be used for another text afterwards.
    pub fn finish(&mut self) -> String {
        self.utf8.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_characters_come_out_as_soon_as_they_are_whole() {
        let mut stream = Utf8Stream::default();
        let smile = "🙂".as_bytes();
        assert_eq!(stream.push(&smile[..3]), "");
        assert_eq!(stream.push(&[smile[3], b'a', 0xC3]), "🙂a");
        assert_eq!(stream.push(&[0xA9]), "é");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn an_error_is_replaced_at_once_and_a_cut_end_at_the_end() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(&[0xFF]), "\u{FFFD}");
        assert_eq!(stream.push(&[0xFF, b'a']), "\u{FFFD}a");
        assert_eq!(stream.push(&[0xF0, 0x9F]), "");
        assert_eq!(stream.push(b"b"), "\u{FFFD}b");
        assert_eq!(stream.push(&[0xE2, 0x96]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn any_cutting_of_any_bytes_equals_the_lossy_whole() {
        let source =
            [0xF0, 0x9F, 0x99, 0x82, 0xE2, 0x96, 0x81, 0xC3, 0x28, 0xED, 0xA0, 0x80, 0xF4, 0x90, b'x', 0xC2];
        let mut state = 3u64;
        let mut next = move |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        for _ in 0..5000 {
            let bytes: Vec<u8> = (0..12).map(|_| source[next(source.len())]).collect();
            let mut stream = Utf8Stream::default();
            let (mut text, mut at) = (String::new(), 0);
            while at < bytes.len() {
                let end = (at + 1 + next(4)).min(bytes.len());
                text.push_str(&stream.push(&bytes[at..end]));
                at = end;
            }
            text.push_str(&stream.finish());
            assert_eq!(text, String::from_utf8_lossy(&bytes), "{bytes:x?}");
        }
    }
}
