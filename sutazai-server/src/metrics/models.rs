//! What the gateway counts and measures.

use std::time::Duration;

use prometheus::{
    Error, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, proto::MetricFamily,
};
use sutazai_core::{
    model::{CacheUse, ModelInfo},
    task::Priority,
};
use sutazai_llm::gateway::{BreakerState, GatewayObserver};

use super::{Metrics, keep};

/// Upper bounds of what models take, in seconds: from a cached word to a long answer of a large model.
const MODEL_S: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Labels are bounded: models and backends are those of the settings.
pub(super) struct ModelMetrics {
    /// Names that dashboards know without a namespace.
    plain: Registry,
    inference: HistogramVec,
    memory: GaugeVec,
    depth: IntGaugeVec,
    first_token: HistogramVec,
    waited: HistogramVec,
    load: HistogramVec,
    cache: IntCounterVec,
    coalesced: IntCounterVec,
    trimmed: IntCounterVec,
    repairs: IntCounterVec,
    tool_loops: IntCounterVec,
    refusals: IntCounterVec,
    retries: IntCounterVec,
    fallbacks: IntCounterVec,
    breaker: IntGaugeVec,
}

impl ModelMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |registry: &Registry, name: &str, help: &str, labels: &[&str]| {
            keep(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(MODEL_S.to_vec()), labels)?)
        };
        let gauge = |registry: &Registry, name: &str, help: &str, labels: &[&str]| {
            keep(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let plain = Registry::new();
        let inference = histogram(
            &plain,
            "ollama_inference_duration_seconds",
            "From a call's turn to the end of its answer",
            &["model"],
        )?;
        let memory = keep(&plain, {
            GaugeVec::new(Opts::new("ollama_model_memory_bytes", "Memory of the models that are loaded"), &["model"])?
        })?;
        let depth = gauge(&plain, "agent_ollama_queue_depth", "Calls that wait for a backend", &["backend"])?;
        Ok(Self {
            plain,
            inference,
            memory,
            depth,
            first_token: histogram(
                registry,
                "models_first_token_seconds",
                "From a call's turn to the first piece of its answer",
                &["model"],
            )?,
            waited: histogram(registry, "models_queue_seconds", "From a call to its turn", &["model", "priority"])?,
            load: histogram(registry, "models_load_seconds", "What bringing a model into memory took", &["model"])?,
            cache: counter("models_cache_total", "Calls by what a cache had to do with them", &["model", "result"])?,
            coalesced: counter("models_coalesced_total", "Calls that joined one like them", &["model"])?,
            trimmed: counter("models_trimmed_messages_total", "Messages left out so that the rest fits", &["model"])?,
            repairs: counter("models_repairs_total", "Rounds in which a model was to mend its answer", &["model"])?,
            tool_loops: counter(
                "models_tool_loops_total",
                "Answers stopped for making the same tool calls again and again",
                &["model"],
            )?,
            refusals: counter(
                "models_budget_refusals_total",
                "Calls that were not made because they are beyond a budget",
                &["account", "measure"],
            )?,
            retries: counter("models_retries_total", "Calls that were made again", &["model"])?,
            fallbacks: counter(
                "models_fallbacks_total",
                "Calls that another model was asked",
                &["from", "to", "code"],
            )?,
            breaker: gauge(
                registry,
                "models_breaker_state",
                "Whether a model's breaker is closed (0), half open (1) or open (2)",
                &["backend", "model"],
            )?,
        })
    }

    /// The families whose names have no namespace.
    pub(super) fn of_ollama(&self) -> Vec<MetricFamily> {
        self.plain.gather()
    }
}

impl GatewayObserver for Metrics {
    fn cached(&self, model: &str, use_: CacheUse) {
        self.models.cache.with_label_values(&[model, use_.as_str()]).inc();
    }

    fn coalesced(&self, model: &str) {
        self.models.coalesced.with_label_values(&[model]).inc();
    }

    fn trimmed(&self, model: &str, messages: usize) {
        self.models.trimmed.with_label_values(&[model]).inc_by(messages as u64);
    }

    fn repaired(&self, model: &str, _round: u32) {
        self.models.repairs.with_label_values(&[model]).inc();
    }

    fn tool_loop(&self, model: &str) {
        self.models.tool_loops.with_label_values(&[model]).inc();
    }

    fn refused(&self, account: &'static str, measure: &'static str) {
        self.models.refusals.with_label_values(&[account, measure]).inc();
    }

    fn retried(&self, model: &str, _attempt: u32) {
        self.models.retries.with_label_values(&[model]).inc();
    }

    fn breaker(&self, backend: &str, model: &str, state: BreakerState) {
        let state = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.models.breaker.with_label_values(&[backend, model]).set(state);
    }

    fn fell_back(&self, from: &str, to: &str, code: &'static str) {
        self.models.fallbacks.with_label_values(&[from, to, code]).inc();
    }

    fn queued(&self, backend: &str, calls: usize) {
        self.models.depth.with_label_values(&[backend]).set(i64::try_from(calls).unwrap_or(i64::MAX));
    }

    fn admitted(&self, model: &str, priority: Priority, waited: Duration) {
        let priority = priority.get().to_string();
        self.models.waited.with_label_values(&[model, &priority]).observe(waited.as_secs_f64());
    }

    fn loaded(&self, model: &ModelInfo, took: Duration) {
        self.models.load.with_label_values(&[&model.name]).observe(took.as_secs_f64());
        if let Some(bytes) = model.memory {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            self.models.memory.with_label_values(&[&model.name]).set(bytes as f64);
        }
    }

    fn unloaded(&self, model: &ModelInfo) {
        let _ = self.models.memory.remove_label_values(&[&model.name]);
    }

    fn first_piece(&self, model: &str, took: Duration) {
        self.models.first_token.with_label_values(&[model]).observe(took.as_secs_f64());
    }

    fn answered(&self, model: &str, took: Duration) {
        self.models.inference.with_label_values(&[model]).observe(took.as_secs_f64());
    }
}
