//! A load of tasks that leave lines in a ledger, and the account that is made of it afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    binary::{PATIENCE, http},
    client::{block_on, is_over, until},
    site::Addresses,
};

/// Who submits at once.
const CALLERS: u64 = 4;
/// How long each rests after an answer: the tasks of one case are some thousands, not a million.
const REST: Duration = Duration::from_millis(15);
/// Recorded steps of each task that has them.
const STEPS: u64 = 8;

/// What a load tells servers to do, over and over, until it is ended.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: JoinHandle<()>,
}

struct Shared {
    addresses: Addresses,
    ledger: PathBuf,
    next: AtomicU64,
    over: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

/// A task that a server said it has.
struct Acknowledged {
    id: String,
    number: u64,
}

/// What a task of this number does.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Echo,
    Append,
    Steps,
    /// Waits until it is told something.
    Told,
    /// Goes on until it is cancelled.
    Cancelled,
}

fn work(number: u64) -> Work {
    match number % 8 {
        0 => Work::Echo,
        1 => Work::Told,
        2 => Work::Cancelled,
        3 | 4 => Work::Append,
        _ => Work::Steps,
    }
}

impl Work {
    /// Lines that it leaves in the ledger.
    fn effects(self) -> u64 {
        match self {
            Self::Append => 1,
            Self::Steps => STEPS,
            Self::Echo | Self::Told | Self::Cancelled => 0,
        }
    }

    fn output(self, number: u64) -> Value {
        match self {
            Self::Echo => json!(number),
            Self::Append => json!({}),
            Self::Steps => json!({ "steps": STEPS }),
            Self::Told => json!({ "signal": number }),
            Self::Cancelled => Value::Null,
        }
    }

    /// How it ends.
    fn state(self) -> &'static str {
        if self == Self::Cancelled { "cancelled" } else { "completed" }
    }
}

impl Load {
    /// Begins to submit to any of these servers.
    pub(crate) fn start(addresses: &Addresses, ledger: &Path) -> Self {
        fs::write(ledger, "").unwrap();
        let shared = Arc::new(Shared {
            addresses: addresses.clone(),
            ledger: ledger.to_owned(),
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
            acknowledged: Mutex::default(),
        });
        let callers = Arc::clone(&shared);
        let callers = std::thread::spawn(move || {
            block_on(async {
                let calls = (0..CALLERS).map(|_| callers.call());
                futures_util::future::join_all(calls).await;
            });
        });
        Self { shared, callers }
    }

    /// Ends the load, waits for all of its tasks on the server at `url`, and compares what was promised with what the ledger and the feed say.
    pub(crate) fn account(self, url: &str) -> Account {
        self.shared.over.store(true, Ordering::SeqCst);
        self.callers.join().expect("no request may be refused for good");
        block_on(self.shared.account(url))
    }
}

/// What became of a load.
#[derive(Debug)]
pub(crate) struct Account {
    /// Executions that went on after another one was cut short.
    pub(crate) recoveries: u64,
    /// Effects that were done once more by them.
    pub(crate) again: u64,
    pub(crate) tasks: usize,
}

impl Shared {
    async fn call(&self) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3));
        let client = {
            http();
            client.build().unwrap()
        };
        while !self.over.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let id = self.submit(&client, number).await;
            let change = match work(number) {
                Work::Told => Some((format!("/{id}/signals/go"), json!(number))),
                Work::Cancelled => Some((format!("/{id}/cancel"), json!({}))),
                _ => None,
            };
            if let Some((path, body)) = change {
                tokio::time::sleep(REST * u32::try_from(number % 5).unwrap()).await;
                self.insist(&client, number, &path, &body).await;
            }
            self.acknowledged.lock().unwrap().push(Acknowledged { id, number });
            tokio::time::sleep(REST).await;
        }
    }

    async fn submit(&self, client: &reqwest::Client, number: u64) -> String {
        let (label, path) = (number.to_string(), &self.ledger);
        let (agent, input) = match work(number) {
            Work::Echo => ("dev.echo", json!(number)),
            Work::Append => ("dev.append", json!({ "path": path, "line": format!("{number} 0") })),
            Work::Steps => ("dev.steps", json!({ "count": STEPS, "ms": 15, "path": path, "label": label })),
            Work::Told => ("dev.wait", json!({ "signal": "go", "ms": 600_000 })),
            Work::Cancelled => ("dev.sleep", json!({ "ms": 600_000 })),
        };
        let task = self.insist(client, number, "", &json!({ "agent": agent, "input": input })).await;
        task["id"].as_str().unwrap().to_owned()
    }

    /// Asks one server after the other for the same change, until one says that it is made.
    async fn insist(&self, client: &reqwest::Client, number: u64, path: &str, body: &Value) -> Value {
        let (key, end) = (format!("{number}{path}"), Instant::now() + 2 * PATIENCE);
        for tries in 0.. {
            if let Some(url) = self.addresses.any(number + tries) {
                let request = client.post(format!("{url}/api/v1/tasks{path}")).header("idempotency-key", &key);
                match request.json(body).send().await {
                    Ok(answer) if answer.status() == 202 => {
                        if let Ok(answer) = answer.json().await {
                            return answer;
                        }
                    }
                    Ok(answer) if matches!(answer.status().as_u16(), 429 | 503) => {}
                    Ok(answer) => panic!("{number}{path}: {} {:?}", answer.status(), answer.text().await),
                    Err(_) => {}
                }
            }
            assert!(Instant::now() < end, "nobody takes {number}{path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the loop has no end")
    }

    async fn account(&self, url: &str) -> Account {
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock().unwrap());
        let ends = acknowledged.iter().map(|task| async {
            let (id, work) = (&task.id, work(task.number));
            let found = until(url, id, is_over).await;
            assert_eq!(
                (&found["state"], &found["output"]),
                (&json!(work.state()), &work.output(task.number)),
                "{found}"
            );
        });
        stream::iter(ends).buffer_unordered(8).collect::<Vec<()>>().await;

        let feed = feed(url, &acknowledged).await;
        let labelled = feed.values().filter(|kinds| kinds.first().is_some_and(|kind| kind == "task.created")).count();
        assert_eq!(labelled, acknowledged.len(), "each request is one task, however often it was sent");
        let lines = lines(&self.ledger);
        let mut account = Account { recoveries: 0, again: 0, tasks: acknowledged.len() };
        let mut due = 0;
        for Acknowledged { id, number } in &acknowledged {
            let kinds = &feed[id];
            let is_end = |kind: &&String| matches!(&***kind, "task.completed" | "task.failed" | "task.cancelled");
            let ends = kinds.iter().filter(is_end).count();
            let end = format!("task.{}", work(*number).state());
            assert!(ends == 1 && kinds.last() == Some(&end), "{id}: {kinds:?}");
            let recoveries = kinds.iter().filter(|kind| *kind == "task.recovered").count() as u64;
            let effects = work(*number).effects();
            let done = |index: u64| lines.get(&format!("{number} {index}")).copied().unwrap_or_default();
            let missing: Vec<_> = (0..effects).filter(|index| done(*index) == 0).collect();
            assert!(missing.is_empty(), "{id} ({number}) did not do {missing:?}");
            let again: u64 = (0..effects).map(|index| done(index) - 1).sum();
            assert!(
                again <= recoveries,
                "{id} ({number}) did {again} effects again, recorded ones among them: it was cut short {recoveries} times: {kinds:?}"
            );
            account.recoveries += recoveries;
            account.again += again;
            due += effects;
        }
        assert_eq!(lines.len() as u64, due, "the ledger has lines that no task is to write, or torn ones");
        assert!(account.tasks > 20, "only {} tasks: they said nothing", account.tasks);
        println!("{account:?}");
        account
    }
}

/// The kinds of the events of each task, from the feed of all, which must be without gaps.
async fn feed(url: &str, acknowledged: &[Acknowledged]) -> HashMap<String, Vec<String>> {
    let (client, end) = (http(), Instant::now() + PATIENCE);
    let mut open: std::collections::HashSet<&str> = acknowledged.iter().map(|task| &*task.id).collect();
    let (mut feed, mut last) = (HashMap::<String, Vec<String>>::new(), 0);
    while !open.is_empty() {
        let page = client.get(format!("{url}/api/v1/events?after={last}&limit=200")).send().await.unwrap();
        let page: Value = page.json().await.unwrap();
        for item in page["items"].as_array().unwrap() {
            let (id, kind) = (item["task_id"].as_str().unwrap(), item["type"].as_str().unwrap());
            let number = item["seq"].as_u64().unwrap();
            assert!(number > last, "the feed goes back from {last} to {number}");
            last = number;
            let kinds = feed.entry(id.to_owned()).or_default();
            kinds.push(kind.to_owned());
            assert_eq!(item["task_seq"], kinds.len(), "the feed left out an event of {id}: {item}");
            if matches!(kind, "task.completed" | "task.cancelled") {
                open.remove(id);
            }
        }
        if page["items"].as_array().unwrap().is_empty() {
            assert!(Instant::now() < end, "the feed shows no end of {open:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    feed
}

/// How often each line stands in the ledger.
pub(crate) fn lines(ledger: &Path) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    fs::read_to_string(ledger).unwrap().lines().for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    lines
}
