//! What answering wants of an engine: conversations that take tokens and give logits, some in one pass.

use sutazai_core::Result;

/// A loaded model.
pub(crate) trait Network: Send + Sync {
    /// Positions that the model was trained for.
    fn context(&self) -> usize;

    /// So many conversations, each with room for `room` tokens.
    fn sessions(&self, count: usize, room: usize) -> Result<Box<dyn Sessions + '_>>;
}

/// Conversations in a loaded model, by number.
pub(crate) trait Sessions {
    /// Reads the tokens of all parts in one pass over the weights. `parts` are of different sessions, in the order of their numbers. Gives the logits of
    /// what follows the last token of each part that wants them, part after part.
    fn pass(&mut self, parts: &[Part<'_>]) -> Result<&[f32]>;

    /// Makes the first `length` tokens of one session those of another, in place of all that it had.
    fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<()>;
}

/// What one session reads in a pass.
pub(crate) struct Part<'a> {
    pub(crate) session: usize,
    /// Tokens before these; what the session had from there on is forgotten.
    pub(crate) position: usize,
    pub(crate) tokens: &'a [u32],
    pub(crate) wants_logits: bool,
}
