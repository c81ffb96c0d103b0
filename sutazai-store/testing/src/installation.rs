//! Where PostgreSQL is on this machine, and an initialised cluster to copy.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::{
        fs::{DirBuilderExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use etcetera::BaseStrategy;

/// Names the directory of PostgreSQL's programs.
const NAMED: &str = "SUTAZAI_POSTGRES_BIN";
/// What is run of it.
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];
/// Where packages put it, each with what follows a version.
const USUAL: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
];
/// How a template is made; another way of making it is another template.
const INITDB: &str = "-U test -A trust -E UTF8 --locale=C --no-sync";

/// PostgreSQL as it is installed here.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    version: String,
    /// The user and group to run as: PostgreSQL refuses to run as root.
    run_as: Option<(u32, u32)>,
}

impl Installation {
    /// See [`Postgres::find`](crate::Postgres::find).
    pub(crate) fn find() -> Result<Self, String> {
        let named = env::var_os(NAMED).map(PathBuf::from);
        let looked = named.clone().map_or_else(usual, |bin| vec![bin]);
        let whole = |bin: &&PathBuf| PROGRAMS.iter().all(|program| bin.join(program).is_file());
        let Some(bin) = looked.iter().find(whole) else {
            let looked: Vec<_> = looked.iter().map(|bin| bin.display().to_string()).collect();
            let by = if named.is_some() { format!(", which {NAMED} names") } else { String::new() };
            return Err(format!(
                "PostgreSQL is not installed: no directory with {} among {}{by}; install it or set {NAMED}",
                PROGRAMS.join(", "),
                looked.join(", ")
            ));
        };
        let said = output(Command::new(bin.join("postgres")).arg("--version"))?;
        let version = said.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = version.ok_or_else(|| format!("{} --version says {said:?}", bin.join("postgres").display()))?;
        Ok(Self { bin: bin.clone(), version: version.to_owned(), run_as: run_as()? })
    }

    /// The directory of its programs.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Its version, such as `15.18`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One of its programs, with an environment in which nothing about PostgreSQL is set, in a directory that it may enter.
    pub(crate) fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir(directory);
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives what is at `path` to the user that PostgreSQL runs as.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        self.run_as.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
    }

    /// Makes `data` a fresh cluster: a copy of one that is initialised once for each user and version.
    pub(crate) fn initialise(&self, data: &Path) -> Result<(), String> {
        let template = self.template()?;
        self.copy(&template, data)
            .map_err(|error| format!("copying {} to {}: {error}", template.display(), data.display()))
    }

    fn template(&self) -> Result<PathBuf, String> {
        let cache = etcetera::choose_base_strategy().map_err(|error| error.to_string())?.cache_dir();
        let cache = cache.join("sutazai").join("postgres");
        let template = cache.join(format!("{} {INITDB}", self.version).replace(' ', "_"));
        let made = || -> io::Result<()> {
            fs::create_dir_all(&cache)?;
            let lock = fs::File::create(cache.join("lock"))?;
            lock.lock()?;
            if template.exists() {
                return Ok(());
            }
            // The cache is the test's own user's, where PostgreSQL's may not reach.
            let directory = tempfile::Builder::new().prefix("sutazai-initdb-").tempdir()?;
            self.own(directory.path())?;
            let data = directory.path().join("data");
            let mut initdb = self.command("initdb", directory.path());
            output(initdb.arg("-D").arg(&data).args(INITDB.split(' '))).map_err(io::Error::other)?;
            // Copied beside and renamed: a template is whole or not there.
            let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&cache)?;
            let whole = partial.path().join("data");
            Self { run_as: None, ..self.clone() }.copy(&data, &whole)?;
            fs::rename(whole, &template)
        };
        if !template.exists() {
            made().map_err(|error| format!("making {}: {error}", template.display()))?;
        }
        Ok(template)
    }

    /// Copies a directory of plain files and directories.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(to)?;
        self.own(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.copy(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), &target)?;
                self.own(&target)?;
            }
        }
        Ok(())
    }
}

/// The directories where it may be, best first.
fn usual() -> Vec<PathBuf> {
    let mut found: Vec<_> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    // Where clients are wrapped (Debian), `PATH` has some of the programs only.
    found.retain(|bin: &PathBuf| PROGRAMS.iter().all(|program| bin.join(program).is_file()));
    found.extend(output(Command::new("pg_config").arg("--bindir")).ok().map(|bin| PathBuf::from(bin.trim())));
    for (folder, prefix, bin) in USUAL {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let names = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(prefix));
        let mut versions: Vec<_> = names.map(|name| (version(&name), name)).collect();
        versions.sort_by(|a, b| b.cmp(a));
        found.extend(versions.into_iter().map(|(_, name)| Path::new(folder).join(name).join(bin)));
        if prefix.is_empty() && !Path::new(folder).exists() {
            found.push(Path::new(folder).join("*").join(bin));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|bin| seen.insert(bin.clone()));
    found
}

/// `postgresql@9.6` is 9 and 6.
fn version(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Another user for root, whom PostgreSQL refuses: `postgres`, whom packages make.
fn run_as() -> Result<Option<(u32, u32)>, String> {
    let id = |arguments: &[&str]| -> Result<u32, String> {
        let said = output(Command::new("id").args(arguments))?;
        said.trim().parse().map_err(|error| format!("id {arguments:?}: {error}"))
    };
    if id(&["-u"])? != 0 {
        return Ok(None);
    }
    let user = |error| format!("PostgreSQL does not run as root, and there is no user postgres to run it as: {error}");
    Ok(Some((id(&["-u", "postgres"]).map_err(user)?, id(&["-g", "postgres"])?)))
}

/// What a program wrote to stdout, or why it failed.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
