//! A Redis of a test's own.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{PATIENCE, ports, watch::Watch};

/// Names the program.
const NAMED: &str = "SUTAZAI_REDIS_BIN";
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);
/// What is acknowledged is on the disk.
const SETTINGS: [(&str, &str); 4] =
    [("bind", "127.0.0.1"), ("save", ""), ("appendonly", "yes"), ("appendfsync", "always")];

/// A server on the loopback with data in a temporary directory. It ends when dropped, and when the test's process ends in whatever way.
pub struct Redis {
    program: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    child: Option<Child>,
    watch: Watch,
    directory: TempDir,
}

/// Why a server did not start.
struct Refusal {
    why: String,
    /// Whether somebody else has its port, which may be free a moment later.
    passing: bool,
}

impl Redis {
    /// The program on this machine: what `SUTAZAI_REDIS_BIN` names, if that is set; else `redis-server` in `PATH`. The error says where was looked.
    pub fn find() -> Result<PathBuf, String> {
        let named = env::var_os(NAMED).map(PathBuf::from);
        let looked = named.clone().map_or_else(usual, |program| vec![program]);
        looked.iter().find(|program| program.is_file()).cloned().ok_or_else(|| {
            let looked: Vec<_> = looked.iter().map(|program| program.display().to_string()).collect();
            let by = if named.is_some() { format!(", which {NAMED} names") } else { String::new() };
            format!("Redis is not installed: there is none of {}{by}; install it or set {NAMED}", looked.join(", "))
        })
    }

    /// A server of one's own with these settings, such as `("maxmemory", "2mb")`, ready for connections; or why there is none. They win over those of the
    /// tests: everything is written to the disk before it is acknowledged.
    pub fn start_with(program: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        let failed = |error: io::Error| format!("a temporary directory: {error}");
        let directory = tempfile::Builder::new().prefix("sutazai-redis-").tempdir().map_err(failed)?;
        fs::create_dir(directory.path().join("data")).map_err(failed)?;
        let watch = Watch::over_group(directory.path());
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let settings = SETTINGS.into_iter().chain(settings.iter().copied()).map(owned).collect();
        let mut server = Self { program: program.to_owned(), settings, port: 0, child: None, watch, directory };
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

    /// One server for all tests of this program, started by the first that asks. Who wants to stop it has a server of their own.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Redis, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&Self::find()?, &[])).as_ref().map_err(Clone::clone)
    }

    /// `127.0.0.1:PORT`, the same for the server's whole life.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ports::address(self.port)
    }

    /// `redis://127.0.0.1:PORT/0`.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.address())
    }

    /// Its URL by way of a [`Proxy`](crate::Proxy).
    #[must_use]
    pub fn url_through(proxy: &crate::Proxy) -> String {
        url(proxy.address())
    }

    /// The process id, while the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The directory of its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends the server as a loss of power would, and waits until its process is gone. Nothing happens to one that does not run.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().expect("a signal can be sent");
        child.wait().expect("it is our child");
        self.watch.server(None);
    }

    /// Starts the server again, after [`kill`](Self::kill), on the same port and the same data; returns when it takes connections.
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
        let failed = |error: io::Error| Refusal { why: format!("{}: {error}", self.program.display()), passing: false };
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(failed)?;
        let before = log.metadata().map_err(failed)?.len();
        let mut command = Command::new(&self.program);
        command.args(["--port", &self.port.to_string()]).arg("--dir").arg(self.data());
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        // It leads a group of its own, which the watch ends as a whole.
        command.process_group(0).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        self.watch.server(Some(child.id()));
        let until = Instant::now() + PATIENCE;
        while !answers(self.address()) {
            if child.try_wait().map_err(failed)?.is_some() || Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                self.watch.server(None);
                let log = self.log();
                let log = log.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
                let passing = log.contains("Address already in use");
                return Err(Refusal { why: format!("Redis did not start: {log}"), passing });
            }
            thread::sleep(PAUSE);
        }
        // Another server may have the port, and answer on it while ours is still about to give up.
        if child.try_wait().map_err(failed)?.is_some() {
            self.watch.server(None);
            return Err(Refusal { why: format!("Redis did not start: {}", self.log()), passing: true });
        }
        self.child = Some(child);
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- Redis' log\n{}", self.log());
        }
    }
}

/// Whether a Redis takes commands there; one that wants a password first does, one that still reads its data does not.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(matches!(&answer, b"+PONG\r\n" | b"-NOAUTH"))
    };
    ask().unwrap_or(false)
}

fn url(address: SocketAddr) -> String {
    format!("redis://{address}/0")
}

/// Where the program may be.
fn usual() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join("redis-server")).collect()
}
