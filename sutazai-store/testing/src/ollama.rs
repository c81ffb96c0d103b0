//! An Ollama of a test's own.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{http, program, service::Service};

/// Names the program.
const NAMED: &str = "SUTAZAI_OLLAMA_BIN";
/// One model in memory, one answer at a time, nothing of the cloud.
const SETTINGS: [(&str, &str); 4] = [
    ("OLLAMA_NO_CLOUD", "1"),
    ("OLLAMA_NUM_PARALLEL", "1"),
    ("OLLAMA_MAX_LOADED_MODELS", "1"),
    ("OLLAMA_CONTEXT_LENGTH", "2048"),
];

/// A server on the loopback with a store of its own in a temporary directory, which is empty at first. It ends when dropped, and when the test's process
/// ends in whatever way, together with what runs its models.
pub struct Ollama(Service);

impl Ollama {
    /// The program on this machine: what `SUTAZAI_OLLAMA_BIN` names, if that is set; else `ollama` in `PATH`, and then `ollama/ollama` in the directory
    /// that `SUTAZAI_CACHE` names or in `sutazai` of the user's cache. The error says where was looked.
    pub fn find() -> Result<PathBuf, String> {
        program::find("Ollama", NAMED, "ollama", Some("ollama"))
    }

    /// A server of one's own, which answers; or why there is none.
    pub fn start_with(program: &Path) -> Result<Self, String> {
        let program = program.to_owned();
        let command = move |directory: &Path, address: SocketAddr| {
            let mut command = Command::new(&program);
            for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OLLAMA_")) {
                command.env_remove(name);
            }
            command.arg("serve").envs(SETTINGS).env("HOME", directory);
            command.env("OLLAMA_HOST", address.to_string()).env("OLLAMA_MODELS", models(directory));
            command
        };
        let answers = |address| http::ask(address, "GET", "/api/version", &[]).is_ok();
        Service::start("Ollama", answers, command).map(Self)
    }

    /// One server for all tests of this program, started by the first that asks.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Ollama, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&Self::find()?)).as_ref().map_err(Clone::clone)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
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

    /// The directory of its models.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        models(self.0.directory())
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.log()
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
        self.0.kill();
    }

    /// Starts the server again, after [`kill`](Self::kill), on the same port and with the models that it held; returns when it answers.
    pub fn start_again(&mut self) {
        self.0.start_again();
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<String, String> {
        http::ask(self.address(), method, path, body)
    }
}

/// Where a server of this directory has its models.
fn models(directory: &Path) -> PathBuf {
    directory.join("models")
}
