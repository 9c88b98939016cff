//! What was said, as messages, as text and as the tokens that a session's caches hold. A turn renders the whole
//! conversation again and runs only the tokens behind what the caches already have.

use anyhow::Result;
use monomorph::runtime::tokenizer::{ControlTokens, Special, TokenKind, Tokenizer};

use super::template::{Message, Template};

/// Stands around the number of a special token's text that somebody wrote: a private-use character.
const MARK: char = '\u{f8ff}';

/// A conversation and what of it is in the caches.
pub struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    template: Template,
    messages: Vec<Message>,
    /// The rendered text that `tokens` stand for; `None` when they stand for no text that a template would write.
    text: Option<String>,
    /// What was run and generated.
    tokens: Vec<u32>,
    /// How many of `tokens` the caches hold.
    cached: usize,
    /// The texts of control tokens: structure when the template writes them, text when somebody says them.
    special: Vec<String>,
}

/// What to run for a turn.
pub struct Prompt {
    /// All tokens of the conversation.
    pub tokens: Vec<u32>,
    /// How many of them the caches hold already.
    pub kept: usize,
    text: String,
}

impl Prompt {
    /// The tokens to run; at least one.
    pub fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.kept..]
    }
}

/// What came of a turn.
pub struct Reply {
    /// The tokens that were generated.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Whether `text` is all that `tokens` say.
    pub whole: bool,
}

impl<'a> Conversation<'a> {
    /// Nothing said yet, but for the system's message.
    pub fn new(tokenizer: &'a Tokenizer, template: Template, system: Option<&str>) -> Result<Self> {
        let mut special = Vec::new();
        for id in 0..tokenizer.vocab_size() {
            if matches!(tokenizer.kind(id)?, TokenKind::Control | TokenKind::Unknown) {
                let text =
                    String::from_utf8_lossy(tokenizer.token_bytes(id, ControlTokens::Show)?).into_owned();
                special.extend(Some(text).filter(|text| !text.is_empty()));
            }
        }
        // The longest first: none may be taken for the beginning of another.
        special.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let mut conversation = Self {
            tokenizer,
            template,
            messages: Vec::new(),
            text: Some(String::new()),
            tokens: Vec::new(),
            cached: 0,
            special,
        };
        let content = system.map(|text| conversation.marked(text));
        conversation.messages.extend(content.map(|content| Message { role: "system", content }));
        Ok(conversation)
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Forgets all but the system's message, and what the caches hold: a new conversation gives what it would give first.
    pub fn reset(&mut self) {
        self.messages.retain(|message| message.role == "system");
        self.text = None;
        self.tokens.clear();
        self.cached = 0;
    }

    /// Takes what the user says and gives what is to be run.
    pub fn ask(&mut self, said: &str) -> Result<Prompt> {
        let content = self.marked(said);
        self.messages.push(Message { role: "user", content });
        match self.prompt() {
            Ok(prompt) => Ok(prompt),
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn prompt(&self) -> Result<Prompt> {
        let text = self.template.render(&self.messages)?;
        // What was generated stays as it was generated: the same text may have other tokens when it is read.
        let continued = self.text.as_deref().filter(|known| !known.is_empty());
        let tokens = match continued.and_then(|known| text.strip_prefix(known)) {
            Some(rest) => {
                let mut tokens = self.tokens.clone();
                self.encode_marked(rest, &mut tokens)?;
                tokens
            }
            None => self.encode_whole(&text)?,
        };
        let known = &self.tokens[..self.cached];
        let same = tokens.iter().zip(known).take_while(|(a, b)| a == b).count();
        // The last token is run in any case: what follows it is wanted.
        let kept = same.min(tokens.len().saturating_sub(1));
        Ok(Prompt { tokens, kept, text })
    }

    /// Takes the user's last message back, before anything of it was run.
    pub fn unsay(&mut self) {
        self.messages.pop();
    }

    /// The turn did not take place; the caches hold the first `cached` tokens of what it would have run.
    pub fn take_back(&mut self, prompt: Prompt, cached: usize) {
        self.messages.pop();
        self.tokens = prompt.tokens;
        self.cached = cached.min(self.tokens.len());
        self.text = None;
    }

    /// The turn took place; the caches hold the first `cached` tokens of all.
    pub fn answered(&mut self, prompt: Prompt, reply: &Reply, cached: usize) {
        let said = self.marked(&reply.text);
        let content = self.template.content_of(&said).to_owned();
        self.text = reply.whole.then(|| prompt.text + &said);
        self.tokens = prompt.tokens;
        self.tokens.extend(&reply.tokens);
        self.cached = cached.min(self.tokens.len());
        self.messages.push(Message { role: "assistant", content });
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        let bos = self.tokenizer.special_ids().bos;
        // The frame of an empty text says whether the vocabulary wants a begin token; templates may write it themselves.
        let frame = self.tokenizer.encode("", Special::AsText)?;
        if let Some(bos) = bos.filter(|bos| frame.first() == Some(bos)) {
            let written = self.tokenizer.token_bytes(bos, ControlTokens::Show)?;
            if !text.as_bytes().starts_with(written) {
                tokens.push(bos);
            }
        }
        self.encode_marked(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Puts a mark in place of each text of a control token.
    fn marked(&self, said: &str) -> String {
        let mut text = said.to_owned();
        for (number, special) in self.special.iter().enumerate() {
            if text.contains(special.as_str()) {
                text = text.replace(special.as_str(), &format!("{MARK}{number}{MARK}"));
            }
        }
        text
    }

    /// The tokens of rendered text: control tokens as the template writes them, marks as the text that they stand for.
    fn encode_marked(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        let mut rest = text;
        while let Some((before, special, after)) = self.next_mark(rest) {
            tokens.extend(self.tokenizer.encode_part(before, Special::Parse)?);
            tokens.extend(self.tokenizer.encode_part(special, Special::AsText)?);
            rest = after;
        }
        tokens.extend(self.tokenizer.encode_part(rest, Special::Parse)?);
        Ok(())
    }

    fn next_mark<'t>(&self, text: &'t str) -> Option<(&'t str, &str, &'t str)> {
        let mut from = 0;
        while let Some(at) = text[from..].find(MARK).map(|at| from + at) {
            let inside = &text[at + MARK.len_utf8()..];
            if let Some((number, after)) = inside.split_once(MARK)
                && let Some(special) =
                    number.parse::<usize>().ok().and_then(|number| self.special.get(number))
            {
                return Some((&text[..at], special, after));
            }
            from = at + MARK.len_utf8();
        }
        None
    }
}
