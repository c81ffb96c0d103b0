//! What the worker wants of an engine: sessions that take tokens and give logits.

use sutazai_core::Result;

/// A loaded model.
pub(crate) trait Network: Send + Sync {
    /// Positions that the model was trained for.
    fn context(&self) -> usize;

    /// An empty session with room for `room` tokens.
    fn session(&self, room: usize) -> Result<Box<dyn Session + '_>>;
}

/// One conversation in a loaded model.
pub(crate) trait Session {
    /// Reads `tokens` after those before; gives the logits of what follows the last one, or nothing where they are not wanted.
    fn feed(&mut self, tokens: &[u32], want_logits: bool) -> Result<&[f32]>;
}
