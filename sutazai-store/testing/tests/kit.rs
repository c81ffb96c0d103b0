//! The kit does what the tests that use it rely on.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test waits for another process on its own thread"
)]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use sutazai_testing::{Installation, LlamaCpp, Ollama, Postgres, PostgresConfig, Proxy, Redis, Signal, trial};

/// Makes this program the test that is killed.
const VICTIM: &str = "SUTAZAI_TEST_KIT_VICTIM";
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    if let Some(server) = std::env::var_os(VICTIM) {
        return victim(&server);
    }
    let found = Postgres::find();
    let needs = |name: &str, test: fn(&Installation)| {
        trial(name, found.clone(), move |postgres| {
            test(&postgres);
            Ok::<_, Failed>(())
        })
    };
    let needs_program = |name: &str, found: Result<PathBuf, String>, test: fn(&Path)| {
        trial(name, found, move |program| {
            test(&program);
            Ok::<_, Failed>(())
        })
    };
    let always = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        needs("data_survives_every_end", data_survives_every_end),
        needs("settings_are_those_of_a_real_server", settings_are_those_of_a_real_server),
        needs("databases_are_apart", databases_are_apart),
        needs("a_killed_test_takes_its_server_along", a_killed_test_takes_its_server_along),
        needs("a_cut_reaches_a_statement_under_way", a_cut_reaches_a_statement_under_way),
        needs_program(
            "a_redis_has_its_data_again_and_leaves_nothing_behind",
            Redis::find(),
            a_redis_has_its_data_again,
        ),
        needs_program("a_redis_that_does_not_start_says_why", Redis::find(), a_redis_that_does_not_start_says_why),
        needs_program("a_killed_test_takes_its_redis_along", Redis::find(), a_killed_test_takes_its_redis_along),
        needs_program("an_ollama_leaves_nothing_behind", Ollama::find(), an_ollama_leaves_nothing_behind),
        needs_program("a_killed_ollama_starts_again", Ollama::find(), a_killed_ollama_starts_again),
        needs_program("a_killed_test_takes_its_ollama_along", Ollama::find(), a_killed_test_takes_its_ollama_along),
        needs_program(
            "a_llama_cpp_that_does_not_start_says_why",
            LlamaCpp::find(),
            a_llama_cpp_that_does_not_start_says_why,
        ),
        always(
            "what_is_missing_is_ignored_or_fails_with_the_reason",
            what_is_missing_is_ignored_or_fails_with_the_reason,
        ),
        always("the_proxy_changes_no_byte", the_proxy_changes_no_byte),
        always("the_proxy_cuts", the_proxy_cuts),
        always("the_proxy_stalls", the_proxy_stalls),
        always("the_proxy_refuses", the_proxy_refuses),
        always("the_proxy_delays", the_proxy_delays),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn data_survives_every_end(_: &Installation) {
    let mut server = Postgres::start();
    let address = server.address();
    server.query("postgres", "create table kept (signal text)");
    for (round, signal) in [Signal::Quit, Signal::Kill, Signal::Interrupt].into_iter().enumerate() {
        let pid = server.pid().unwrap();
        server.query("postgres", &format!("insert into kept values ('{signal:?}')"));
        let ended = server.stop(signal).unwrap();
        assert_eq!(ended.success(), signal != Signal::Kill, "{signal:?}: {ended}");
        assert_eq!(server.pid(), None);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{signal:?}");
        assert_eq!(server.stop(signal), None);
        let before = server.log().len();
        server.start_again();
        let recovered = server.log()[before..].contains("automatic recovery in progress");
        assert_eq!(recovered, signal != Signal::Interrupt, "{signal:?}: {}", server.log());
        assert!(server.address() == address && server.pid() != Some(pid));
        assert_eq!(server.query("postgres", "select count(*) from kept"), (round + 1).to_string(), "{signal:?}");
    }
}

fn settings_are_those_of_a_real_server(installation: &Installation) {
    let below = tempfile::tempdir().unwrap();
    // PostgreSQL may run as another user.
    std::fs::set_permissions(below.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = PostgresConfig {
        below: Some(below.path().to_owned()),
        settings: vec![("max_connections".to_owned(), "7".to_owned())],
    };
    let server = Postgres::start_with(installation, config).unwrap();
    let show = |server: &Postgres, name: &str| server.query("postgres", &format!("show {name}"));
    assert_eq!(show(&server, "max_connections"), "7");
    assert!(show(&server, "data_directory").starts_with(below.path().to_str().unwrap()));
    drop(server);
    assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 0, "its directory goes with it");

    let shared = Postgres::shared().unwrap();
    let real = [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on"), ("max_connections", "200")];
    for (name, value) in real {
        assert_eq!(show(shared, name), value, "{name}");
    }
    assert!(show(shared, "server_version").starts_with(installation.version()));

    let nonsense = PostgresConfig { below: None, settings: vec![("no_such_setting".to_owned(), "1".to_owned())] };
    let refused = Postgres::start_with(installation, nonsense).err().unwrap();
    assert!(refused.contains("no_such_setting"), "{refused}");
}

fn databases_are_apart(_: &Installation) {
    let server = Postgres::shared().unwrap();
    let (one, two) = (server.database(), server.database());
    one.query("create table t (n int)");
    assert_eq!(two.query("select to_regclass('t') is null"), "t");
    let name = one.name().to_owned();
    let connected = psql(server, &one.url(), "select pg_sleep(600)").spawn().unwrap();
    drop(one);
    assert!(!connected.wait_with_output().unwrap().status.success());
    assert_eq!(server.query("postgres", &format!("select count(*) from pg_database where datname = '{name}'")), "0");
    let said = server.try_query("postgres", "select wrong").unwrap_err();
    assert!(said.contains("\"wrong\" does not exist"), "{said}");
}

fn psql(_: &Postgres, url: &str, sql: &str) -> Command {
    let mut command = Command::new(Postgres::find().unwrap().bin().join("psql"));
    command.args(["-X", "-A", "-t", "-q", "-c", sql, "-d", url]).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A test that starts a server on a thread which ends, and then does not end itself.
fn victim(server: &OsStr) {
    if server == "ollama" {
        let server = thread::spawn(|| Ollama::shared().unwrap()).join().unwrap();
        println!("{} {}", server.pid().unwrap(), server.models().display());
    } else if server == "redis" {
        let server = thread::spawn(|| Redis::shared().unwrap()).join().unwrap();
        // One that died with the thread could not answer.
        assert_eq!(said(server.address(), "PING"), "+PONG\r\n");
        println!("{} {}", server.pid().unwrap(), server.data().display());
    } else {
        let server = thread::spawn(|| Postgres::shared().unwrap()).join().unwrap();
        // A server that died with the thread could not answer.
        let directory = server.query("postgres", "show data_directory");
        println!("{} {directory}", server.pid().unwrap());
    }
    thread::sleep(PATIENCE);
}

fn a_killed_test_takes_its_server_along(_: &Installation) {
    kill_a_test_with("postgres");
}

fn a_killed_test_takes_its_ollama_along(_: &Path) {
    kill_a_test_with("ollama");
}

fn a_killed_test_takes_its_redis_along(_: &Path) {
    kill_a_test_with("redis");
}

fn kill_a_test_with(server: &str) {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    let mut victim = victim.env(VICTIM, server).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (pid, data) = line.trim().split_once(' ').unwrap();
    assert!(runs(pid), "{line}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    until("the server and its directory are gone", || !runs(pid) && !Path::new(data).parent().unwrap().exists());
}

fn an_ollama_leaves_nothing_behind(program: &Path) {
    let server = Ollama::start_with(program).unwrap();
    let (pid, address, models) = (server.pid().unwrap().to_string(), server.address(), server.models());
    assert!(runs(&pid) && models.starts_with(std::env::temp_dir()));
    let said = server.copy_model("nobody", "somebody").unwrap_err();
    assert!(said.contains("404") && said.contains("nobody"), "{said}");
    drop(server);
    assert!(!runs(&pid) && !models.parent().unwrap().exists());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// What a Redis answers to a command, in its own form.
fn said(address: SocketAddr, command: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn a_redis_has_its_data_again(program: &Path) {
    let mut server = Redis::start_with(program, &[("maxmemory", "64mb")]).unwrap();
    let (first, address, data) = (server.pid().unwrap().to_string(), server.address(), server.data());
    assert_eq!(server.url(), format!("redis://{address}/0"));
    assert_eq!(said(address, "SET kept here"), "+OK\r\n");
    assert!(said(address, "CONFIG GET maxmemory").contains(&(64 << 20).to_string()));
    server.kill();
    assert!(server.pid().is_none() && !runs(&first));
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.kill();
    server.start_again();
    assert_eq!((server.address(), said(address, "GET kept")), (address, "$4\r\nhere\r\n".to_owned()));
    let second = server.pid().unwrap().to_string();
    drop(server);
    assert!(!runs(&second) && !data.parent().unwrap().exists());
}

fn a_redis_that_does_not_start_says_why(program: &Path) {
    let refused = Redis::start_with(program, &[("no-such-setting", "1")]).err().unwrap();
    assert!(refused.contains("no-such-setting"), "{refused}");
}

fn a_killed_ollama_starts_again(program: &Path) {
    let mut server = Ollama::start_with(program).unwrap();
    let (pid, address) = (server.pid().unwrap().to_string(), server.address());
    server.kill();
    assert!(!runs(&pid) && server.pid().is_none());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.kill();
    server.start_again();
    assert!(server.address() == address && server.pid().is_some());
    assert!(server.copy_model("nobody", "somebody").unwrap_err().contains("404"));
}

fn a_llama_cpp_that_does_not_start_says_why(program: &Path) {
    let why = LlamaCpp::start(program, Path::new("/nowhere.gguf"), "tiny", &[]).err().unwrap();
    assert!(why.contains("llama.cpp did not start") && why.contains("/nowhere.gguf"), "{why}");
}

fn runs(pid: &str) -> bool {
    // A process that has ended and is not yet waited for does not run.
    let state = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited for: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn a_cut_reaches_a_statement_under_way(_: &Installation) {
    let server = Postgres::shared().unwrap();
    let database = server.database();
    let proxy = Proxy::start(server.address());
    let url = database.url_through(&proxy);
    let output = psql(server, &url, "select 1").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{output:?}");

    let sleeping = psql(server, &url, "select pg_sleep(600)").spawn().unwrap();
    let active =
        "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and datname = current_database()";
    until("the statement is under way", || database.query(active) == "1");
    proxy.cut();
    let output = sleeping.wait_with_output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("connection"), "{output:?}");
}

/// Runs one test of this program with `PostgreSQL` looked for in an empty place.
fn without_postgres(required: &str) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "databases_are_apart"]).env("SUTAZAI_REQUIRE_SERVERS", required);
    command.env("SUTAZAI_POSTGRES_BIN", nowhere.path().join("nowhere")).output().unwrap()
}

fn what_is_missing_is_ignored_or_fails_with_the_reason() {
    for (required, ignored, passed) in [("0", 1, true), ("", 1, true), ("1", 0, false)] {
        let output = without_postgres(required);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), passed, "{required:?}: {text}");
        assert!(text.contains(&format!("0 passed; {} failed; {ignored} ignored", 1 - ignored)), "{required:?}: {text}");
        let reasons = ["PostgreSQL is not installed", "initdb", "nowhere", "SUTAZAI_POSTGRES_BIN"];
        assert!(reasons.iter().all(|reason| text.contains(reason)), "{required:?}: {text}");
    }
}

/// Answers every byte with the same one, each connection on a thread; ends it when the other side does.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn the_proxy_changes_no_byte() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut writer, bytes) = (stream.try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
}

fn the_proxy_cuts() {
    let proxy = Proxy::start(echo());
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    assert_eq!((ask(&mut one, "a"), ask(&mut two, "b")), ("a".to_owned(), "b".to_owned()));
    proxy.cut();
    for stream in [&mut one, &mut two] {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(ask(&mut connect(&proxy), "again"), "again");

    let mut last = connect(&proxy);
    assert_eq!(ask(&mut last, "c"), "c");
    let address = proxy.address();
    drop(proxy);
    assert!(matches!(last.read(&mut [0]), Ok(0) | Err(_)), "its connections end with it");
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn the_proxy_stalls() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, "before"), "before");
    proxy.stall(true);
    stream.write_all(b"held").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silent = stream.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    // A new connection is taken, and as silent.
    let mut other = connect(&proxy);
    other.write_all(b"new").unwrap();
    proxy.stall(false);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&mut stream, " back"), "held ");
    let mut rest = [0; 3];
    other.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"new");

    proxy.stall(true);
    stream.write_all(b"never").unwrap();
    proxy.cut();
    let end = stream.read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "a stalled connection is cut as well");
}

fn the_proxy_refuses() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, "a"), "a");
    for _ in 0..20 {
        proxy.refuse(true);
        assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&mut stream, "still here"), "still here");
        proxy.refuse(false);
        assert_eq!(ask(&mut connect(&proxy), "new"), "new");
    }
    // Where no server listens, the client is told so by an end.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = connect(&Proxy::start(nobody)).read(&mut [0]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

fn the_proxy_delays() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    proxy.delay(Duration::from_millis(30));
    let began = Instant::now();
    assert_eq!(ask(&mut stream, "there and back"), "there and back");
    assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
}
