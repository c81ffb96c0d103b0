//! Ends a server that has lost its test.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Reads the server's process id, an empty line while there is none, until the test closes the pipe or is gone, which closes it too.
/// Signals for the test's whole group, as from Ctrl-C, are not for this one.
const READ: &str = r"
trap '' INT TERM HUP
pid=
while read -r line; do pid=$line; done
";

/// The server's lock file goes last; its process may stay a zombie for a while.
const POSTGRES: &str = r#"
if [ -n "$pid" ]; then
    kill -QUIT "$pid"
    tries=0
    while [ -e "$1/data/postmaster.pid" ] && [ "$tries" -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
    kill -KILL "$pid"
fi
rm -rf "$1"
"#;

/// The server leads a group of its own, with the processes that it starts in it.
const GROUP: &str = r#"
if [ -n "$pid" ]; then
    kill -TERM "-$pid"
    tries=0
    while kill -0 "-$pid" && [ "$tries" -lt 40 ]; do sleep 0.05; tries=$((tries + 1)); done
    kill -KILL "-$pid"
fi
rm -rf "$1"
"#;

/// A process that outlives the test just long enough to end its server and remove its directory. `PR_SET_PDEATHSIG` would do neither here: it
/// counts the death of the *thread* that started the server, and a test's thread ends before others are done with a shared server.
pub struct Watch(Child);

impl Watch {
    /// Watches over the `directory` of a PostgreSQL, with no server as yet.
    pub(crate) fn over(directory: &Path) -> Self {
        Self::run(POSTGRES, directory)
    }

    /// Watches over the `directory` of a server that leads a group of processes, with no server as yet.
    pub fn over_group(directory: &Path) -> Self {
        Self::run(GROUP, directory)
    }

    fn run(end: &str, directory: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{READ}{end}"), "watch"]).arg(directory).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("sh starts"))
    }

    /// From now on the server is this process; none is to be ended with `None`.
    pub fn server(&mut self, pid: Option<u32>) {
        let line = pid.map_or_else(String::new, |pid| pid.to_string());
        let _ = writeln!(self.0.stdin.as_mut().expect("it is piped"), "{line}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
