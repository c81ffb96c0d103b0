//! A server that leads a group of processes.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{PATIENCE, ports, watch::Watch};

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a server has to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// What servers say, in whatever case, when somebody else was faster at their port.
const TAKEN: [&str; 2] = ["address already in use", "couldn't bind"];

/// The command that serves with a directory and at an address.
type Make = Box<dyn Fn(&Path, SocketAddr) -> Command + Send + Sync>;

/// A server on a free port of the loopback, with a temporary directory of its own. It ends when dropped, and when the test's process ends in whatever way,
/// together with the processes that it has started.
pub(crate) struct Service {
    name: &'static str,
    make: Make,
    ready: fn(SocketAddr) -> bool,
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

impl Service {
    /// Starts the command that `make` makes for a directory and an address, and waits until somebody is `ready` there; or says why nobody is.
    pub(crate) fn start(
        name: &'static str,
        ready: fn(SocketAddr) -> bool,
        make: impl Fn(&Path, SocketAddr) -> Command + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let made = tempfile::Builder::new().prefix(&format!("sutazai-{}-", name.to_lowercase())).tempdir();
        let directory = made.map_err(|error| format!("a temporary directory: {error}"))?;
        let watch = Watch::over_group(directory.path());
        let mut server = Self { name, make: Box::new(make), ready, port: 0, child: None, watch, directory };
        let began = Instant::now();
        loop {
            server.port = ports::free();
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(refusal) if refusal.passing && began.elapsed() < PATIENCE => {}
                Err(refusal) => return Err(refusal.why),
            }
        }
    }

    /// `127.0.0.1:PORT`, the same for the server's whole life.
    pub(crate) fn address(&self) -> SocketAddr {
        ports::address(self.port)
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process id, while the server runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends the server and what it has started at once, as a crash does: nothing is finished, and nobody is told. Nothing happens to one that does not run.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal("KILL", child.id());
        child.wait().expect("it is our child");
        self.watch.server(None);
    }

    /// Starts the server again, after [`kill`](Self::kill), on the same port and with the same directory; returns when it is ready.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let began = Instant::now();
        while let Err(refusal) = self.launch() {
            assert!(refusal.passing && began.elapsed() < PATIENCE, "{}", refusal.why);
            thread::sleep(PAUSE);
        }
    }

    /// Starts the process and waits until it is ready.
    fn launch(&mut self) -> Result<(), Refusal> {
        let mut command = (self.make)(self.directory(), self.address());
        let program = Path::new(command.get_program()).display().to_string();
        let failed = |error: io::Error| Refusal { why: format!("{program}: {error}"), passing: false };
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(failed)?;
        let before = log.metadata().map_err(failed)?.len();
        // Whatever it starts would outlive a server that is killed.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.spawn().map_err(failed)?;
        self.watch.server(Some(child.id()));
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        loop {
            let ready = (self.ready)(self.address());
            // Asked last: who answered may be another server, which has the port, while ours has given up.
            let ended = self.child.as_mut().and_then(|child| child.try_wait().transpose()).is_some();
            if ready && !ended {
                return Ok(());
            }
            if ended || Instant::now() > until {
                self.stop();
                let log = self.log();
                let log = log.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
                let said = log.to_lowercase();
                let passing = ready || TAKEN.iter().any(|words| said.contains(words));
                return Err(Refusal { why: format!("{} did not start: {log}", self.name), passing });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends the server and what it has started, and waits until its process is gone.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal("TERM", child.id());
        let until = Instant::now() + GRACE;
        while child.try_wait().expect("it is our child").is_none() {
            if Instant::now() > until {
                let _ = child.kill();
            }
            thread::sleep(PAUSE);
        }
        signal("KILL", child.id());
        self.watch.server(None);
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("--- the log of {}\n{}", self.name, self.log());
        }
    }
}

/// Sends a signal to every process of a group that is left.
fn signal(name: &str, group: u32) {
    // The shell's own `kill`: small systems have no other.
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("kill -{name} -{group}")]).stderr(Stdio::null());
    shell.status().expect("sh starts");
}
