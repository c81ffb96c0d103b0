//! What the server counts and measures, for Prometheus.

mod agents;
mod routes;

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
    core::Collector, proto::MetricFamily,
};
use sutazai_core::{
    Error, ErrorKind, Result,
    engine::{MAX_RECOVERIES, Observer},
    model::Usage,
    store::{TaskQuery, TaskStore},
    task::{Event, Task, TaskState},
};

use self::agents::AgentMetrics;
pub(crate) use self::routes::Routes;

/// The content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = TEXT_FORMAT;

/// Tasks read at once while the queue of a former life is counted.
const PAGE: usize = 500;

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
}

/// The families whose series are made when they are first needed.
struct Families {
    tasks: IntCounterVec,
    latency: HistogramVec,
    depth: IntGaugeVec,
    tokens: IntCounterVec,
    errors: IntCounterVec,
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
            requests: counter("http_requests_total", "HTTP requests answered", &["method", "route", "status"])?,
            durations: histogram(
                "http_request_duration_seconds",
                "From the head of a request to the head of its answer",
                HTTP_S,
                &["method", "route"],
            )?,
        });
        let running = keep(&registry, IntGauge::new("tasks_running", "Tasks that this process is executing")?)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let agents = agents
            .into_iter()
            .map(|name| (name.as_ref().to_owned(), AgentMetrics::new(name.as_ref(), Arc::clone(&families))))
            .collect();
        Ok(Self { registry, agents, families, running })
    }

    /// Counts the queue that a former life of this process left, tasks that it was executing included: they go back to the queue. To be called before the
    /// engine starts; from then on it is observed.
    pub async fn count_queue(&self, store: &dyn TaskStore) -> Result<()> {
        for state in [TaskState::Created, TaskState::Waiting, TaskState::Assigned, TaskState::Running] {
            let mut query = TaskQuery { state: Some(state), limit: PAGE, ..TaskQuery::default() };
            loop {
                let page = store.list(&query).await?;
                for task in page.items.iter().filter(|task| task.node.is_none() || task.recoveries < MAX_RECOVERIES) {
                    if let Some(agent) = self.agents.get(&*task.agent) {
                        agent.depth.inc();
                    }
                }
                query.before = page.items.last().map(|task| task.id);
                if !page.more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Everything as Prometheus text, or only what concerns `agent`.
    pub(crate) fn text(&self, running: usize, agent: Option<&str>) -> Result<String> {
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        let mut families = self.registry.gather();
        if let Some(agent) = agent {
            families.retain_mut(|family| concerns(family, agent));
        }
        TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|error| Error::new(ErrorKind::Internal, "the metrics cannot be written").because(error))
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
            let tokens = &self.families.tokens;
            tokens.with_label_values(&[agent, model, "prompt"]).inc_by(usage.prompt_tokens.into());
            tokens.with_label_values(&[agent, model, "completion"]).inc_by(usage.completion_tokens.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sutazai_core::{
        Payload,
        clock::Timestamp,
        engine::{Command, Transition, create},
        memory::MemoryTaskStore,
        store::TaskWrite,
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

    /// Applies commands, tells of each as the engine does, and gives the depth of the queue after each.
    fn depths(metrics: &Metrics, commands: &[Command]) -> Vec<i64> {
        let mut step = task();
        let mut depths = Vec::new();
        metrics.task_changed(&step.task, &std::mem::take(&mut step.events));
        for command in commands {
            step.apply(command.clone(), Timestamp::from_millis(60_000)).unwrap();
            metrics.task_changed(&step.task, &std::mem::take(&mut step.events));
            depths.push(metrics.agents["a"].depth.get());
        }
        depths
    }

    #[test]
    fn the_queue_holds_what_no_worker_has() {
        let claim = Command::Claim { node: NodeId::new("n") };
        let error = TaskError::new("later", "m");
        let retry = Command::Fail { error: error.clone(), retry: Some(Duration::ZERO), random: 0 };
        let give_up = Command::Fail { error, retry: None, random: 0 };
        assert_eq!(depths(&metrics(), &[claim.clone(), Command::Complete { output: Payload::null() }]), [0, 0]);
        assert_eq!(depths(&metrics(), &[claim.clone(), Command::Release, claim.clone(), give_up]), [0, 1, 0, 0]);
        assert_eq!(depths(&metrics(), &[claim.clone(), retry.clone(), Command::Cancel]), [0, 1, 0]);
        assert_eq!(depths(&metrics(), &[Command::Cancel]), [0]);
        assert_eq!(depths(&metrics(), &[Command::Expire]), [0]);
        assert_eq!(depths(&metrics(), &[claim, Command::Expire]), [0, 0]);
    }

    #[tokio::test]
    async fn the_queue_of_a_former_life_is_counted() {
        let store = MemoryTaskStore::new();
        let mut batch = Vec::new();
        for n in 0..PAGE + 2 {
            let mut step = task();
            step.task.id = TaskId::from_bytes((n as u128).to_be_bytes());
            match n {
                0 => step.apply(Command::Claim { node: NodeId::new("n") }, Timestamp::from_millis(1)).unwrap(),
                1 => step.apply(Command::Cancel, Timestamp::from_millis(1)).unwrap(),
                _ => {}
            }
            batch.push(TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None });
        }
        store.write(&batch).await.unwrap();
        let metrics = metrics();
        metrics.count_queue(&store).await.unwrap();
        assert_eq!(metrics.agents["a"].depth.get(), PAGE as i64 + 1, "all but the one that has ended");
    }

    #[test]
    fn ends_errors_and_tokens_are_counted_under_bounded_names() {
        let metrics = metrics();
        let fail = Command::Fail { error: TaskError::new("broken", "m"), retry: None, random: 0 };
        depths(&metrics, &[Command::Claim { node: NodeId::new("n") }, fail]);
        metrics.model_called("a", "smollm2:135m", Usage { prompt_tokens: 7, completion_tokens: 3 });
        metrics.model_called("stranger", "m", Usage { prompt_tokens: 7, completion_tokens: 3 });
        let text = metrics.text(2, None).unwrap();
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
        let of_a = metrics.text(2, Some("a")).unwrap();
        assert!(of_a.contains("agent=\"a\"") && !of_a.contains("agent=\"b\"") && !of_a.contains("tasks_running"));
    }

    #[test]
    fn a_wrong_namespace_is_refused() {
        for wrong in ["so not", "", "1st", "a-b"] {
            assert!(Metrics::new(wrong, ["a"]).is_err(), "{wrong:?}");
        }
        assert!(Metrics::new("_x1", ["a"]).is_ok());
    }
}
