//! Deliveries to real receivers on this machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use secrecy::SecretString;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    Outcome, Policy, Sender, TIMEOUT,
    names::Guarded,
    sender::retry_after,
    signature::sign,
    target::{REFUSED, name_of},
};

const PUBLIC: Policy = Policy { allow_private: false };
const ALL: Policy = Policy { allow_private: true };
const NOW: u64 = 1_700_000_000;
const ID: &str = "t.1";
const BODY: &[u8] = br#"{"seq":1,"task_id":"t","type":"task.created"}"#;

fn secret() -> Option<SecretString> {
    Some("whsec_very_secret".into())
}

/// A receiver that gives these answers in order, each on a connection of its own that it leaves open, and tells what it was asked.
struct Receiver {
    port: u16,
    asked: mpsc::Receiver<String>,
}

impl Receiver {
    async fn new(answers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = mpsc::channel(16);
        let answers: Vec<String> = answers.into_iter().map(Into::into).collect();
        tokio::spawn(async move {
            let mut open = Vec::new();
            for answer in answers {
                let mut stream = listener.accept().await.unwrap().0;
                tell.send(request(&mut stream).await).await.unwrap();
                // A sender that has read enough may be gone before all is written.
                let _ = stream.write_all(answer.as_bytes()).await;
                open.push(stream);
            }
            std::future::pending::<()>().await;
        });
        Self { port, asked }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?token=whsec_very_secret", self.port)
    }
}

/// One request, as it came.
async fn request(stream: &mut TcpStream) -> String {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        assert!(stream.read_line(&mut head).await.unwrap() > 0, "the request ended early: {head}");
        if let Some(("content-length", value)) = head[start..].to_lowercase().trim_end().split_once(": ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n")
}

async fn outcome(status: &str, headers: &str) -> Outcome {
    let receiver = Receiver::new([answer(status, headers)]).await;
    Sender::new(secret(), ALL, TIMEOUT).send(&receiver.url(), ID, BODY, NOW).await
}

/// Resolves every name to this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: Name) -> Resolving {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Box::pin(async move { Ok(Box::new([address].into_iter()) as Addrs) })
    }
}

/// Lets one name through unchecked, for a receiver that stands for a public one.
struct Public(Guarded);

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        if name.as_str() == "public.example" { Here.resolve(name) } else { self.0.resolve(name) }
    }
}

fn public() -> Sender {
    let names = Public(Guarded { policy: PUBLIC, names: Arc::new(Here) });
    Sender::with_names(secret(), PUBLIC, TIMEOUT, Arc::new(names))
}

#[tokio::test]
async fn an_event_is_posted_as_it_is_and_signed() {
    let mut receiver = Receiver::new([answer("204 No Content", "")]).await;
    let sent = Sender::new(secret(), ALL, TIMEOUT).send(&receiver.url(), ID, BODY, NOW).await;
    assert_eq!(sent, Outcome::Delivered { status: 204 });
    let asked = receiver.asked.recv().await.unwrap();
    let signature = sign(&secret().unwrap(), BODY, NOW);
    assert!(asked.starts_with("POST /hook?token=whsec_very_secret HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nx-sutazai-signature: {signature}\r\n")), "{asked}");
    assert!(asked.contains("\r\ncontent-type: application/json\r\n"), "{asked}");
    assert!(asked.contains("\r\nx-sutazai-delivery: t.1\r\n"), "{asked}");
    assert!(asked.as_bytes().ends_with(BODY), "{asked}");
}

#[tokio::test]
async fn the_answer_decides_whether_another_attempt_follows() {
    assert_eq!(outcome("200 OK", "").await, Outcome::Delivered { status: 200 });
    for status in ["400", "401", "404", "408", "425", "429", "500", "503", "301", "302", "303", "304"] {
        let sent = outcome(&format!("{status} x"), "location: /elsewhere\r\n").await;
        let Outcome::Retry { why, after: None } = sent else { panic!("{status}: {sent:?}") };
        assert!(why.contains(status) && !why.contains("secret"), "{why}");
    }
    let gone = outcome("410 Gone", "retry-after: 1\r\n").await;
    assert!(matches!(&gone, Outcome::Refused { why } if why.contains("410")), "{gone:?}");
}

#[tokio::test]
async fn a_receiver_says_when_to_come_back() {
    for (header, seconds) in [("7", 7), ("86400", 3_600), ("Tue, 14 Nov 2023 22:15:20 GMT", 120)] {
        let sent = outcome("503 x", &format!("retry-after: {header}\r\n")).await;
        assert!(matches!(sent, Outcome::Retry { after: Some(after), .. } if after.as_secs() == seconds), "{sent:?}");
    }
    assert_eq!(retry_after("Tue, 14 Nov 2000 22:15:20 GMT", NOW), Some(Duration::ZERO));
    assert_eq!(["-1", "soon", "", "1.5"].map(|text| retry_after(text, NOW)), [None; 4]);
}

#[tokio::test]
async fn redirects_that_keep_the_post_are_followed_three_times() {
    let to = |status: &str| answer(status, "location: /next?a\r\n");
    let mut receiver = Receiver::new([to("307 x"), to("308 x"), to("307 x"), answer("200 OK", "")]).await;
    let sender = Sender::new(secret(), ALL, TIMEOUT);
    assert_eq!(sender.send(&receiver.url(), ID, BODY, NOW).await, Outcome::Delivered { status: 200 });
    receiver.asked.recv().await.unwrap();
    for _ in 0..3 {
        let asked = receiver.asked.recv().await.unwrap();
        assert!(asked.starts_with("POST /next?a ") && asked.contains("x-sutazai-signature"), "{asked}");
        assert!(asked.as_bytes().ends_with(BODY), "{asked}");
    }
    let receiver = Receiver::new([to("307 x"), to("307 x"), to("307 x"), to("307 x"), answer("200 OK", "")]).await;
    let sent = sender.send(&receiver.url(), ID, BODY, NOW).await;
    assert!(matches!(&sent, Outcome::Retry { why, .. } if why.contains("redirects")), "{sent:?}");
    let sent = outcome("307 x", "").await;
    assert!(matches!(&sent, Outcome::Retry { why, .. } if why.contains("nowhere")), "{sent:?}");
}

#[tokio::test]
async fn a_redirect_to_a_refused_target_is_not_followed() {
    let mut inner = Receiver::new([answer("200 OK", "")]).await;
    for location in [inner.url(), format!("http://inner.example:{}/", inner.port), "file:///etc/passwd".into()] {
        let outer = Receiver::new([answer("307 x", &format!("location: {location}\r\n"))]).await;
        let sent = public().send(&format!("http://public.example:{}/", outer.port), ID, BODY, NOW).await;
        let (Outcome::Refused { why } | Outcome::Retry { why, .. }) = &sent else { panic!("{location}: {sent:?}") };
        assert!(!why.contains("secret"), "{location}: {why}");
        assert_eq!(matches!(sent, Outcome::Retry { .. }), location.contains("inner.example"), "{location}: {why}");
    }
    assert!(inner.asked.try_recv().is_err(), "the refused target was called");
    // The same receiver is reached by the name that counts as public: it is the policy that kept the others out.
    let sent = public().send(&format!("http://public.example:{}/", inner.port), ID, BODY, NOW).await;
    assert_eq!(sent, Outcome::Delivered { status: 200 });
}

#[tokio::test]
async fn a_name_is_not_called_for_what_it_resolves_to_and_may_resolve_to_something_else_later() {
    let mut receiver = Receiver::new([answer("200 OK", "")]).await;
    let url = format!("http://hooks.example:{}/", receiver.port);
    let sender =
        |policy| Sender::with_names(secret(), policy, TIMEOUT, Arc::new(Guarded { policy, names: Arc::new(Here) }));
    let sent = sender(PUBLIC).send(&url, ID, BODY, NOW).await;
    let Outcome::Retry { why, after: None } = &sent else { panic!("{sent:?}") };
    assert!(why.contains("no public address") && !why.contains("127.0.0.1"), "{why}");
    assert!(receiver.asked.try_recv().is_err(), "the refused target was called");
    assert_eq!(sender(ALL).send(&url, ID, BODY, NOW).await, Outcome::Delivered { status: 200 });
}

#[tokio::test]
async fn a_target_that_was_admitted_once_is_checked_again() {
    let mut receiver = Receiver::new([answer("200 OK", "")]).await;
    let sent = Sender::new(secret(), PUBLIC, TIMEOUT).send(&receiver.url(), ID, BODY, NOW).await;
    assert!(matches!(sent, Outcome::Refused { .. }), "{sent:?}");
    assert!(receiver.asked.try_recv().is_err(), "the refused target was called");
}

#[tokio::test]
async fn silence_and_closed_ports_are_tried_again() {
    let receiver = Receiver::new([""]).await;
    let sent = Sender::new(secret(), ALL, Duration::from_millis(200)).send(&receiver.url(), ID, BODY, NOW).await;
    assert!(matches!(&sent, Outcome::Retry { why, after: None } if why.contains("200ms")), "{sent:?}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/whsec_very_secret");
    let sent = Sender::new(secret(), ALL, TIMEOUT).send(&url, ID, BODY, NOW).await;
    assert!(
        matches!(&sent, Outcome::Retry { why, .. } if why.contains("refused") && !why.contains("secret")),
        "{sent:?}"
    );
}

#[tokio::test]
async fn an_oversized_or_broken_answer_is_not_waited_for() {
    let oversized = format!("content-length: 9999999999\r\n\r\n{}", "a".repeat(100_000));
    for rest in [oversized.as_str(), "content-length: 1000\r\n\r\nno more", "transfer-encoding: chunked\r\n\r\nzz\r\n"]
    {
        let flood = format!("HTTP/1.1 200 OK\r\n{rest}");
        let receiver = Receiver::new([flood]).await;
        let sent = Sender::new(secret(), ALL, TIMEOUT).send(&receiver.url(), ID, BODY, NOW).await;
        assert_eq!(sent, Outcome::Delivered { status: 200 });
    }
}

#[tokio::test]
async fn without_a_secret_nothing_is_admitted_or_sent_and_the_target_is_judged_first() {
    let mut receiver = Receiver::new([answer("200 OK", "")]).await;
    let code =
        |secret, policy, url: &str| Sender::new(secret, policy, TIMEOUT).admit(url).map_err(|error| error.code());
    assert_eq!(code(None, PUBLIC, &receiver.url()), Err(REFUSED));
    assert_eq!(code(None, ALL, &receiver.url()), Err("webhook_secret_missing"));
    assert_eq!(code(secret(), ALL, &receiver.url()), Ok(()));
    assert_eq!(code(secret(), PUBLIC, "https://hooks.example/1"), Ok(()));
    let sent = Sender::new(None, ALL, TIMEOUT).send(&receiver.url(), ID, BODY, NOW).await;
    assert!(matches!(&sent, Outcome::Retry { why, .. } if why.contains("SUTAZAI_WEBHOOK_SECRET")), "{sent:?}");
    assert!(receiver.asked.try_recv().is_err(), "an unsigned event was sent");
}

/// Says what it knows of names, and counts the questions.
struct Book(AtomicUsize);

impl Resolve for Book {
    fn resolve(&self, name: Name) -> Resolving {
        self.0.fetch_add(1, Ordering::Relaxed);
        let addresses: &[&str] = match name.as_str() {
            "inside.example" => &["10.0.0.1", "fd12::1"],
            "mapped.example" => &["::ffff:127.0.0.1", "64:ff9b::7f00:1"],
            "mixed.example" => &["10.0.0.1", "8.8.8.8"],
            "outside.example" => &["8.8.8.8"],
            "hanging.example" => return Box::pin(std::future::pending()),
            _ => return Box::pin(async { Err("no such name".into()) }),
        };
        let found: Vec<_> = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_judged_at_submit_as_far_as_they_resolve() {
    let book = Arc::new(Book(AtomicUsize::new(0)));
    let sender = |policy| {
        let names = Arc::clone(&book) as Arc<dyn Resolve>;
        Sender::with_names(secret(), policy, TIMEOUT, Arc::new(Guarded { policy, names }))
    };
    let hosts = ["inside", "mapped", "mixed", "outside", "hanging", "unknown"].map(|name| format!("{name}.example"));
    let url = |host: &String| format!("https://{host}:8443/a?b=whsec");
    let public = sender(PUBLIC);
    for _ in 0..2 {
        let names = hosts.iter().filter_map(|host| name_of(&url(host))).collect();
        let private = public.private_names(names).await;
        let refused: Vec<_> = hosts.iter().filter(|host| private.check(&url(host)).is_err()).collect();
        assert_eq!(refused, ["inside.example", "mapped.example"]);
        let error = private.check(&url(&hosts[0])).unwrap_err();
        assert_eq!(error.code(), REFUSED);
        assert_eq!(error.faults()[0].path, "/webhook/url");
        assert!(!format!("{error:?}").contains("10.0.0.1"), "what a name resolves to is not told");
    }
    assert_eq!(book.0.load(Ordering::Relaxed), 6 + 2, "answers are remembered for a while, failures are not");
    let names = hosts.iter().cloned().collect();
    assert!(sender(ALL).private_names(names).await.check(&url(&hosts[0])).is_ok());
    assert_eq!(name_of("http://10.0.0.1/"), None);
}
