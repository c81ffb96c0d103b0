//! A Python with the packages that a test needs.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::cache::cache;

/// Names the interpreter.
const NAMED: &str = "SUTAZAI_PYTHON";

/// The Python on this machine that has all of `packages`: what `SUTAZAI_PYTHON` names, if that is set; else `python/bin/python` in the directory that
/// `SUTAZAI_CACHE` names or in `sutazai` of the user's cache, and then `python3` in `PATH`. The error says where was looked.
pub fn python(packages: &[&str]) -> Result<PathBuf, String> {
    let looked = env::var_os(NAMED).map_or_else(usual, |named| vec![named.into()]);
    looked.iter().find(|program| imports(program, packages)).cloned().ok_or_else(|| {
        let looked: Vec<_> = looked.iter().map(|program| program.display().to_string()).collect();
        let (looked, packages) = (looked.join(", "), packages.join(" and "));
        format!("there is no Python with {packages}: neither of {looked} has them; .ci/python/install DIR makes one, {NAMED} names one")
    })
}

/// Where one may be, best first.
fn usual() -> Vec<PathBuf> {
    let own = cache().map(|cache| cache.join("python").join("bin").join("python"));
    own.into_iter().chain([PathBuf::from("python3")]).collect()
}

fn imports(program: &Path, packages: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(["-c", &format!("import {}", packages.join(", "))]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_has_everything_will_do() {
        let python3 = Path::new("python3");
        assert!(!imports(python3, &["sutazai_has_no_such_package"]));
        assert!(!imports(Path::new("/no/such/python"), &["sys"]));
        let why = python(&["sys", "sutazai_has_no_such_package"]).unwrap_err();
        assert!(why.contains("sutazai_has_no_such_package") && why.contains(NAMED), "{why}");
    }
}
