//! How well does the gateway keep one model at a time in memory, where requests want several?
//!
//! What loading a model and one answer cost is measured first, on an Ollama with two small models; where there is none, what such a one took elsewhere
//! is assumed. Then the same requests are answered as the gateway admits them and in the order of their arrival: in virtual time, by the
//! policy alone, and for real (`_ollama`), through the gateway's admission. A figure is the share that was reached of what is possible: of
//! the time in which nothing could be quicker, or, of requests that alternate, of the factor by which nothing could be quicker than the order of arrival.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sutazai_benches::{
    cases::wanted,
    figures::Figure,
    notes::note,
    simulation,
    stats::median,
    traffic::{AGE, Costs, Outcome, Request, Traffic, bound},
};
use sutazai_core::{
    model::{Caller, ChatModel, ChatModelExt, ChatRequest, ModelInfo, Sampling},
    task::Priority,
};
use sutazai_llm::{
    gateway::{
        GatewayObserver,
        admission::{Admission, AdmissionConfig},
    },
    ollama::{OllamaChat, OllamaClient},
    registry::{ModelStore, Role},
};
use sutazai_testing::Ollama;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "residency";

/// How requests come, the models they are for in the simulation, and the names of the case there and for real.
const CASES: [(Traffic, usize, [&str; 2]); 3] = [
    (Traffic::Alternating, 2, ["alternating", "alternating_ollama"]),
    (Traffic::Bursty, 3, ["bursty", "bursty_ollama"]),
    (Traffic::Zipf, 4, ["zipf", "zipf_ollama"]),
];

/// What is assumed where nothing can be measured: what the two models took on a machine of two cores.
const ASSUMED: Costs = Costs { load: Duration::from_millis(450), service: Duration::from_millis(150) };

/// The weights, and the names of the two models made of them, which the server takes for different ones.
const WEIGHTS: &str = "smollm2:135m";
const MODELS: [&str; 2] = ["bench:one", "bench:other"];
/// Tokens of context, and of an answer.
const CONTEXT: usize = 1_024;
const TOKENS: u32 = 8;
/// Loads and answers that are measured.
const LOADS: usize = 8;
const ANSWERS: usize = 16;

#[tokio::main]
async fn main() -> Fallible<()> {
    if !CASES.iter().flat_map(|(_, _, names)| names).any(|name| wanted(name)) {
        return Ok(());
    }
    let backend = match Backend::start().await {
        Ok(backend) => Some(backend),
        Err(reason) => {
            note(BENCH, format_args!("the cases of Ollama are left out: {reason}"));
            None
        }
    };
    let costs = match &backend {
        Some(backend) => backend.costs().await?,
        None => ASSUMED,
    };
    let how = if backend.is_some() { "measured" } else { "assumed" };
    note(BENCH, format_args!("a load takes {:.0?} and an answer {:.0?}, as {how}", costs.load, costs.service));
    for (traffic, models, [simulated, real]) in CASES {
        if wanted(simulated) {
            let requests = traffic.requests(models, costs);
            let ours = simulation::admitted(&requests, models, costs);
            let fifo = simulation::in_order(&requests, costs);
            let bound = bound(&requests, costs);
            for outcome in [&ours, &fifo] {
                outcome.check(&requests, bound).map_err(|why| format!("{simulated}: {why}"))?;
            }
            print(simulated, traffic, bound, costs, [&ours, &fifo]);
        }
        if let Some(backend) = backend.as_ref().filter(|_| wanted(real)) {
            let requests = traffic.requests(MODELS.len(), costs);
            let ours = backend.admitted(&requests).await?;
            let fifo = backend.in_order(&requests).await?;
            for outcome in [&ours, &fifo] {
                // What the bound is made of was measured, and may have been slow then.
                outcome.check(&requests, Duration::ZERO).map_err(|why| format!("{real}: {why}"))?;
            }
            print(real, traffic, bound(&requests, costs), costs, [&ours, &fifo]);
        }
    }
    Ok(())
}

fn print(case: &'static str, traffic: Traffic, bound: Duration, costs: Costs, [ours, fifo]: [&Outcome; 2]) {
    let speed_up = |outcome: &Outcome| fifo.makespan.div_duration_f64(outcome.makespan);
    let share = |outcome: &Outcome| match traffic {
        Traffic::Alternating => speed_up(outcome) / (1.0 + costs.load.div_duration_f64(costs.service)),
        Traffic::Bursty | Traffic::Zipf => bound.div_duration_f64(outcome.makespan),
    };
    let mut figure = Figure::new(BENCH, case, share(ours), "of bound")
        .against("fifo", Some(share(fifo)))
        .against("speed_up", Some(speed_up(ours)))
        .against("beyond_age", Some(ours.late() as f64));
    for (of, outcome) in [("", ours), ("fifo_", fifo)] {
        let mut add = |name: &str, value: f64| {
            figure.against.insert(format!("{of}{name}"), value);
        };
        add("loads", outcome.loads as f64);
        add("makespan_s", outcome.makespan.as_secs_f64());
        add("p95_wait_s", outcome.p95_wait(|_| true));
        if traffic == Traffic::Zipf {
            add("urgent_p95_wait_s", outcome.p95_wait(|priority| priority == Priority::MAX));
        }
    }
    figure.print();
    if ours.late() > 0 {
        note(BENCH, format_args!("{case}: {} requests waited longer than {AGE:?}", ours.late()));
    }
}

/// A request of a few tokens; no two of them are the same.
fn ask(number: usize, priority: Priority) -> ChatRequest {
    ChatRequest {
        sampling: Sampling::GREEDY,
        max_tokens: Some(TOKENS),
        caller: Caller { priority, ..Caller::default() },
        ..ChatRequest::ask(format!("Tell me a long story about the number {number}."))
    }
}

/// An Ollama of the bench's own with two models, of which it has room for one.
struct Backend {
    models: [Arc<OllamaChat>; 2],
    _server: Ollama,
}

impl Backend {
    async fn start() -> Result<Self, String> {
        let models = ModelStore::from_env().map_err(|error| error.report())?;
        let weights = models.installed(WEIGHTS).await.map_err(|error| error.report())?;
        let path: PathBuf = weights.file(Role::Weights).map_err(|error| error.report())?.0;
        let server = tokio::task::spawn_blocking(move || serve(&path)).await.map_err(|error| error.to_string())??;
        let client = OllamaClient::new(&server.url()).map_err(|error| error.report())?;
        let connect = async |name: &str| {
            let model = OllamaChat::connect(client.clone(), name, Some(CONTEXT)).await;
            model.map(Arc::new).map_err(|error| error.report())
        };
        Ok(Self { models: [connect(MODELS[0]).await?, connect(MODELS[1]).await?], _server: server })
    }

    /// Brings a model into memory in place of the one that is there.
    async fn bring(&self, model: usize, instead: Option<usize>) -> sutazai_core::Result<()> {
        if let Some(gone) = instead {
            self.models[gone].unload().await?;
        }
        self.models[model].load().await
    }

    async fn empty(&self) -> sutazai_core::Result<()> {
        self.models[0].unload().await?;
        self.models[1].unload().await
    }

    /// Medians of loads in turn, and of answers of a model in memory; the first of each warms up.
    async fn costs(&self) -> sutazai_core::Result<Costs> {
        self.empty().await?;
        let (mut loads, mut answers) = (Vec::new(), Vec::new());
        for number in 0..=LOADS {
            let began = Instant::now();
            self.bring(number % 2, (number > 0).then_some((number + 1) % 2)).await?;
            loads.push(began.elapsed().as_secs_f64());
        }
        for number in 0..=ANSWERS {
            let began = Instant::now();
            self.models[LOADS % 2].complete(ask(number, Priority::default())).await?;
            answers.push(began.elapsed().as_secs_f64());
        }
        let typical = |times: &[f64]| Duration::from_secs_f64(median(times[1..].to_vec()));
        Ok(Costs { load: typical(&loads), service: typical(&answers) })
    }

    /// The requests as the gateway admits them.
    async fn admitted(&self, requests: &[Request]) -> Fallible<Outcome> {
        self.empty().await?;
        let tally = Arc::new(Tally::default());
        let mut config = AdmissionConfig::default();
        config.age_limit = AGE;
        // All of them are to be answered, however long that takes.
        config.queue_timeout = Duration::from_secs(3_600);
        let admission = Admission::new("ollama", config, Arc::clone(&tally) as Arc<dyn GatewayObserver>)?;
        let admitted = |model: &Arc<OllamaChat>| Arc::new(admission.chat(Arc::clone(model) as Arc<dyn ChatModel>));
        let models = self.models.each_ref().map(admitted);
        let began = Instant::now();
        let mut answers = JoinSet::new();
        for (number, request) in requests.iter().enumerate() {
            sleep_until(began + request.at).await;
            let (model, ask) = (Arc::clone(&models[request.model]), ask(number, request.priority));
            answers.spawn(async move { model.complete(ask).await });
        }
        while let Some(answer) = answers.join_next().await {
            answer??;
        }
        let makespan = began.elapsed();
        let seen = tally.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Outcome { makespan, ..seen.clone() })
    }

    /// The requests one after the other.
    async fn in_order(&self, requests: &[Request]) -> sutazai_core::Result<Outcome> {
        self.empty().await?;
        let mut outcome = Outcome::default();
        let (began, mut inside) = (Instant::now(), None);
        for (number, request) in requests.iter().enumerate() {
            sleep_until(began + request.at).await;
            if inside != Some(request.model) {
                self.bring(request.model, inside).await?;
                inside = Some(request.model);
                outcome.loads += 1;
            }
            outcome.waits.push((request.priority, began.elapsed().saturating_sub(request.at)));
            self.models[request.model].complete(ask(number, request.priority)).await?;
        }
        outcome.makespan = began.elapsed();
        Ok(outcome)
    }
}

/// A server with both models. Blocks.
fn serve(weights: &Path) -> Result<Ollama, String> {
    let server = Ollama::start_with(&Ollama::find()?)?;
    let gguf = fs::read(weights).map_err(|error| format!("{}: {error}", weights.display()))?;
    server.create_model(MODELS[0], &gguf, None)?;
    server.create_model(MODELS[1], &Ollama::twin(&gguf), None)?;
    Ok(server)
}

/// Counts what the gateway does.
#[derive(Default)]
struct Tally(Mutex<Outcome>);

impl GatewayObserver for Tally {
    fn admitted(&self, _model: &str, priority: Priority, waited: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waits.push((priority, waited));
    }

    fn loaded(&self, _model: &ModelInfo, _took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).loads += 1;
    }
}
