//! Progress on stderr, where a person looks at it; nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// A line that shows what a task does.
pub(super) struct Spinner {
    bar: ProgressBar,
    name: String,
}

impl Spinner {
    /// Shows `name` until it is dropped.
    #[must_use]
    pub(super) fn new(name: &str) -> Self {
        // indicatif hides what it draws on a stderr that is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, name: name.to_owned() }
    }

    /// Shows an event of the task: its kind, such as `task.running`, and its data.
    pub(super) fn event(&self, kind: &str, data: &Value) {
        let fraction = data["fraction"].as_f64().map(|done| format!("{:.0} % ", done * 100.0)).unwrap_or_default();
        let message =
            data["message"].as_str().map_or_else(|| kind.trim_start_matches("task.").to_owned(), str::to_owned);
        self.bar.set_message(format!("{}: {fraction}{message}", self.name));
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
