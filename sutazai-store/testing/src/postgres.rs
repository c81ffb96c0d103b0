//! A PostgreSQL server of a test's own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    PATIENCE,
    installation::{Installation, output},
    ports,
    watch::Watch,
};

/// The user of every server here; it may do everything and has no password.
const USER: &str = "test";
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, "fast": transactions are rolled back, connections closed, everything is written.
    Interrupt,
    /// SIGQUIT, "immediate": ends at once and recovers when it starts again.
    Quit,
    /// SIGKILL: nothing is told, not even its own children, which notice soon.
    Kill,
}

/// What differs from one server to the next.
#[derive(Clone, Debug, Default)]
pub struct PostgresConfig {
    /// Its directory is made in this one; without, where temporary files are. A bench names a real disk. PostgreSQL's user must reach it.
    pub below: Option<PathBuf>,
    /// Settings of PostgreSQL, such as `("shared_buffers", "512MB")`. They win over those of the tests: `fsync=on`, `max_connections=200`.
    pub settings: Vec<(String, String)>,
}

/// A server on the loopback with data in a temporary directory. It ends when dropped, and when the test's process ends in whatever way.
pub struct Postgres {
    installation: Installation,
    settings: Vec<(String, String)>,
    port: u16,
    databases: AtomicU32,
    child: Option<Child>,
    watch: Watch,
    directory: TempDir,
}

/// Why a server did not start.
struct Refusal {
    why: String,
    /// Whether it may start a moment later: what is left of a killed one still holds its port or its memory.
    passing: bool,
}

impl Postgres {
    /// PostgreSQL on this machine: in `SUTAZAI_POSTGRES_BIN`, if that is set; else in `PATH`, where `pg_config` says, and where packages put it,
    /// newest first. The error says where was looked, and for what.
    pub fn find() -> Result<Installation, String> {
        Installation::find()
    }

    /// A server of one's own, ready for connections. Panics if there is none; a test asks [`find`](Self::find) before.
    #[must_use]
    pub fn start() -> Self {
        Self::find().and_then(|installation| Self::start_with(&installation, PostgresConfig::default())).unwrap()
    }

    /// The same from an installation, with settings, and with the reason if it does not start.
    pub fn start_with(installation: &Installation, config: PostgresConfig) -> Result<Self, String> {
        let below = config.below.unwrap_or_else(std::env::temp_dir);
        let made = tempfile::Builder::new().prefix("sutazai-postgres-").tempdir_in(&below);
        let directory = made.map_err(|error| format!("a directory in {}: {error}", below.display()))?;
        installation.own(directory.path()).map_err(|error| error.to_string())?;
        let watch = Watch::over(directory.path());
        let mut server = Self {
            installation: installation.clone(),
            settings: config.settings,
            port: 0,
            databases: AtomicU32::new(0),
            child: None,
            watch,
            directory,
        };
        installation.initialise(&server.data())?;
        let began = Instant::now();
        loop {
            server.port = ports::free();
            match server.launch() {
                Ok(()) => return Ok(server),
                // Somebody else was faster at the port.
                Err(refusal) if refusal.passing && began.elapsed() < PATIENCE => {}
                Err(refusal) => return Err(refusal.why),
            }
        }
    }

    /// One server for all tests of this program, started by the first that asks. Nobody can stop it: who wants to has a server of their own.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        let start = || Self::start_with(&Self::find()?, PostgresConfig::default());
        SHARED.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// `127.0.0.1:PORT`, the same for the server's whole life.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        ports::address(self.port)
    }

    /// The URL of the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of a database.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        url(self.address(), database)
    }

    /// Makes an empty database with this name, of lower case letters, digits and `_`, and gives its URL.
    pub fn create_database(&self, name: &str) -> String {
        self.query("postgres", &format!("create database {name}"));
        self.url_of(name)
    }

    /// The same with its tables in `directory`, an empty one that becomes PostgreSQL's own: a tablespace of the database's name.
    pub fn create_database_in(&self, name: &str, directory: &Path) -> String {
        self.installation.own(directory).expect("the directory can be given away");
        self.query("postgres", &format!("create tablespace \"{name}\" location '{}'", directory.display()));
        self.query("postgres", &format!("create database \"{name}\" tablespace \"{name}\""));
        self.url_of(name)
    }

    /// An empty database of a test's own.
    #[must_use]
    pub fn database(&self) -> TestDatabase<'_> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name);
        TestDatabase { server: self, name }
    }

    /// Runs SQL through `psql`, past everything under test: the rows, a line each, fields apart by `|`. Panics if the SQL fails.
    pub fn query(&self, database: &str, sql: &str) -> String {
        self.try_query(database, sql).unwrap()
    }

    /// The same with the reason if it fails.
    pub fn try_query(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.installation.command("psql", self.directory.path());
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url_of(database), "-c", sql]);
        output(psql.stdin(Stdio::null())).map(|text| text.trim_end().to_owned())
    }

    /// The process id, while the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends the server and waits until its process is gone, and those that serve its connections. Nothing happens to one that does not run.
    pub fn stop(&mut self, signal: Signal) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let name = match signal {
            Signal::Interrupt => Some("INT"),
            Signal::Quit => Some("QUIT"),
            Signal::Kill => None,
        };
        let sent = match name {
            // The shell's own `kill`: small systems have no other.
            Some(name) => Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().map(|_| ()),
            None => child.kill(),
        };
        sent.expect("a signal can be sent");
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > until {
                let _ = child.kill();
            }
            thread::sleep(PAUSE);
        };
        // Killed alone, it leaves them behind, and they serve on until they notice.
        while is_at_work(&self.data()) && Instant::now() < until {
            thread::sleep(PAUSE);
        }
        self.watch.server(None);
        Some(status)
    }

    /// Starts the server again, after [`stop`](Self::stop), on the same port and the same data; returns when it takes connections.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let began = Instant::now();
        while let Err(refusal) = self.launch() {
            assert!(refusal.passing && began.elapsed() < PATIENCE, "{}", refusal.why);
            thread::sleep(PAUSE);
        }
    }

    /// Starts the process and waits until it takes connections.
    fn launch(&mut self) -> Result<(), Refusal> {
        let refuse = |why: String| Refusal { why, passing: false };
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.and_then(|log| Ok((log.metadata()?.len(), log.try_clone()?, log)));
        let (before, out, err) = log.map_err(|error| refuse(error.to_string()))?;
        let mut command = self.installation.command("postgres", self.directory.path());
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        let ours = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on", "max_connections=200"];
        for setting in
            ours.into_iter().map(str::to_owned).chain(self.settings.iter().map(|(key, to)| format!("{key}={to}")))
        {
            command.args(["-c", &setting]);
        }
        let spawned = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let mut child = spawned.map_err(|error| refuse(format!("postgres: {error}")))?;
        self.watch.server(Some(child.id()));
        let until = Instant::now() + PATIENCE;
        while !is_ready(&self.data(), child.id()) {
            let ended = child.try_wait().map_err(|error| refuse(error.to_string()))?;
            if ended.is_some() || Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                self.watch.server(None);
                let log = self.log();
                let log = log.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
                let passing = ["Address already in use", "is still in use"].iter().any(|sign| log.contains(sign));
                return Err(Refusal { why: format!("PostgreSQL did not start: {log}"), passing });
            }
            thread::sleep(PAUSE);
        }
        self.child = Some(child);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Signal::Quit);
        if thread::panicking() {
            eprintln!("--- PostgreSQL's log\n{}", self.log());
        }
    }
}

/// Whether the server with this id takes connections, as it says itself: the last line of its lock file is its state, the first its id.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// Whether a process works in this directory, as all of a PostgreSQL do in its data; where there is no `/proc` nobody can tell.
fn is_at_work(data: &Path) -> bool {
    let Ok(data) = data.canonicalize() else { return false };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|process| process.path().join("cwd")).any(|cwd| fs::read_link(cwd).is_ok_and(|cwd| cwd == data))
}

fn url(address: std::net::SocketAddr, database: &str) -> String {
    format!("postgres://{USER}@{address}/{database}")
}

/// An empty database of a test's own, dropped with it, whoever is still connected.
pub struct TestDatabase<'a> {
    server: &'a Postgres,
    name: String,
}

impl TestDatabase<'_> {
    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    /// Its URL by way of a [`Proxy`](crate::Proxy).
    #[must_use]
    pub fn url_through(&self, proxy: &crate::Proxy) -> String {
        url(proxy.address(), &self.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Copies it into a new database of another server, as a backup is: `pg_dump` and `pg_restore`. Gives the copy's URL.
    pub fn restore_into(&self, other: &Postgres, name: &str) -> String {
        let dump = self.server.directory.path().join(format!("{name}.dump"));
        let mut pg_dump = self.server.installation.command("pg_dump", self.server.directory.path());
        output(pg_dump.args(["-Fc", "-d", &self.url(), "-f"]).arg(&dump)).unwrap();
        let url = other.create_database(name);
        let mut pg_restore = other.installation.command("pg_restore", self.server.directory.path());
        output(pg_restore.args(["-e", "-d", &url]).arg(&dump)).unwrap();
        url
    }

    /// Runs SQL in it through `psql`, as [`Postgres::query`] does.
    pub fn query(&self, sql: &str) -> String {
        self.server.query(&self.name, sql)
    }
}

impl Drop for TestDatabase<'_> {
    fn drop(&mut self) {
        let _ = self.server.try_query("postgres", &format!("drop database {} with (force)", self.name));
    }
}
