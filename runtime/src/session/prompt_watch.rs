//! Who wants to know how far a prompt is: on a slow device a long one takes minutes.

use std::fmt;
use std::sync::Arc;

/// How far a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptProgress {
    /// Tokens that the caches hold by now.
    pub done_tokens: u32,
    /// Tokens of the prompt.
    pub total_tokens: u32,
}

/// Told after each chunk of a prompt that the device has finished; the default tells nobody. Clones tell the same.
#[derive(Clone, Default)]
pub struct PromptWatch(Option<Arc<dyn Fn(PromptProgress) + Send + Sync>>);

impl PromptWatch {
    /// Calls `told`, on the thread that runs the prompt: the prompt goes on when it returns.
    #[must_use]
    pub fn new(told: impl Fn(PromptProgress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    pub(super) fn tell(&self, progress: PromptProgress) {
        if let Some(told) = &self.0 {
            told(progress);
        }
    }
}

impl fmt::Debug for PromptWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "PromptWatch(..)" } else { "PromptWatch(nobody)" })
    }
}
