//! Answers in Redis against the suite of every cache of answers, on a real server, and against what only servers can suffer.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use libtest_mimic::{Arguments, Failed, Trial};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, cmd};
use sutazai_core::{
    Error, ErrorKind,
    clock::Timestamp,
    conformance,
    model::{ChatEvent, ChatRequest, Finish, ModelInfo, StopReason, Usage},
    store::{AnswerCache, AnswerKey, CachedAnswer},
};
use sutazai_store::{RedisAnswers, RedisAnswersConfig};
use sutazai_testing::{Proxy, Redis, trial};
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// A server that is expected to answer may take its time.
const LONG: Duration = Duration::from_secs(30);
/// One that is not is not waited for.
const SHORT: Duration = Duration::from_millis(200);

fn main() {
    let arguments = Arguments::from_args();
    let shared = if arguments.list { only_listed() } else { Redis::shared() };
    let found = if arguments.list { only_listed() } else { Redis::find() };
    let mut trials: Vec<Trial> = Vec::new();
    for &(name, case) in conformance::answer::cases() {
        trials.push(trial(format!("conformance::{name}"), shared.clone(), move |server| {
            block_on(async {
                let answers = answers(server);
                case(&answers).await.map_err(|error| Failed::from(error.report()))
            })
        }));
    }
    let mut test = |name: &str, test: fn(&'static Redis)| {
        trials.push(trial(name, shared.clone(), move |server| {
            test(server);
            Ok::<_, Failed>(())
        }));
    };
    test("answers_end_by_themselves", answers_end_by_themselves);
    test("clients_share_what_is_kept", clients_share_what_is_kept);
    test("prefixes_are_apart", prefixes_are_apart);
    test("nothing_of_others_is_touched", nothing_of_others_is_touched);
    test("what_is_damaged_is_no_answer", what_is_damaged_is_no_answer);
    test("what_is_too_long_is_not_kept", what_is_too_long_is_not_kept);
    test("a_connection_that_was_cut_is_replaced", a_connection_that_was_cut_is_replaced);
    test("a_silent_server_is_not_waited_for", a_silent_server_is_not_waited_for);
    test("one_that_is_not_there_is_said_to_be_so", one_that_is_not_there_is_said_to_be_so);
    let mut own = |name: &str, test: fn(&Path)| {
        trials.push(trial(name, found.clone(), move |program| {
            test(&program);
            Ok::<_, Failed>(())
        }));
    };
    own("a_killed_server_is_found_again", a_killed_server_is_found_again);
    own("a_full_server_is_read_and_says_that_it_is_full", a_full_server_is_read_and_says_that_it_is_full);
    own("who_is_refused_is_told_why_without_the_password", who_is_refused_is_told_why_without_the_password);
    libtest_mimic::run(&arguments, trials).exit();
}

fn only_listed<T>() -> Result<T, String> {
    Err("only listed".to_owned())
}

fn block_on<F: Future>(test: F) -> F::Output {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Settings with a prefix that nobody else has.
fn config(url: String) -> RedisAnswersConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut config = RedisAnswersConfig::from_url(url).map_err(|error| error.report()).unwrap();
    config.prefix = format!("test:{}", COUNT.fetch_add(1, Ordering::Relaxed));
    config.timeout = LONG;
    config
}

fn open(config: RedisAnswersConfig) -> RedisAnswers {
    RedisAnswers::new(config).map_err(|error| error.report()).unwrap()
}

/// An empty cache of a test's own.
fn answers(server: &Redis) -> RedisAnswers {
    open(config(server.url()))
}

fn key(question: &str) -> AnswerKey {
    AnswerKey::of(&ModelInfo::new("actor", "test", 8192), &ChatRequest::ask(question)).unwrap()
}

fn answer(text: &str) -> CachedAnswer {
    let usage = Usage { prompt_tokens: 1, completion_tokens: 1 };
    let finish = Finish { stop: StopReason::Stop, usage, prompt_ms: None, completion_ms: None };
    CachedAnswer {
        served_model: "actor".into(),
        served_backend: "test".into(),
        events: vec![ChatEvent::Text(text.into()), ChatEvent::Finish(finish)],
        created: Timestamp::default(),
    }
}

async fn keep(answers: &RedisAnswers, question: &str) {
    answers.put(key(question), answer(question)).await.map_err(|error| error.report()).unwrap();
}

async fn has(answers: &RedisAnswers, question: &str) -> bool {
    let found = answers.get(&key(question)).await.map_err(|error| error.report()).unwrap();
    found.inspect(|found| assert_eq!(**found, answer(question))).is_some()
}

/// Asks the server past everything under test.
async fn ask<T: FromRedisValue>(url: &str, command: &mut Cmd) -> T {
    let patient = AsyncConnectionConfig::new().set_connection_timeout(Some(LONG)).set_response_timeout(Some(LONG));
    let client = Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    command.query_async(&mut connection).await.unwrap()
}

/// Returns when the server has answered in time.
async fn reached(answers: &RedisAnswers) {
    let reached = async {
        while answers.ready().await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

fn shown(error: &Error) -> String {
    format!("{error:?} {error} {}", error.report())
}

fn answers_end_by_themselves(server: &Redis) {
    block_on(async {
        let mut short = config(server.url());
        short.ttl = Duration::from_millis(20);
        conformance::answer::what_is_old_is_forgotten(&open(short)).await.map_err(|error| error.report()).unwrap();
        let long = config(server.url());
        let name = format!("{}:answer:{}", long.prefix, key("a"));
        keep(&open(long), "a").await;
        let left: i64 = ask(&server.url(), cmd("PTTL").arg(name)).await;
        assert!((1..=3_600_000).contains(&left), "{left}");
    });
}

fn clients_share_what_is_kept(server: &Redis) {
    block_on(async {
        let config = config(server.url());
        let (one, other) = (open(config.clone()), open(config));
        let shared = conformance::answer::what_one_keeps_the_other_finds(&one, &other).await;
        shared.map_err(|error| error.report()).unwrap();
    });
}

fn prefixes_are_apart(server: &Redis) {
    block_on(async {
        let (one, other) = (answers(server), answers(server));
        // The beginning of another's, with what looks like keys of its own.
        let mut within = config(server.url());
        within.prefix = "test".to_owned();
        let within = open(within);
        for answers in [&one, &other, &within] {
            keep(answers, "a").await;
        }
        within.clear().await.unwrap();
        assert!(has(&one, "a").await && has(&other, "a").await && !has(&within, "a").await);
        one.invalidate("actor").await.unwrap();
        assert!(!has(&one, "a").await && has(&other, "a").await);
    });
}

fn nothing_of_others_is_touched(server: &Redis) {
    block_on(async {
        let config = config(server.url());
        let url = server.url();
        let theirs = [
            format!("{}:answer:short", config.prefix),
            format!("{}:answer:{}0", config.prefix, key("a")),
            format!("{}:other:{}", config.prefix, key("a")),
            format!("{}:theirs", config.prefix),
        ];
        for name in &theirs {
            ask::<()>(&url, cmd("SET").arg(name).arg("theirs")).await;
        }
        let answers = open(config);
        keep(&answers, "a").await;
        answers.invalidate("actor").await.unwrap();
        answers.clear().await.unwrap();
        assert!(!has(&answers, "a").await);
        for name in &theirs {
            assert_eq!(ask::<String>(&url, cmd("GET").arg(name)).await, "theirs", "{name}");
        }
    });
}

fn what_is_damaged_is_no_answer(server: &Redis) {
    block_on(async {
        let config = config(server.url());
        let url = server.url();
        let name = |question: &str| format!("{}:answer:{}", config.prefix, key(question));
        let answers = open(config.clone());
        keep(&answers, "a").await;
        keep(&answers, "b").await;
        let whole: Vec<u8> = ask(&url, cmd("GET").arg(name("a"))).await;
        let other: Vec<u8> = ask(&url, cmd("GET").arg(name("b"))).await;
        let newer = [b"2".as_slice(), &whole[1..]].concat();
        let mut bent = whole.clone();
        *bent.last_mut().unwrap() ^= 1;
        let damaged = [Vec::new(), b"\xff\x00".to_vec(), whole[..whole.len() / 2].to_vec(), bent, newer, other];
        for value in &damaged {
            ask::<()>(&url, cmd("SET").arg(name("a")).arg(value)).await;
            assert!(!has(&answers, "a").await, "{}", String::from_utf8_lossy(value));
            // It is forgotten with every model, since nobody knows whose it is; what is whole and another model's is not.
            answers.invalidate("nobody").await.unwrap();
            assert!(has(&answers, "b").await);
        }
        ask::<()>(&url, cmd("DEL").arg(name("a"))).await;
        ask::<()>(&url, cmd("RPUSH").arg(name("a")).arg("a list")).await;
        assert!(!has(&answers, "a").await);
        keep(&answers, "a").await;
        assert!(has(&answers, "a").await, "in place of the list");
        ask::<()>(&url, cmd("DEL").arg(name("a"))).await;
        ask::<()>(&url, cmd("RPUSH").arg(name("a")).arg("a list")).await;
        answers.invalidate("nobody").await.unwrap();
        assert_eq!(ask::<u32>(&url, cmd("EXISTS").arg(name("a"))).await, 0);
    });
}

fn what_is_too_long_is_not_kept(server: &Redis) {
    block_on(async {
        let mut config = config(server.url());
        let large = open(config.clone());
        config.max_bytes = 1_000;
        let small = open(config);
        keep(&small, "a").await;
        let long = CachedAnswer { served_model: "actor".into(), ..answer(&"x".repeat(1_000)) };
        small.put(key("a"), long.clone()).await.unwrap();
        assert_eq!(small.get(&key("a")).await.unwrap(), None, "nor is the older one given");
        large.put(key("a"), long.clone()).await.unwrap();
        assert_eq!(large.get(&key("a")).await.unwrap().as_deref(), Some(&long));
        assert_eq!(small.get(&key("a")).await.unwrap(), None, "another process may keep more");
    });
}

fn a_connection_that_was_cut_is_replaced(server: &Redis) {
    let proxy = Proxy::start(server.address());
    block_on(async {
        let answers = open(config(Redis::url_through(&proxy)));
        keep(&answers, "a").await;
        for _ in 0..20 {
            proxy.cut();
            assert!(has(&answers, "a").await, "who asks next does not notice");
        }
        proxy.cut();
        proxy.refuse(true);
        let error = answers.get(&key("a")).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "cache_unavailable"), "{error:?}");
        proxy.refuse(false);
        assert!(has(&answers, "a").await);
    });
}

fn a_silent_server_is_not_waited_for(server: &Redis) {
    let proxy = Proxy::start(server.address());
    block_on(async {
        let patient = config(Redis::url_through(&proxy));
        let mut hasty = patient.clone();
        hasty.timeout = SHORT;
        let (hasty, patient) = (open(hasty), open(patient));
        keep(&patient, "a").await;
        reached(&hasty).await;
        proxy.stall(true);
        // First on the connection that is open, then on ones that never are.
        for _ in 0..2 {
            let error = timeout(PATIENCE, hasty.get(&key("a"))).await.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "cache_timeout"), "{error:?}");
            let error = timeout(PATIENCE, hasty.put(key("b"), answer("b"))).await.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "cache_timeout"), "{error:?}");
            assert!(timeout(PATIENCE, hasty.ready()).await.unwrap().is_err());
        }
        // Those who wait for the same connection are all told, and who has left holds nobody up.
        let callers = join_all((0..100).map(|_| hasty.ready()));
        assert!(timeout(PATIENCE, callers).await.unwrap().iter().all(Result::is_err));
        assert!(hasty.ready().now_or_never().is_none());
        sleep(SHORT).await;
        proxy.stall(false);
        assert!(has(&patient, "a").await, "what was open goes on");
        reached(&hasty).await;
    });
}

fn one_that_is_not_there_is_said_to_be_so(_: &Redis) {
    block_on(async {
        let answers = open(config("redis://me:s3cret@127.0.0.1:1/0".to_owned()));
        for error in [answers.ready().await.unwrap_err(), answers.get(&key("a")).await.unwrap_err()] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "cache_unavailable"));
            let shown = shown(&error);
            assert!(shown.contains("redis://127.0.0.1:1/0") && !shown.contains("s3cret"), "{shown}");
        }
        assert!(!format!("{answers:?}").contains("s3cret"));
    });
}

fn a_killed_server_is_found_again(program: &Path) {
    let mut server = Redis::start_with(program, &[]).unwrap();
    block_on(async {
        let answers = answers(&server);
        keep(&answers, "a").await;
        assert!(has(&answers, "a").await);
        for _ in 0..3 {
            server.kill();
            for error in [
                answers.ready().await.unwrap_err(),
                answers.get(&key("a")).await.unwrap_err(),
                answers.put(key("b"), answer("b")).await.unwrap_err(),
                answers.invalidate("actor").await.unwrap_err(),
                answers.clear().await.unwrap_err(),
            ] {
                assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "cache_unavailable"), "{error:?}");
            }
            server.start_again();
            assert!(has(&answers, "a").await && !has(&answers, "b").await);
            // Its connection ends while nobody asks.
            server.kill();
            server.start_again();
            assert!(has(&answers, "a").await);
        }
    });
}

fn a_full_server_is_read_and_says_that_it_is_full(program: &Path) {
    let server = Redis::start_with(program, &[("maxmemory-policy", "noeviction")]).unwrap();
    block_on(async {
        let answers = answers(&server);
        keep(&answers, "a").await;
        ask::<()>(&server.url(), cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
        let error = answers.put(key("b"), answer("b")).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "cache_full"), "{error:?}");
        assert!(has(&answers, "a").await && !has(&answers, "b").await);
        answers.ready().await.unwrap();
        answers.invalidate("actor").await.unwrap();
        assert!(!has(&answers, "a").await, "it can be made empty");
        ask::<()>(&server.url(), cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
        keep(&answers, "b").await;
        assert!(has(&answers, "b").await);
    });
}

fn who_is_refused_is_told_why_without_the_password(program: &Path) {
    let server = Redis::start_with(program, &[("requirepass", "s3cret")]).unwrap();
    let url = |who: &str| format!("redis://{who}{}/0", server.address());
    block_on(async {
        for wrong in ["", ":hunter2@", "default:hunter2@", "nobody:hunter2@"] {
            let answers = open(config(url(wrong)));
            for error in [answers.ready().await.unwrap_err(), answers.get(&key("a")).await.unwrap_err()] {
                assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "cache_denied"), "{wrong}: {error:?}");
                assert!(!shown(&error).contains("hunter2"), "{error:?}");
            }
        }
        for right in [":s3cret@", "default:s3cret@"] {
            let answers = open(config(url(right)));
            keep(&answers, "a").await;
            assert!(has(&answers, "a").await);
        }
    });
}
