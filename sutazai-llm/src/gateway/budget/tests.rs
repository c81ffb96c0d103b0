//! Calls within their budgets and beyond them, over a store that can be slow and broken.

mod ledger;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{
    StreamExt,
    future::{join, join_all},
};
use sutazai_core::{
    Error, ErrorKind, Payload,
    clock::Timestamp,
    engine,
    memory::{MemoryBudgetStore, MemoryTaskStore, Script, ScriptedChat},
    model::{Caller, ChatEvent, ChatModelExt, Finish, Usage},
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn, Limits, TaskStore, TaskWrite},
    task::{TaskId, TaskRequest},
};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::{
    gateway::{
        Gateway,
        fake::{self, Virtual, away, paused},
    },
    spent,
};

/// A store in memory that may be slow, or broken, and counts how often it is drawn on.
#[derive(Default)]
struct Shelf {
    rows: MemoryBudgetStore,
    delay: Mutex<Duration>,
    broken: AtomicBool,
    /// It does what it is asked, and nobody hears of it.
    unheard: AtomicBool,
    /// How long it takes to forget.
    forgetting: Mutex<Duration>,
    draws: AtomicUsize,
}

#[async_trait]
impl BudgetStore for Shelf {
    async fn draw(&self, draws: &[Draw], today: Day) -> Result<Vec<Drawn>> {
        self.draws.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(away());
        }
        let drawn = self.rows.draw(draws, today).await?;
        if self.unheard.load(Ordering::SeqCst) { Err(away()) } else { Ok(drawn) }
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) -> Result<()> {
        self.rows.give_back(unused).await
    }

    async fn taken(&self, accounts: &[Account]) -> Result<Vec<Amounts>> {
        self.rows.taken(accounts).await
    }

    async fn forget(&self, before: Day) -> Result<u64> {
        let delay = *self.forgetting.lock().unwrap();
        sleep(delay).await;
        self.rows.forget(before).await
    }
}

/// Remembers what was refused.
#[derive(Default)]
struct Refused(Mutex<Vec<(&'static str, &'static str)>>);

impl GatewayObserver for Refused {
    fn refused(&self, account: &'static str, measure: &'static str) {
        self.0.lock().unwrap().push((account, measure));
    }
}

struct Bench {
    model: Arc<ScriptedChat>,
    store: Arc<Shelf>,
    ledger: Arc<Ledger>,
    refused: Arc<Refused>,
    budget: Budget,
}

fn bench(model: ScriptedChat, config: BudgetConfig) -> Bench {
    bench_over(model, config, Arc::default(), None)
}

fn bench_over(
    model: ScriptedChat,
    config: BudgetConfig,
    store: Arc<Shelf>,
    tasks: Option<Arc<dyn TaskStore>>,
) -> Bench {
    let (model, refused) = (Arc::new(model), Arc::new(Refused::default()));
    let ledger = Arc::new(Ledger::start(Arc::clone(&store) as _, tasks, config, Virtual::drawing(0)));
    let budget = Budget::new(Arc::clone(&model) as _, Arc::clone(&ledger), Arc::clone(&refused) as _);
    Bench { model, store, ledger, refused, budget }
}

impl Bench {
    /// The same budgets before another model.
    fn before(&self, model: impl ChatModel) -> Budget {
        Budget::new(Arc::new(model), Arc::clone(&self.ledger), Arc::clone(&self.refused) as _)
    }

    async fn ask(&self, request: ChatRequest) -> Result<()> {
        self.budget.complete(request).await.map(drop)
    }

    /// What is taken from the account of the agent `coder` today.
    async fn taken(&self) -> Amounts {
        self.store.taken(&[coder(0)]).await.unwrap()[0]
    }

    fn refusals(&self) -> Vec<(&'static str, &'static str)> {
        std::mem::take(&mut *self.refused.0.lock().unwrap())
    }
}

/// The account of the agent `coder`, so many days after these stories begin.
fn coder(days: i64) -> Account {
    Account::Agent { name: "coder".into(), day: Day::of(Timestamp::from_millis(1_796_083_200_000)).plus(days) }
}

fn of_agents(limits: Limits) -> BudgetConfig {
    BudgetConfig { other_agents: limits, ..BudgetConfig::default() }
}

fn tokens(tokens: u64) -> Limits {
    Limits { tokens: Some(tokens), ..Limits::NONE }
}

fn calls(calls: u64) -> Limits {
    Limits { calls: Some(calls), ..Limits::NONE }
}

/// Asks as `coder`: five tokens by the estimate and three by the model, and at most so many of answer.
fn request(max_tokens: u32) -> ChatRequest {
    let caller = Caller { agent: Some("coder".into()), ..Caller::default() };
    ChatRequest { caller, max_tokens: Some(max_tokens), ..ChatRequest::ask("one two three") }
}

fn actor() -> ScriptedChat {
    ScriptedChat::new("actor").otherwise("It is green.")
}

mod suite {
    use super::*;

    fn generous() -> BudgetConfig {
        let limits =
            Limits { tokens: Some(1 << 40), calls: Some(1 << 20), millis: Some(1 << 40), micros: Some(1 << 40) };
        BudgetConfig { other_tenants: limits, ..BudgetConfig::default() }
    }

    sutazai_core::chat_conformance!(bench(fake::actor(), generous()).budget);
}

#[test]
fn what_is_beyond_a_budget_is_not_asked_for() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(100)));
        bench.ask(request(20)).await.unwrap();
        assert_eq!(bench.model.requests().len(), 1);
        let error = bench.ask(request(96)).await.unwrap_err();
        assert_eq!((error.code(), error.kind(), error.subject()), ("budget_exceeded", ErrorKind::Conflict, "actor"));
        assert_eq!(error.delay(), Some(Duration::from_secs(24 * 3_600)), "nobody need ask for so much again today");
        assert!(error.to_string().contains("of 100 are left, and the call may take about 101"), "{error}");
        let error = bench.ask(request(94)).await.unwrap_err();
        assert!(error.to_string().contains("94 of 100 are left, and the call may take about 99"), "{error}");
        assert_eq!((error.kind(), error.delay()), (ErrorKind::Full, Some(Duration::from_secs(24 * 3_600))));
        assert_eq!(bench.model.requests().len(), 1, "the model was not asked");
        assert_eq!(bench.refusals(), [("agent", "tokens"); 2]);
        bench.ask(request(89)).await.unwrap();
    });
}

#[test]
fn who_has_no_limit_is_not_counted() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(10)));
        bench.ask(ChatRequest { caller: Caller::default(), ..request(500) }).await.unwrap();
        assert_eq!(bench.store.draws.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn what_a_call_took_is_settled() {
    paused(async {
        let limits = Limits { tokens: Some(10_000), calls: Some(100), millis: Some(600_000), micros: Some(1_000_000) };
        let mut config = of_agents(limits);
        config.prices.insert("actor".into(), Price::per_million(2.0, 10.0).unwrap());
        let script = Script::text("It is green.").after(Duration::from_millis(700)).pausing(Duration::from_millis(100));
        let bench = bench(ScriptedChat::new("actor").otherwise(script), config);
        for _ in 0..2 {
            bench.ask(request(50)).await.unwrap();
        }
        bench.ledger.close().await;
        // Three tokens each way, and four pieces with the end.
        assert_eq!(bench.taken().await, Amounts { tokens: 12, calls: 2, millis: 2_200, micros: 72 });
        let late = bench.ask(request(1)).await.unwrap_err();
        assert_eq!((late.code(), late.kind()), ("budget_unavailable", ErrorKind::Unavailable));
    });
}

#[test]
fn of_an_answer_that_is_cut_short_what_was_seen_counts() {
    paused(async {
        let limits = Limits { calls: Some(100), ..tokens(10_000) };
        let script = Script::text("half an answer ").breaking_off(away);
        let model = actor().reply("one two three four").reply(script).reply(Script::error(away));
        let bench = bench(model, of_agents(limits));
        let mut answer = bench.budget.chat(request(50)).await.unwrap();
        answer.next().await.unwrap().unwrap();
        drop(answer);
        for code in ["model_unavailable", "model_unavailable"] {
            assert_eq!(bench.ask(request(50)).await.unwrap_err().code(), code);
        }
        bench.ledger.close().await;
        // Five of each prompt of which something was answered, two for "one " and five for the half of an answer. The last call was not made.
        assert_eq!(bench.taken().await, Amounts { tokens: 5 + 2 + 5 + 5, calls: 2, ..Amounts::ZERO });
    });
}

#[test]
fn what_an_answer_that_cannot_be_read_took_counts() {
    paused(async {
        let malformed = || {
            let error = Error::new(ErrorKind::Failed, "no JSON object").with_code("model_malformed");
            spent::because(error, "a comma", Usage { prompt_tokens: 30, completion_tokens: 10 })
        };
        let model = actor().reply(Script::error(malformed)).reply(Script::text("half ").breaking_off(malformed));
        let bench = bench(model, of_agents(Limits { calls: Some(100), ..tokens(10_000) }));
        for _ in 0..2 {
            assert_eq!(bench.ask(request(50)).await.unwrap_err().code(), "model_malformed");
        }
        bench.ledger.close().await;
        assert_eq!(bench.taken().await, Amounts { tokens: 80, calls: 2, ..Amounts::ZERO });
    });
}

#[test]
fn who_leaves_gives_back_what_was_reserved() {
    paused(async {
        let model = actor().reply(Script::text("never").after(Duration::from_secs(3_600)));
        let bench = bench(model, of_agents(Limits { calls: Some(100), ..tokens(100) }));
        let left = tokio::time::timeout(Duration::from_secs(1), bench.ask(request(90))).await;
        assert!(left.is_err());
        bench.ask(request(90)).await.unwrap();
        bench.ledger.close().await;
        assert_eq!(bench.taken().await, Amounts { tokens: 6, calls: 2, ..Amounts::ZERO });
    });
}

#[test]
fn a_backend_that_says_nothing_of_tokens_is_estimated() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(1_000)));
        let mut expected = 0;
        // Two pieces of five bytes.
        for (prompt, completion, tokens) in [(0, 0, 5 + 4), (0, 12, 5 + 12), (3, 0, 3 + 4), (3, 12, 3 + 12)] {
            bench.before(Says::tokens(prompt, completion)).complete(request(50)).await.unwrap();
            expected += tokens;
        }
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.tokens, expected);
    });
}

#[test]
fn an_answer_has_no_more_than_is_reserved_for_it() {
    paused(async {
        let cost = Limits { micros: Some(1 << 40), ..Limits::NONE };
        for (limits, price, most) in
            [(tokens(100_000), 0.0, Some(1_024)), (cost, 1.0, Some(1_024)), (cost, 0.0, None), (calls(9), 1.0, None)]
        {
            let mut config = of_agents(limits);
            config.prices.insert("actor".into(), Price::per_million(price, price).unwrap());
            let bench = bench(actor(), config);
            bench.ask(ChatRequest { max_tokens: None, ..request(1) }).await.unwrap();
            bench.ask(request(2_000)).await.unwrap();
            let sent: Vec<_> = bench.model.requests().iter().map(|request| request.max_tokens).collect();
            assert_eq!(sent, [most, Some(2_000)], "{limits:?}");
        }
    });
}

#[test]
fn a_call_that_no_model_took_costs_nothing() {
    paused(async {
        let fails = |kind: ErrorKind, code: &'static str| Script::error(move || Error::new(kind, "no").with_code(code));
        let model = actor()
            .reply(fails(ErrorKind::Full, "queue_full"))
            .reply(fails(ErrorKind::Unsupported, "unsupported"))
            .reply(fails(ErrorKind::NotFound, "model_not_found"))
            .reply(fails(ErrorKind::Unavailable, "model_unavailable"))
            .reply(fails(ErrorKind::Failed, "out_of_memory"))
            .reply(Script::text("").breaking_off(away))
            .reply(fails(ErrorKind::Timeout, "model_timeout").after(Duration::from_secs(7)));
        let limits = Limits { calls: Some(100), millis: Some(1_000_000), ..tokens(10_000) };
        let bench = bench(model, of_agents(limits));
        for _ in 0..7 {
            bench.ask(request(50)).await.unwrap_err();
        }
        bench.ledger.close().await;
        assert_eq!(
            bench.taken().await,
            Amounts { calls: 1, millis: 7_000, ..Amounts::ZERO },
            "it was at work on the last"
        );
    });
}

#[test]
fn a_slow_call_is_no_reason_to_refuse_the_next() {
    paused(async {
        let slow = Duration::from_secs(600);
        let quick = Script::text("It is green.").after(Duration::from_secs(3));
        let model = ScriptedChat::new("actor").reply(Script::text("At last.").after(slow)).otherwise(quick);
        let bench = bench(model, of_agents(Limits { millis: Some(300_000), ..Limits::NONE }));
        bench.ask(ChatRequest { caller: Caller::default(), ..request(5) }).await.unwrap();
        assert!(bench.budget.expected() >= slow, "who has no limit is measured too");
        for _ in 0..10 {
            bench.ask(request(5)).await.unwrap();
        }
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.millis, 30_000);
    });
}

fn id(n: u8) -> TaskId {
    TaskId::from_bytes([n; 16])
}

#[test]
fn children_spend_what_their_root_may_spend() {
    paused(async {
        let tasks = Arc::new(MemoryTaskStore::new());
        for (task, parent) in [(1, None), (2, Some(1)), (3, Some(2))] {
            let mut request = TaskRequest::new("a", Payload::null());
            request.parent_id = parent.map(id);
            let step = engine::create(id(task), "a".into(), "1.0.0".into(), request, Timestamp::from_millis(0));
            let write = TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None };
            tasks.write(&[write]).await.unwrap();
        }
        let config = BudgetConfig { task: calls(3), ..BudgetConfig::default() };
        let bench = bench_over(actor(), config, Arc::default(), Some(tasks));
        let ask = |task: u8, parent: Option<u8>| {
            let caller = Caller { task: Some(id(task)), parent: parent.map(id), ..Caller::default() };
            bench.ask(ChatRequest { caller, ..request(5) })
        };
        ask(3, Some(2)).await.unwrap();
        ask(1, None).await.unwrap();
        ask(2, Some(1)).await.unwrap();
        for (task, parent) in [(3, Some(2)), (1, None)] {
            let error = ask(task, parent).await.unwrap_err();
            assert_eq!((error.code(), error.is_temporary()), ("budget_exceeded", false));
            assert!(error.to_string().contains(&format!("the budget of task {}", id(1))), "{error}");
        }
        ask(4, None).await.unwrap();
        assert_eq!(bench.refusals(), [("task", "calls"); 2]);
    });
}

#[test]
fn a_day_has_a_budget_of_its_own() {
    paused(async {
        let bench = bench(actor(), of_agents(calls(2)));
        sleep(Duration::from_secs(22 * 3_600)).await;
        for _ in 0..2 {
            bench.ask(request(5)).await.unwrap();
        }
        let error = bench.ask(request(5)).await.unwrap_err();
        assert_eq!(error.delay(), Some(Duration::from_secs(2 * 3_600)));
        sleep(error.delay().unwrap()).await;
        bench.ask(request(5)).await.unwrap();
        bench.ledger.close().await;
        let taken = bench.store.taken(&[coder(0), coder(1)]).await.unwrap();
        assert_eq!(taken.iter().map(|taken| taken.calls).collect::<Vec<_>>(), [2, 1]);
    });
}

/// A model that says what it likes of what it took.
struct Says {
    model: fake::Planned,
    usage: Usage,
}

impl Says {
    fn tokens(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self { model: fake::Planned::new("planned", []), usage: Usage { prompt_tokens, completion_tokens } }
    }
}

#[async_trait]
impl ChatModel for Says {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let (answer, usage) = (self.model.chat(request).await?, self.usage);
        let said = move |event: Result<ChatEvent>| match event {
            Ok(ChatEvent::Finish(finish)) => Ok(ChatEvent::Finish(Finish { usage, ..finish })),
            event => event,
        };
        Ok(answer.map_events(|events| events.map(said)))
    }
}

#[test]
fn in_the_gateway_a_budget_is_asked_before_all_that_costs() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(10)));
        let gateway = Gateway::new(Arc::clone(&bench.refused) as _).resilient().budget(Arc::clone(&bench.ledger));
        let other = Arc::new(ScriptedChat::new("other").otherwise("No."));
        let model = gateway.model(vec![Arc::clone(&bench.model) as _], None).unwrap();
        let fallback = gateway.model(vec![Arc::clone(&other) as _], None).unwrap();
        let front = gateway.front(model, vec![fallback]);
        let began = Instant::now();
        let error = front.complete(request(50)).await.unwrap_err();
        assert_eq!((error.code(), error.subject()), ("budget_exceeded", "actor"));
        assert!(bench.model.requests().is_empty() && other.requests().is_empty());
        assert_eq!((bench.refusals(), began.elapsed()), (vec![("agent", "tokens")], Duration::ZERO), "asked once");
    });
}
