//! The error of the crate. Every variant belongs to one of three classes, so that a program that embeds the runtime
//! can decide without reading text: refuse the request, try with less, or build a new engine.

use crate::api::ApiError;
use crate::binding::BindError;
use crate::gguf::GgufError;
use crate::memory::MemoryPlan;
use crate::queue::{ErrorClass, QueueError};
use crate::sampling::SamplingError;
use crate::tokenizer::{TokenizerError, VocabLoadError};

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device failed or refused.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The model file is malformed or cannot be read.
    #[error(transparent)]
    Gguf(Box<GgufError>),
    /// The model file is not the model that the kernels were made for.
    #[error(transparent)]
    Bind(Box<BindError>),
    /// The vocabulary of the model file is malformed.
    #[error(transparent)]
    Vocabulary(Box<VocabLoadError>),
    /// A text cannot be written in the vocabulary, or a token cannot be read.
    #[error(transparent)]
    Tokenizer(Box<TokenizerError>),
    /// The vocabulary is not that of the model.
    #[error("the vocabulary has {found} tokens, the embedding of spec {spec} has {wanted} rows")]
    VocabularySize {
        /// Spec of the table.
        spec: String,
        /// Tokens of the vocabulary.
        found: u32,
        /// Rows of the embedding.
        wanted: u32,
    },
    /// A call on a part of a model does not fit it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Sampling parameters out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A table that contradicts itself: a defect of what generated it.
    #[error("table of spec {spec}: {problem}")]
    Table {
        /// Spec of the table.
        spec: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// The table's kernels are for a newer device.
    #[error("kernels of spec {spec} are for sm_{wanted}, {device} is sm_{found}")]
    Target {
        /// Spec of the table.
        spec: String,
        /// Target of the table.
        wanted: u32,
        /// The device.
        device: String,
        /// Its target.
        found: u32,
    },
    /// The model, its caches and its scratch do not fit.
    #[error("{plan}; {device} has {free} bytes free")]
    Memory {
        /// What would be needed.
        plan: Box<MemoryPlan>,
        /// The device.
        device: String,
        /// Bytes free.
        free: u64,
    },
    /// A context of zero or beyond what the model was trained for.
    #[error("context of {found} positions asked for, spec {spec} allows 1 to {limit}")]
    ContextSize {
        /// Spec of the table.
        spec: String,
        /// Positions asked for.
        found: u32,
        /// The most.
        limit: u32,
    },
    /// No position left in the cache; found before any launch.
    #[error("the context is full: {wanted} positions wanted, {limit} allocated")]
    ContextFull {
        /// Positions that would be used.
        wanted: u64,
        /// Positions of the session.
        limit: u32,
    },
    /// A session cannot go back to a position that it has not reached.
    #[error("cannot go back to position {position}: the session has {found} tokens")]
    Rewind {
        /// Position asked for.
        position: u32,
        /// Tokens of the session.
        found: u32,
    },
    /// More rows than any step of the table takes, or none.
    #[error("a batch of {found} rows asked for, spec {spec} has steps of up to {limit}")]
    BatchRows {
        /// Spec of the table.
        spec: String,
        /// Rows asked for.
        found: u32,
        /// The most.
        limit: u32,
    },
    /// Drafts are verified by the greatest logit only.
    #[error("drafted decoding is greedy: it needs temperature 0 and no repetition penalty")]
    NotGreedy,
    /// A session of another model in a batch.
    #[error("entry {index} of the batch is a session of another model")]
    OtherModel {
        /// Which entry.
        index: usize,
    },
    /// A token that is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// Entries of the vocabulary.
        vocab_size: u32,
    },
    /// A generation needs at least one token to start from.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// Logits or the chosen token were asked for before a step with head.
    #[error("no logits: the last step was not one with head")]
    NoLogits,
    /// A buffer of the caller has another length than what is copied into it.
    #[error("{what}: room for {found} elements given, {wanted} wanted")]
    Room {
        /// What is copied.
        what: &'static str,
        /// Elements given.
        found: usize,
        /// Elements needed.
        wanted: usize,
    },
    /// NaN or infinite logits; this sequence ends, others go on.
    #[error("the logits after position {position} are not finite")]
    NotFinite {
        /// Position of the step that made them.
        position: u32,
    },
    /// The caller cancelled.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was going on.
        what: &'static str,
    },
    /// Host memory.
    #[error("out of host memory: {wanted} bytes wanted for {what}")]
    HostMemory {
        /// What it was for.
        what: &'static str,
        /// Bytes.
        wanted: u64,
    },
}

impl Error {
    /// What this error leaves behind.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Queue(error) => error.class(),
            Self::Memory { .. } | Self::HostMemory { .. } => ErrorClass::Resource,
            Self::Gguf(error) => match **error {
                GgufError::Open { .. } | GgufError::Read { .. } | GgufError::Memory { .. } => {
                    ErrorClass::Resource
                }
                _ => ErrorClass::Request,
            },
            _ => ErrorClass::Request,
        }
    }
}

impl From<BindError> for Error {
    fn from(error: BindError) -> Self {
        Self::Bind(Box::new(error))
    }
}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Self {
        Self::Gguf(Box::new(error))
    }
}

impl From<VocabLoadError> for Error {
    fn from(error: VocabLoadError) -> Self {
        Self::Vocabulary(Box::new(error))
    }
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Box::new(error))
    }
}
