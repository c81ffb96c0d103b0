//! How long a model stays in memory when nobody asks it anything.

use std::time::Duration;

use serde_json::{Value, json};

/// How long an Ollama keeps a model in memory after an answer. Each request says it anew, and the last one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeepAlive {
    /// For so long; with zero the memory is given back at once.
    For(Duration),
    /// Until it is unloaded, or another model needs the room.
    Always,
}

/// For 30 minutes. Ollama's own habit is 5.
impl Default for KeepAlive {
    fn default() -> Self {
        Self::For(Duration::from_secs(30 * 60))
    }
}

impl KeepAlive {
    /// Whether the model is not kept at all.
    pub(super) fn is_none(self) -> bool {
        self == Self::For(Duration::ZERO)
    }

    /// As Ollama reads it: a negative number means for ever, and a text is a duration of Go's, which counts nanoseconds in 63 bits.
    pub(super) fn body(self) -> Value {
        match self {
            Self::For(time) if i64::try_from(time.as_nanos()).is_ok() => match (time.as_secs(), time.subsec_nanos()) {
                (0, 0) => json!(0),
                (seconds, 0) if seconds % 60 == 0 => json!(format!("{}m", seconds / 60)),
                (seconds, 0) => json!(format!("{seconds}s")),
                _ => json!(format!("{}ns", time.as_nanos())),
            },
            Self::For(_) | Self::Always => json!(-1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_ollama_reads_it() {
        for (keep_alive, expected) in [
            (KeepAlive::default(), json!("30m")),
            (KeepAlive::For(Duration::from_secs(90)), json!("90s")),
            (KeepAlive::For(Duration::from_millis(1500)), json!("1500000000ns")),
            (KeepAlive::For(Duration::ZERO), json!(0)),
            (KeepAlive::For(Duration::MAX), json!(-1)),
            (KeepAlive::Always, json!(-1)),
        ] {
            assert_eq!(keep_alive.body(), expected, "{keep_alive:?}");
        }
    }
}
