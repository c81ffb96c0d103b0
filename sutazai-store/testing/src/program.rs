//! Programs that are looked for on this machine.

use std::{env, path::PathBuf};

use crate::cache::cache;

/// The program of `what`: what the variable `named` names, if that is set; else `program` in `PATH`, and then, where it has a `folder`, in that one of the
/// directory that `SUTAZAI_CACHE` names or of `sutazai` in the user's cache. The error says where was looked.
pub(crate) fn find(what: &str, named: &str, program: &str, folder: Option<&str>) -> Result<PathBuf, String> {
    let given = env::var_os(named).map(PathBuf::from);
    let looked = given.clone().map_or_else(|| usual(program, folder), |program| vec![program]);
    looked.iter().find(|program| program.is_file()).cloned().ok_or_else(|| {
        let looked: Vec<_> = looked.iter().map(|program| program.display().to_string()).collect();
        let by = if given.is_some() { format!(", which {named} names") } else { String::new() };
        format!("{what} is not installed: there is none of {}{by}; install it or set {named}", looked.join(", "))
    })
}

/// Where the program may be, best first.
fn usual(program: &str, folder: Option<&str>) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<_> = env::split_paths(&path).map(|directory| directory.join(program)).collect();
    found.extend(folder.and_then(|folder| Some(cache()?.join(folder).join(program))));
    found
}
