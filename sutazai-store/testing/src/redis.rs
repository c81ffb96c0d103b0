//! A Redis of a test's own.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{PATIENCE, program, service::Service};

/// Names the program.
const NAMED: &str = "SUTAZAI_REDIS_BIN";
/// What is acknowledged is on the disk.
const SETTINGS: [(&str, &str); 4] =
    [("bind", "127.0.0.1"), ("save", ""), ("appendonly", "yes"), ("appendfsync", "always")];

/// A server on the loopback with data in a temporary directory. It ends when dropped, and when the test's process ends in whatever way.
pub struct Redis(Service);

impl Redis {
    /// The program on this machine: what `SUTAZAI_REDIS_BIN` names, if that is set; else `redis-server` in `PATH`. The error says where was looked.
    pub fn find() -> Result<PathBuf, String> {
        program::find("Redis", NAMED, "redis-server", None)
    }

    /// A server of one's own with these settings, such as `("maxmemory", "2mb")`, ready for connections; or why there is none. They win over those of the
    /// tests: everything is written to the disk before it is acknowledged.
    pub fn start_with(program: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        let program = program.to_owned();
        let owned = |(name, value): (&str, &str)| (format!("--{name}"), value.to_owned());
        let settings: Vec<_> = SETTINGS.into_iter().chain(settings.iter().copied()).map(owned).collect();
        let command = move |directory: &Path, address: SocketAddr| {
            let data = data(directory);
            fs::create_dir_all(&data).expect("a server's directory can be written to");
            let mut command = Command::new(&program);
            command.args(["--port", &address.port().to_string()]).arg("--dir").arg(data);
            for (name, value) in &settings {
                command.arg(name).arg(value);
            }
            command.current_dir(directory);
            command
        };
        Service::start("Redis", answers, command).map(Self)
    }

    /// One server for all tests of this program, started by the first that asks. Who wants to stop it has a server of their own.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Redis, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&Self::find()?, &[])).as_ref().map_err(Clone::clone)
    }

    /// `127.0.0.1:PORT`, the same for the server's whole life.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
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
        self.0.pid()
    }

    /// The directory of its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        data(self.0.directory())
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Ends the server as a loss of power would, and waits until its process is gone. Nothing happens to one that does not run.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Starts the server again, after [`kill`](Self::kill), on the same port and the same data; returns when it takes connections.
    pub fn start_again(&mut self) {
        self.0.start_again();
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

/// Where a server of this directory has its data.
fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}
