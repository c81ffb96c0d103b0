//! Servers of llama.cpp, of a test's own: its own one, and the one in Python that comes with the package `llama-cpp-python`.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{http, program, python, service::Service};

/// Names the program of its own server.
const NAMED: &str = "SUTAZAI_LLAMA_BIN";
/// Tokens of context.
const CONTEXT: &str = "2048";

/// A server on the loopback with one model, which it answers from one request at a time, on one thread: with more, it is ten times slower as soon as another
/// process takes a core. It ends when dropped, and when the test's process ends in whatever way.
pub struct LlamaCpp(Service);

/// What a server is started with.
struct Served {
    program: PathBuf,
    gguf: PathBuf,
    name: String,
    more: Vec<String>,
}

impl Served {
    fn new(program: &Path, gguf: &Path, name: &str, more: &[&str]) -> Self {
        let more = more.iter().map(|argument| (*argument).to_owned()).collect();
        Self { program: program.to_owned(), gguf: gguf.to_owned(), name: name.to_owned(), more }
    }
}

impl LlamaCpp {
    /// Its own server on this machine: what `SUTAZAI_LLAMA_BIN` names, if that is set; else `llama-server` in `PATH`, and then `llama/llama-server` in the
    /// directory that `SUTAZAI_CACHE` names or in `sutazai` of the user's cache. The error says where was looked.
    pub fn find() -> Result<PathBuf, String> {
        program::find("llama.cpp", NAMED, "llama-server", Some("llama"))
    }

    /// The Python on this machine that has the server of `llama-cpp-python`, where [`python`](crate::python()) looks.
    pub fn find_in_python() -> Result<PathBuf, String> {
        python(&["llama_cpp.server.app"])
    }

    /// Its own server with the model of a GGUF file under this name, and with more arguments; or why there is none.
    pub fn start(program: &Path, gguf: &Path, name: &str, more: &[&str]) -> Result<Self, String> {
        let served = Served::new(program, gguf, name, more);
        let command = move |_: &Path, address: SocketAddr| {
            let mut command = bare(&served.program);
            command.arg("--model").arg(&served.gguf).args(["--alias", &served.name, "--ctx-size", CONTEXT]);
            command.args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "--offline"]);
            command.args(["--parallel", "1", "--threads", "1", "--threads-batch", "1"]);
            // A connection that is kept alive keeps a thread.
            command.args(["--threads-http", "64"]);
            // What was asked before changes no answer, not even by rounding; and nothing is made to fit.
            command.args(["--no-cache-prompt", "--cache-ram", "0", "--fit", "off", "--no-warmup"]);
            command.args(&served.more);
            command
        };
        let answers = |address| http::ask(address, "GET", "/health", &[]).is_ok();
        Service::start("llama.cpp", answers, command).map(Self)
    }

    /// The server in Python with the model of a GGUF file under this name, and with more arguments; or why there is none.
    pub fn start_in_python(python: &Path, gguf: &Path, name: &str, more: &[&str]) -> Result<Self, String> {
        let served = Served::new(python, gguf, name, more);
        let command = move |_: &Path, address: SocketAddr| {
            let mut command = bare(&served.program);
            // Waiting threads would take the core from the one that computes.
            command.envs([("OMP_WAIT_POLICY", "passive"), ("PYTHONDONTWRITEBYTECODE", "1")]);
            command.args(["-m", "llama_cpp.server", "--model"]).arg(&served.gguf);
            command.args(["--model_alias", &served.name, "--n_ctx", CONTEXT, "--chat_format", "chatml"]);
            command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
            command.args(["--n_threads", "1", "--n_threads_batch", "1"]).args(&served.more);
            command
        };
        let answers = |address| http::ask(address, "GET", "/v1/models", &[]).is_ok();
        Service::start("llama-cpp-python", answers, command).map(Self)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The process id, while the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.pid()
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.log()
    }
}

/// A program in an environment that says nothing to it: both servers take settings from there, under names such as `MODEL`.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    let kept = ["HOME", "PATH"].map(|name| (name, env::var_os(name).unwrap_or_default()));
    command.env_clear().envs(kept);
    command
}
