//! Runs a command beside a PostgreSQL of its own: `with_postgres COMMAND…`. Its URL is in the environment as `POSTGRES_URL`, and stands for `{}` in the
//! arguments; the exit code is the command's. Used by `.ci/run` for what tests the server from outside.

use std::process::{Command, ExitCode};

use sutazai_testing::{Postgres, PostgresConfig};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            #[expect(clippy::print_stderr, reason = "a program says why it ends")]
            {
                eprintln!("with_postgres: {why}");
            }
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8, String> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().ok_or("a command is needed: with_postgres COMMAND…")?;
    let installation = Postgres::find()?;
    let postgres = Postgres::start_with(&installation, PostgresConfig::default())?;
    let url = postgres.url();
    let mut path = vec![installation.bin().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).map_err(|error| error.to_string())?;
    let status = Command::new(&program)
        .args(arguments.map(|argument| argument.replace("{}", &url)))
        .env("POSTGRES_URL", &url)
        .env("PATH", path)
        .status()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
