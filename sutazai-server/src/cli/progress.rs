//! Progress on stderr, where a person looks at it; nothing elsewhere.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use sutazai_llm::{
    bench::{BenchProgress, BenchStage, BenchUpdate},
    registry::{PullProgress, PullUpdate, Stage},
};

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

impl BenchProgress for Spinner {
    fn update(&self, update: &BenchUpdate<'_>) {
        let what = match update.stage {
            BenchStage::Loading => "loading",
            BenchStage::Speed => "how fast it is",
            BenchStage::Json => "whether it keeps to a schema",
            BenchStage::Quality => "what it knows",
            _ => "measuring",
        };
        self.bar.set_message(format!("{}: {what} {}/{}", update.model, update.done, update.total));
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar for each file of a pull.
#[derive(Default)]
pub(super) struct Bars {
    all: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl PullProgress for Bars {
    fn update(&self, update: &PullUpdate<'_>) {
        let name = format!("{} {}", update.model, update.file);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = files.entry(name).or_insert_with_key(|name| {
            let bar = self.all.add(ProgressBar::new(update.total));
            let template = "{prefix} {wide_bar:.cyan} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_prefix(name.clone())
        });
        bar.set_length(update.total);
        bar.set_position(update.bytes);
        match update.stage {
            Stage::Waiting => bar.set_message("another process is at it"),
            Stage::Checking => bar.set_message("checking"),
            Stage::Package | Stage::Fetching => bar.set_message(format!("from {}", update.source)),
            Stage::Done => bar.finish_and_clear(),
        }
    }
}
