//! Text in, text out: the few calls that a program needs which embeds a model.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use plan::Table;

use crate::binding::select_table;
use crate::device::{DeviceChoice, DeviceOptions, open_device};
use crate::error::Error;
use crate::gguf::Gguf;
use crate::model::{LoadOptions, Model};
use crate::queue::Queue;
use crate::session::{FinishReason, GenerateOptions, Generation, Session, Timings};
use crate::tokenizer::{ControlTokens, Special, StreamDecoder, Tokenizer};

/// A model with its tokenizer. Clones share both.
///
/// ```no_run
/// use monomorph_runtime::{DeviceChoice, Error, GenerateOptions, TextModel};
///
/// // `tables` are the model specs that are compiled into your program.
/// fn tell(tables: &[plan::Table]) -> Result<(), Error> {
///     let model = TextModel::open("model.gguf", tables, DeviceChoice::Auto)?;
///     let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
///     for piece in model.stream("Once upon a time", options)? {
///         print!("{}", piece?);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct TextModel {
    model: Model,
    tokenizer: Arc<Tokenizer>,
}

impl TextModel {
    /// Opens the model file at `path` and loads it on the device of `choice`, with the default options of both.
    ///
    /// # Errors
    /// When the file is malformed, no compiled spec fits it, memory does not suffice, or the device fails.
    pub fn open(path: impl AsRef<Path>, tables: &[Table], choice: DeviceChoice) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let opened = open_device(choice, &DeviceOptions::default())?;
        Self::load(&gguf, tables, &opened.queue, &LoadOptions::default())
    }

    /// Loads an opened file (a path, bytes, or any other source) on an opened device.
    ///
    /// # Errors
    /// As [`TextModel::open`].
    pub fn load(
        gguf: &Gguf,
        tables: &[Table],
        queue: &Arc<dyn Queue>,
        options: &LoadOptions<'_>,
    ) -> Result<Self, Error> {
        let table = select_table(gguf, tables, queue.sm())?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(gguf)?);
        let (found, wanted) = (tokenizer.vocab_size(), table.dims.vocab_size);
        if found != wanted {
            return Err(Error::VocabularySize { spec: table.spec.to_string(), found, wanted });
        }
        let model = Model::load(queue, table, gguf, options)?;
        Ok(Self { model, tokenizer })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Starts a session of its own for `prompt`, in which special tokens are taken as such, and gives the text that
    /// follows, piece by piece. End tokens of the vocabulary stop it besides those of `options`.
    ///
    /// # Errors
    /// When the prompt has no tokens or too many, or as [`Session::generate`].
    pub fn stream(&self, prompt: &str, options: GenerateOptions) -> Result<TextStream<'_>, Error> {
        let tokens = self.tokenizer.encode(prompt, Special::Parse)?;
        let mut options = options;
        options.stop.extend((0..self.tokenizer.vocab_size()).filter(|id| self.tokenizer.is_end(*id)));
        let generation = self.model.session()?.into_generation(&tokens, options)?;
        let decoder = Some(self.tokenizer.decode_stream(ControlTokens::Hide));
        Ok(TextStream { generation, decoder, tokens: Vec::new(), prompt: tokens })
    }
}

impl fmt::Debug for TextModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.model, f)
    }
}

/// A stream of text. A token that ends inside a character gives an empty piece, and the next one the whole character.
/// Dropping it at any point gives its memory back.
pub struct TextStream<'m> {
    generation: Generation<Session>,
    /// `None` once the stream has ended.
    decoder: Option<StreamDecoder<'m>>,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

impl TextStream<'_> {
    /// The tokens of the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> &[u32] {
        &self.prompt
    }

    /// The tokens so far, without the prompt.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Why the stream ended; `None` while it goes on.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.generation.finish_reason()
    }

    /// The time spent so far.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.generation.timings()
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let decoder = self.decoder.as_mut()?;
        match self.generation.next() {
            Some(Ok(token)) => {
                self.tokens.push(token);
                Some(decoder.push(token).map_err(Error::from))
            }
            Some(Err(error)) => {
                self.decoder = None;
                Some(Err(error))
            }
            None => {
                // A character that was cut off by the end shows as a replacement character.
                let rest = decoder.finish();
                self.decoder = None;
                (!rest.is_empty()).then_some(Ok(rest))
            }
        }
    }
}
