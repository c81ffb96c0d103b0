//! What the server counts and measures, for Prometheus.

mod agents;
mod models;
mod routes;

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
    core::Collector, proto::MetricFamily,
};
use sutazai_core::{
    Error, ErrorKind, Result,
    engine::Observer,
    model::Usage,
    store::QueueDepths,
    task::{Event, Task},
};

pub(crate) use self::routes::Routes;
use self::{agents::AgentMetrics, models::ModelMetrics};

/// The content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = TEXT_FORMAT;

/// Upper bounds of task latencies, in ms: from a no-op to an answer of a large model.
const TASK_MS: &[f64] = &[
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0,
    300_000.0,
];

/// Upper bounds of HTTP answers, in seconds.
const HTTP_S: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Every metric of a server; observes the engine. Labels are bounded: agents are the registered ones, routes the known ones.
pub struct Metrics {
    registry: Registry,
    agents: HashMap<String, AgentMetrics>,
    families: Arc<Families>,
    running: IntGauge,
    queued: IntGauge,
    models: ModelMetrics,
}

/// What the store says about the queue.
pub(crate) struct QueueState {
    /// Tasks that no worker has, by agent.
    pub(crate) depths: QueueDepths,
    /// Tasks that count against the limit of the queue.
    pub(crate) queued: u64,
}

/// The families whose series are made when they are first needed.
struct Families {
    tasks: IntCounterVec,
    latency: HistogramVec,
    depth: IntGaugeVec,
    tokens: IntCounterVec,
    errors: IntCounterVec,
    recovered: IntCounterVec,
    dead_letters: IntCounterVec,
    webhook_attempts: IntCounterVec,
    webhook_dead_letters: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Metrics {
    /// Metrics whose names begin with `namespace`, for `agents`.
    pub fn new<S: AsRef<str>>(namespace: &str, agents: impl IntoIterator<Item = S>) -> Result<Self> {
        let letters = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !namespace.starts_with(letters) || !namespace.chars().all(|c| letters(c) || c.is_ascii_digit()) {
            let message = "not a namespace of metrics; it has letters, digits and '_', and does not begin with a digit";
            return Err(Error::new(ErrorKind::Invalid, message).about(namespace));
        }
        Self::build(namespace, agents)
            .map_err(|error| Error::new(ErrorKind::Internal, "the metrics cannot be set up").because(error))
    }

    fn build<S: AsRef<str>>(
        namespace: &str,
        agents: impl IntoIterator<Item = S>,
    ) -> std::result::Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(namespace.to_owned()), None)?;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            keep(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, bounds: &[f64], labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            keep(&registry, HistogramVec::new(opts, labels)?)
        };
        let families = Arc::new(Families {
            tasks: counter("agents_tasks_total", "Tasks that have ended", &["agent", "kind", "status"])?,
            latency: histogram(
                "agents_task_latency_ms",
                "From submit to the end of a task",
                TASK_MS,
                &["agent", "kind"],
            )?,
            depth: keep(&registry, {
                IntGaugeVec::new(Opts::new("agents_queue_depth", "Tasks that no worker has"), &["agent"])?
            })?,
            tokens: counter(
                "agents_model_tokens_total",
                "Tokens that models read and wrote",
                &["agent", "model", "role"],
            )?,
            errors: counter("agents_errors_total", "Attempts that failed, by code", &["agent", "type"])?,
            recovered: counter("agents_tasks_recovered_total", "Executions cut short that others took up", &["agent"])?,
            dead_letters: counter(
                "agents_dead_letters_total",
                "What became of dead letters: failed, requeued, discarded",
                &["agent", "event"],
            )?,
            webhook_attempts: counter(
                "webhook_attempts_total",
                "Attempts to post an event: delivered, failed, refused",
                &["outcome"],
            )?,
            webhook_dead_letters: counter(
                "webhook_dead_letters_total",
                "What became of webhooks' dead letters: given_up, requeued, discarded",
                &["event"],
            )?,
            requests: counter("http_requests_total", "HTTP requests answered", &["method", "route", "status"])?,
            durations: histogram(
                "http_request_duration_seconds",
                "From the head of a request to the head of its answer",
                HTTP_S,
                &["method", "route"],
            )?,
        });
        for outcome in ["delivered", "failed", "refused"] {
            families.webhook_attempts.with_label_values(&[outcome]);
        }
        for event in ["given_up", "requeued", "discarded"] {
            families.webhook_dead_letters.with_label_values(&[event]);
        }
        let running = keep(&registry, IntGauge::new("tasks_running", "Tasks that this process is executing")?)?;
        let queued =
            keep(&registry, IntGauge::new("tasks_queued", "Tasks that count against the limit of the queue")?)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let agents = agents
            .into_iter()
            .map(|name| (name.as_ref().to_owned(), AgentMetrics::new(name.as_ref(), Arc::clone(&families))))
            .collect();
        let models = ModelMetrics::new(&registry)?;
        Ok(Self { registry, agents, families, running, queued, models })
    }

    /// An attempt to post an event ended so.
    pub(crate) fn webhook_attempt(&self, outcome: &'static str) {
        self.families.webhook_attempts.with_label_values(&[outcome]).inc();
    }

    /// This became of a webhook's dead letter.
    pub(crate) fn webhook_dead_letter(&self, event: &'static str) {
        self.families.webhook_dead_letters.with_label_values(&[event]).inc();
    }

    /// A model was asked over HTTP, by no agent: that is an empty label.
    pub(crate) fn model_asked(&self, model: &str, usage: Usage) {
        self.families.count_tokens("", model, usage);
    }

    /// Everything as Prometheus text, or only what concerns `agent`. Without the state of the queue the last known one stands.
    pub(crate) fn text(&self, running: usize, queue: Option<&QueueState>, agent: Option<&str>) -> Result<String> {
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        if let Some(queue) = queue {
            self.queued.set(i64::try_from(queue.queued).unwrap_or(i64::MAX));
            for (name, agent) in &self.agents {
                let depth = queue.depths.get(name).copied().unwrap_or(0);
                agent.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
            }
        }
        let mut families = self.registry.gather();
        families.extend(self.models.of_ollama());
        if let Some(agent) = agent {
            families.retain_mut(|family| concerns(family, agent));
        }
        TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|error| Error::new(ErrorKind::Internal, "the metrics cannot be written").because(error))
    }
}

impl Families {
    fn count_tokens(&self, agent: &str, model: &str, usage: Usage) {
        for (role, count) in [("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)] {
            self.tokens.with_label_values(&[agent, model, role]).inc_by(count.into());
        }
    }
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> std::result::Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Leaves the series of `agent` in a family; whether there are any.
fn concerns(family: &mut MetricFamily, agent: &str) -> bool {
    let is_its = |label: &prometheus::proto::LabelPair| label.name() == "agent" && label.value() == agent;
    family.mut_metric().retain(|metric| metric.get_label().iter().any(is_its));
    !family.get_metric().is_empty()
}

impl Observer for Metrics {
    fn task_changed(&self, task: &Task, events: &[Event]) {
        if let Some(agent) = self.agents.get(&*task.agent) {
            agent.changed(task, events);
        }
    }

    fn model_called(&self, agent: &str, model: &str, usage: Usage) {
        if self.agents.contains_key(agent) {
            self.families.count_tokens(agent, model, usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        Payload,
        clock::Timestamp,
        engine::{Command, Transition, create},
        task::{NodeId, TaskError, TaskId, TaskRequest},
    };

    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("sutazai", ["a", "b"]).unwrap()
    }

    fn task() -> Transition {
        let request = TaskRequest::new("a", Payload::null());
        create(TaskId::from_bytes([7; 16]), "a".into(), "1.0.0".into(), request, Timestamp::from_millis(0))
    }

    /// Applies commands and tells of each as the engine does.
    fn live(metrics: &Metrics, commands: &[Command]) {
        let mut step = task();
        metrics.task_changed(&step.task, &std::mem::take(&mut step.events));
        for command in commands {
            step.apply(command.clone(), Timestamp::from_millis(60_000)).unwrap();
            metrics.task_changed(&step.task, &std::mem::take(&mut step.events));
        }
    }

    #[test]
    fn the_depth_of_the_queue_is_the_store_s() {
        let metrics = metrics();
        let state = |depths: &[(&str, u64)], queued| QueueState {
            depths: depths.iter().map(|(name, depth)| ((*name).to_owned(), *depth)).collect(),
            queued,
        };
        let text = metrics.text(0, Some(&state(&[("a", 7), ("not registered here", 9)], 11)), None).unwrap();
        assert!(text.contains("sutazai_tasks_queued 11"), "{text}");
        assert!(text.contains(r#"sutazai_agents_queue_depth{agent="a"} 7"#), "{text}");
        let text = metrics.text(0, None, None).unwrap();
        assert!(text.contains(r#"sutazai_agents_queue_depth{agent="a"} 7"#), "the last known one");
        let text = metrics.text(0, Some(&state(&[], 0)), None).unwrap();
        assert!(text.contains(r#"sutazai_agents_queue_depth{agent="a"} 0"#) && !text.contains("not registered"));
    }

    #[test]
    fn ends_errors_and_tokens_are_counted_under_bounded_names() {
        let metrics = metrics();
        let fail = Command::Fail { error: TaskError::new("broken", "m"), retry: None, random: 0 };
        live(&metrics, &[Command::Claim { node: NodeId::new("n") }, fail]);
        metrics.model_called("a", "smollm2:135m", Usage { prompt_tokens: 7, completion_tokens: 3 });
        metrics.model_called("stranger", "m", Usage { prompt_tokens: 7, completion_tokens: 3 });
        let text = metrics.text(2, None, None).unwrap();
        for line in [
            r#"sutazai_agents_tasks_total{agent="a",kind="task",status="failed"} 1"#,
            r#"sutazai_agents_task_latency_ms_bucket{agent="a",kind="task",le="60000"} 1"#,
            r#"sutazai_agents_errors_total{agent="a",type="broken"} 1"#,
            r#"sutazai_agents_model_tokens_total{agent="a",model="smollm2:135m",role="prompt"} 7"#,
            r#"sutazai_agents_queue_depth{agent="b"} 0"#,
            "sutazai_tasks_running 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("stranger"));
        let of_a = metrics.text(2, None, Some("a")).unwrap();
        assert!(of_a.contains("agent=\"a\"") && !of_a.contains("agent=\"b\"") && !of_a.contains("tasks_running"));
    }

    #[test]
    fn recoveries_and_dead_letters_are_counted() {
        let metrics = metrics();
        let claim = || Command::Claim { node: NodeId::new("n") };
        let fail = || Command::Fail { error: TaskError::new("broken", "m"), retry: None, random: 0 };
        let requeue = Command::Requeue { input: None, deadline: None };
        let commands =
            [claim(), Command::Recover { journal: 0 }, claim(), fail(), requeue, claim(), fail(), Command::Discard];
        live(&metrics, &commands);
        let text = metrics.text(0, None, None).unwrap();
        for line in [
            r#"sutazai_agents_tasks_recovered_total{agent="a"} 1"#,
            r#"sutazai_agents_dead_letters_total{agent="a",event="failed"} 2"#,
            r#"sutazai_agents_dead_letters_total{agent="a",event="requeued"} 1"#,
            r#"sutazai_agents_dead_letters_total{agent="a",event="discarded"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_wrong_namespace_is_refused() {
        for wrong in ["so not", "", "1st", "a-b"] {
            assert!(Metrics::new(wrong, ["a"]).is_err(), "{wrong:?}");
        }
        assert!(Metrics::new("_x1", ["a"]).is_ok());
    }
}
