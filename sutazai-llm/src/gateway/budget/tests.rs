//! Calls within their budgets and beyond them, over a store that can be slow and broken.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{StreamExt, future::join_all};
use sutazai_core::{
    ErrorKind, Payload,
    clock::Timestamp,
    engine,
    memory::{MemoryBudgetStore, MemoryTaskStore, Script, ScriptedChat},
    model::{Caller, ChatModelExt},
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn, Limits, TaskStore, TaskWrite},
    task::{TaskId, TaskRequest},
};
use tokio::time::{Instant, sleep};

use super::*;
use crate::gateway::{
    Gateway,
    fake::{self, Virtual, away, paused},
};

/// A store in memory that may be slow, or broken, and counts how often it is drawn on.
#[derive(Default)]
struct Shelf {
    rows: MemoryBudgetStore,
    delay: Mutex<Duration>,
    broken: AtomicBool,
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
        self.rows.draw(draws, today).await
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) -> Result<()> {
        self.rows.give_back(unused).await
    }

    async fn taken(&self, accounts: &[Account]) -> Result<Vec<Amounts>> {
        self.rows.taken(accounts).await
    }

    async fn forget(&self, before: Day) -> Result<u64> {
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
        // Five of each prompt of which something was answered, two for "one " and five for the half of an answer.
        assert_eq!(bench.taken().await, Amounts { tokens: 5 + 2 + 5 + 5, calls: 3, ..Amounts::ZERO });
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
        let silent = Arc::new(fake::Planned::new("planned", []));
        let budget = Budget::new(silent, Arc::clone(&bench.ledger), Arc::clone(&bench.refused) as _);
        budget.complete(request(50)).await.unwrap();
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.tokens, 5 + 4, "two pieces of five bytes");
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

#[test]
fn after_the_first_no_call_waits_for_the_store() {
    paused(async {
        let bench = bench(actor(), of_agents(Limits { calls: Some(10_000), ..tokens(1 << 20) }));
        *bench.store.delay.lock().unwrap() = Duration::from_secs(1);
        for call in 0..500 {
            let began = Instant::now();
            bench.ask(request(50)).await.unwrap();
            let expected = if call == 0 { Duration::from_secs(1) } else { Duration::ZERO };
            assert_eq!(began.elapsed(), expected, "call {call}");
            sleep(Duration::from_millis(50)).await;
        }
        let draws = bench.store.draws.load(Ordering::SeqCst);
        assert!(draws < 50, "{draws} draws for 500 calls");
    });
}

#[test]
fn calls_at_once_get_what_there_is() {
    paused(async {
        let script = Script::text("It is green.").after(Duration::from_secs(5));
        let bench = bench(ScriptedChat::new("actor").otherwise(script), of_agents(calls(10)));
        let done = join_all((0..40).map(|_| bench.ask(request(5)))).await;
        let refused: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        assert_eq!((refused.len(), bench.model.requests().len()), (30, 10));
        assert!(refused.iter().all(|error| error.code() == "budget_exceeded" && error.kind() == ErrorKind::Full));
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.calls, 10);
    });
}

#[test]
fn without_the_store_only_what_is_drawn_is_spent() {
    paused(async {
        let bench = bench(actor(), of_agents(Limits { calls: Some(640), ..tokens(1 << 20) }));
        bench.store.broken.store(true, Ordering::SeqCst);
        let error = bench.ask(request(5)).await.unwrap_err();
        assert_eq!(
            (error.code(), error.kind(), error.subject()),
            ("budget_unavailable", ErrorKind::Unavailable, "actor")
        );
        assert!(error.is_temporary() && error.report().contains("away"), "{error:?}");
        assert!(bench.model.requests().is_empty() && bench.refusals().is_empty());
        bench.store.broken.store(false, Ordering::SeqCst);
        bench.ask(request(5)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        bench.store.broken.store(true, Ordering::SeqCst);
        let done = join_all((0..40).map(|_| bench.ask(request(5)))).await;
        let failed: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        assert!((1..40).contains(&failed.len()), "some of it was drawn: {}", failed.len());
        assert!(failed.iter().all(|error| error.code() == "budget_unavailable"));
    });
}

#[test]
fn a_store_that_hangs_is_not_waited_for() {
    paused(async {
        let bench = bench(actor(), of_agents(calls(10)));
        *bench.store.delay.lock().unwrap() = Duration::from_secs(60);
        let began = Instant::now();
        assert_eq!(bench.ask(request(5)).await.unwrap_err().code(), "budget_unavailable");
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        let mut hurried = request(5);
        hurried.caller.deadline = Some(bench.ledger.now().plus(Duration::from_secs(3)));
        assert_eq!(bench.ask(hurried).await.unwrap_err().code(), "budget_unavailable");
        assert_eq!(began.elapsed(), Duration::from_secs(13));
        sleep(Duration::from_secs(120)).await;
        *bench.store.delay.lock().unwrap() = Duration::ZERO;
        bench.ask(request(5)).await.unwrap();
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.calls, 1, "what nobody waited for any more came back");
    });
}

#[test]
fn blocks_that_nobody_uses_go_back_and_a_crash_loses_no_more_than_one() {
    paused(async {
        let store = Arc::new(Shelf::default());
        let first = bench_over(actor(), of_agents(tokens(64_000)), Arc::clone(&store), None);
        first.ask(request(50)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let open = first.taken().await.tokens;
        assert!((1_000..3_000).contains(&open), "{open}");
        sleep(Duration::from_secs(90)).await;
        assert_eq!(first.taken().await.tokens, 6);
        first.ask(request(50)).await.unwrap();
        drop(first); // without a close
        let second = bench_over(actor(), of_agents(tokens(64_000)), Arc::clone(&store), None);
        second.ask(request(50)).await.unwrap();
        second.ledger.close().await;
        let lost = second.taken().await.tokens - 18;
        assert!((1..3_000).contains(&lost), "{lost}");
    });
}

#[test]
fn what_was_overspent_is_missing_afterwards() {
    paused(async {
        // It reserves 5 + 2 and takes 3 + 12 each time: a model that does not keep to its limit.
        let bench = bench(actor(), of_agents(tokens(60)));
        let more = fake::Planned::new("planned", []);
        let budget = Budget::new(Arc::new(Greedy(more)), Arc::clone(&bench.ledger), Arc::clone(&bench.refused) as _);
        let mut made = 0;
        while budget.complete(request(2)).await.is_ok() {
            made += 1;
        }
        assert_eq!(made, 4, "15 tokens each of 60");
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.tokens, 60);
    });
}

/// A model that says more than it may.
struct Greedy(fake::Planned);

#[async_trait]
impl ChatModel for Greedy {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let answer = self.0.chat(request).await?;
        Ok(answer.map_events(|events| {
            events.map(|event| match event {
                Ok(sutazai_core::model::ChatEvent::Finish(mut finish)) => {
                    finish.usage.prompt_tokens = 3;
                    finish.usage.completion_tokens = 12;
                    Ok(sutazai_core::model::ChatEvent::Finish(finish))
                }
                event => event,
            })
        }))
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
