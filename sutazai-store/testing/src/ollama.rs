//! An Ollama of a test's own.

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

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{PATIENCE, cache::cache, ports, watch::Watch};

/// Names the program.
const NAMED: &str = "SUTAZAI_OLLAMA_BIN";
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a server has to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// One model in memory, one answer at a time, nothing of the cloud.
const SETTINGS: [(&str, &str); 4] = [
    ("OLLAMA_NO_CLOUD", "1"),
    ("OLLAMA_NUM_PARALLEL", "1"),
    ("OLLAMA_MAX_LOADED_MODELS", "1"),
    ("OLLAMA_CONTEXT_LENGTH", "2048"),
];

/// A server on the loopback with a store of its own in a temporary directory, which is empty at first. It ends when dropped, and when the test's process
/// ends in whatever way, together with what runs its models.
pub struct Ollama {
    program: PathBuf,
    port: u16,
    child: Option<Child>,
    watch: Watch,
    directory: TempDir,
}

impl Ollama {
    /// The program on this machine: what `SUTAZAI_OLLAMA_BIN` names, if that is set; else `ollama` in `PATH`, and then `ollama/ollama` in the directory
    /// that `SUTAZAI_CACHE` names or in `sutazai` of the user's cache. The error says where was looked.
    pub fn find() -> Result<PathBuf, String> {
        let named = env::var_os(NAMED).map(PathBuf::from);
        let looked = named.clone().map_or_else(usual, |program| vec![program]);
        looked.iter().find(|program| program.is_file()).cloned().ok_or_else(|| {
            let looked: Vec<_> = looked.iter().map(|program| program.display().to_string()).collect();
            let by = if named.is_some() { format!(", which {NAMED} names") } else { String::new() };
            format!("Ollama is not installed: there is none of {}{by}; install it or set {NAMED}", looked.join(", "))
        })
    }

    /// A server of one's own, which answers; or why there is none.
    pub fn start_with(program: &Path) -> Result<Self, String> {
        let made = tempfile::Builder::new().prefix("sutazai-ollama-").tempdir();
        let directory = made.map_err(|error| format!("a temporary directory: {error}"))?;
        let watch = Watch::over_group(directory.path());
        let mut server = Self { program: program.to_owned(), port: 0, child: None, watch, directory };
        let began = Instant::now();
        loop {
            server.port = ports::free();
            match server.launch() {
                Ok(()) => return Ok(server),
                // Somebody else was faster at the port.
                Err(why) if why.contains("address already in use") && began.elapsed() < PATIENCE => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// One server for all tests of this program, started by the first that asks.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Ollama, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&Self::find()?)).as_ref().map_err(Clone::clone)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ports::address(self.port)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process id, while the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The directory of its models.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Makes a model of a GGUF file, with this template in place of the file's. It computes on one thread: with more, it is ten times slower as soon as
    /// another process takes a core.
    pub fn create_model(&self, name: &str, gguf: &[u8], template: Option<&str>) -> Result<(), String> {
        let digest: String = Sha256::digest(gguf).iter().map(|byte| format!("{byte:02x}")).collect();
        let blob = format!("/api/blobs/sha256:{digest}");
        // One that is there is not read again, which looks like a failure to who sends it.
        if self.ask("HEAD", &blob, &[]).is_err() {
            self.ask("POST", &blob, gguf)?;
        }
        let mut body = json!({
            "model": name,
            "files": {"model.gguf": format!("sha256:{digest}")},
            "parameters": {"num_thread": 1},
            "stream": false,
        });
        if let Some(template) = template {
            body["template"] = json!(template);
        }
        self.ask("POST", "/api/create", body.to_string().as_bytes()).map(drop)
    }

    /// Gives a model another name as well.
    pub fn copy_model(&self, name: &str, other: &str) -> Result<(), String> {
        let body = json!({"source": name, "destination": other});
        self.ask("POST", "/api/copy", body.to_string().as_bytes()).map(drop)
    }

    /// The same weights under another digest: the last letter of the name in the file is another one. A server knows models by their files, so two names
    /// of one file are one model in memory; with its twin it is two.
    #[must_use]
    pub fn twin(gguf: &[u8]) -> Vec<u8> {
        const KEY: &[u8] = b"general.name";
        let header = &gguf[..gguf.len().min(1 << 20)];
        let key = header.windows(KEY.len()).position(|window| window == KEY).expect("the file has a name");
        // After the key: the type of its value, which is a text, and how long that is.
        let length = key + KEY.len() + 4;
        let text = length + 8;
        let letters = u64::from_le_bytes(gguf[length..text].try_into().expect("eight bytes"));
        let mut twin = gguf.to_vec();
        twin[text + usize::try_from(letters).expect("a short name") - 1] ^= 1;
        twin
    }

    /// Ends the server and what runs its models at once, as a crash does: nothing is finished, and nobody is told.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal("KILL", child.id());
        child.wait().expect("it is our child");
        self.watch.server(None);
    }

    /// Starts the server again, after [`kill`](Self::kill), on the same port and with the models that it held; returns when it answers.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let began = Instant::now();
        while let Err(why) = self.launch() {
            assert!(why.contains("address already in use") && began.elapsed() < PATIENCE, "{why}");
            thread::sleep(PAUSE);
        }
    }

    /// Starts the process and waits until it answers.
    fn launch(&mut self) -> Result<(), String> {
        let program = self.program.clone();
        let failed = |error: io::Error| format!("{}: {error}", program.display());
        let log = File::create(self.log_file()).map_err(failed)?;
        let mut command = Command::new(&program);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OLLAMA_")) {
            command.env_remove(name);
        }
        command.arg("serve").envs(SETTINGS).env("HOME", self.directory.path());
        command.env("OLLAMA_HOST", self.address().to_string()).env("OLLAMA_MODELS", self.models());
        // What runs the models is a process of its own, which would outlive a server that is killed.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = self.child.insert(command.spawn().map_err(failed)?);
        self.watch.server(Some(child.id()));
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().transpose());
            if ended.is_some() || Instant::now() > until {
                self.stop();
                return Err(format!("Ollama did not start: {}", self.log()));
            }
            if self.ask("GET", "/api/version", &[]).is_ok() {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    /// What it answers, or why it does not: past everything under test.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<String, String> {
        let exchange = || -> io::Result<String> {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let (host, length) = (self.address(), body.len());
            // In this version an answer ends where the connection does.
            write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n")?;
            write!(stream, "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n")?;
            stream.write_all(body)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = exchange().map_err(|error| format!("{method} {path}: {error}"))?;
        let good = answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        if good { Ok(answer) } else { Err(format!("{method} {path}: {answer}")) }
    }

    /// Ends the server and what runs its models, and waits until its process is gone.
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

impl Drop for Ollama {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("--- Ollama's log\n{}", self.log());
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

/// Where the program may be, best first.
fn usual() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<_> = env::split_paths(&path).map(|directory| directory.join("ollama")).collect();
    found.extend(cache().map(|cache| cache.join("ollama").join("ollama")));
    found
}
