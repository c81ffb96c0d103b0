//! Answers that servers share in a Redis: found by all of them, and missed by nobody while it is away, silent or full.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use libtest_mimic::{Arguments, Failed, Trial};
use sutazai_core::{
    ErrorKind,
    memory::{Script, ScriptedChat},
    model::{CacheUse, Caller, ChatEvent, ChatModel, ChatRequest, Sampling},
    store::AnswerCache,
};
use sutazai_llm::gateway::{
    Gateway, Unobserved,
    cache::{SparedAnswers, SparedAnswersConfig},
};
use sutazai_store::{RedisAnswers, RedisAnswersConfig};
use sutazai_testing::{Proxy, Redis, trial};
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
const HIT: CacheUse = CacheUse::Hit;
const MISS: CacheUse = CacheUse::Miss;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let found = if arguments.list { Err("only listed".to_owned()) } else { Redis::find() };
    let own = |name: &str, test: fn(&Path)| {
        trial(name, found.clone(), move |program| {
            test(&program);
            Ok::<_, Failed>(())
        })
    };
    let trials: Vec<Trial> = vec![
        own("what_one_server_was_told_the_other_gives", what_one_server_was_told_the_other_gives),
        own("calls_are_answered_while_it_is_killed", calls_are_answered_while_it_is_killed),
        own("calls_are_answered_while_it_is_silent", calls_are_answered_while_it_is_silent),
        own("calls_are_answered_while_it_is_full", calls_are_answered_while_it_is_full),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn block_on<F: Future>(test: F) -> F::Output {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

/// What stands before the models of one server, and its model.
struct Site {
    model: Arc<ScriptedChat>,
    answers: Arc<SparedAnswers>,
    front: Arc<dyn ChatModel>,
}

impl Site {
    /// A server with a model that says its name and how often it was asked, so that no two answers are the same.
    fn new(name: &'static str, url: String, wait: Duration) -> Self {
        let calls = AtomicU32::new(0);
        let script = Script::by(move |_| format!("{name} {}", calls.fetch_add(1, Ordering::SeqCst)));
        let model = Arc::new(ScriptedChat::new("actor").otherwise(script));
        let mut config = RedisAnswersConfig::from_url(url).unwrap();
        config.timeout = wait;
        let redis = Arc::new(RedisAnswers::new(config).unwrap());
        let pauses =
            SparedAnswersConfig { first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(10) };
        let answers = Arc::new(SparedAnswers::new(redis, pauses));
        let gateway = Gateway::new(Arc::new(Unobserved)).answers(Arc::<SparedAnswers>::clone(&answers));
        let backend: Arc<dyn ChatModel> = Arc::<ScriptedChat>::clone(&model);
        let behind = gateway.model(vec![backend], None).unwrap();
        Self { front: gateway.front(behind, Vec::new()), model, answers }
    }

    /// Where the answer comes from, and what it is.
    async fn told(&self, question: &str) -> (CacheUse, String) {
        self.tell(of_tenant("default", question)).await
    }

    async fn tell(&self, request: ChatRequest) -> (CacheUse, String) {
        let asked = async {
            let mut answer = self.front.chat(request).await.unwrap();
            let (cache, mut text) = (answer.served().cache, String::new());
            while let Some(event) = answer.next().await {
                if let ChatEvent::Text(piece) = event.unwrap() {
                    text.push_str(&piece);
                }
            }
            (cache, text)
        };
        timeout(PATIENCE, asked).await.expect("a call is answered")
    }

    /// Asks until the answer is one that was given before.
    async fn until_hit(&self, question: &str) {
        let asking = async {
            while self.told(question).await.0 != HIT {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("the cache is found again");
    }
}

fn of_tenant(tenant: &str, question: &str) -> ChatRequest {
    let caller = Caller { tenant: Some(tenant.into()), ..Caller::default() };
    ChatRequest { sampling: Sampling::GREEDY, caller, ..ChatRequest::ask(question) }
}

fn what_one_server_was_told_the_other_gives(program: &Path) {
    let server = Redis::start_with(program, &[]).unwrap();
    block_on(async {
        let [one, other] = ["one", "other"].map(|name| Site::new(name, server.url(), PATIENCE));
        assert_eq!(one.told("x").await, (MISS, "one 0".to_owned()));
        assert_eq!(other.told("x").await, (HIT, "one 0".to_owned()));
        assert_eq!((one.model.requests().len(), other.model.requests().len()), (1, 0));
        // The question of another tenant is another one.
        assert_eq!(other.tell(of_tenant("b", "x")).await, (MISS, "other 0".to_owned()));
        assert_eq!(one.tell(of_tenant("b", "x")).await, (HIT, "other 0".to_owned()));
        assert_eq!(one.told("x").await, (HIT, "one 0".to_owned()));
        one.answers.invalidate("actor").await.unwrap();
        assert_eq!(other.told("x").await, (MISS, "other 1".to_owned()));
        assert_eq!(one.told("x").await, (HIT, "other 1".to_owned()));
    });
}

fn calls_are_answered_while_it_is_killed(program: &Path) {
    let mut server = Redis::start_with(program, &[]).unwrap();
    block_on(async {
        let site = Site::new("site", server.url(), PATIENCE);
        site.until_hit("x").await;
        for _ in 0..3 {
            server.kill();
            for question in ["x", "y", "x", "y"] {
                assert_eq!(site.told(question).await.0, MISS);
            }
            assert_eq!(site.answers.ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
            server.start_again();
            site.until_hit("x").await;
            site.until_hit("y").await;
            site.answers.ready().await.unwrap();
            site.answers.clear().await.unwrap();
            site.until_hit("x").await;
        }
    });
}

fn calls_are_answered_while_it_is_silent(program: &Path) {
    let server = Redis::start_with(program, &[]).unwrap();
    let proxy = Proxy::start(server.address());
    block_on(async {
        let site = Site::new("site", Redis::url_through(&proxy), Duration::from_millis(200));
        site.until_hit("x").await;
        proxy.stall(true);
        for question in ["x", "y", "x", "y"] {
            assert_eq!(site.told(question).await.0, MISS);
        }
        assert_eq!(site.answers.ready().await.unwrap_err().kind(), ErrorKind::Timeout);
        proxy.stall(false);
        site.until_hit("x").await;
        site.until_hit("y").await;
    });
}

fn calls_are_answered_while_it_is_full(program: &Path) {
    let full = Redis::start_with(program, &[("maxmemory", "1"), ("maxmemory-policy", "noeviction")]).unwrap();
    block_on(async {
        let site = Site::new("site", full.url(), PATIENCE);
        for question in ["x", "x", "y"] {
            assert_eq!(site.told(question).await.0, MISS);
        }
        let error = site.answers.ready().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "cache_full"), "{error:?}");
        assert_eq!(site.model.requests().len(), 3);
    });
}
