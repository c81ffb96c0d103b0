//! The machine that a bench ran on, as far as it matters how fast models are there, and the memory that it has left.

use std::{env, num::NonZero, thread};

use serde::{Deserialize, Serialize};
use sutazai_core::Result;
use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

use crate::registry::blocking;

/// A machine, as results of benches name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// The processor as it calls itself; its architecture where it does not.
    pub cpu: String,
    /// Threads that this process may use.
    pub threads: usize,
}

impl Machine {
    /// This one.
    pub async fn here() -> Result<Self> {
        let cpu = blocking(cpu).await?;
        Ok(Self { cpu, threads: thread::available_parallelism().map_or(1, NonZero::get) })
    }
}

/// Bytes of memory that this machine could give to models now, the limits of this process's group counted in; nothing where it does not tell.
pub async fn available_memory() -> Option<u64> {
    blocking(available).await.ok().flatten()
}

/// Bytes of memory that this process takes.
pub(super) async fn own_memory() -> Option<u64> {
    blocking(own).await.ok().flatten()
}

fn cpu() -> String {
    let brand = System::new().ok().and_then(|mut system| {
        system.refresh_cpu_all();
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
    });
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| env::consts::ARCH.to_owned())
}

fn available() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let whole = (system.total_memory() > 0).then(|| system.available_memory())?;
    // A group's files that are cached give way; what its processes hold does not.
    let group = me(&mut system).and_then(Process::cgroup_limits);
    let group = group.map(|group| group.total_memory.saturating_sub(group.rss));
    Some(group.map_or(whole, |group| group.min(whole)))
}

fn own() -> Option<u64> {
    let mut system = System::new().ok()?;
    me(&mut system).map(Process::memory)
}

/// This process.
fn me(system: &mut System) -> Option<&Process> {
    let pid = get_current_pid().ok()?;
    let kind = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    system.process(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_says_what_it_is() {
        let machine = Machine::here().await.unwrap();
        assert!(!machine.cpu.is_empty() && machine.threads > 0, "{machine:?}");
        assert_eq!(Machine::here().await.unwrap(), machine);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn its_memory_and_this_process_s_are_known() {
        let (free, own) = (available_memory().await.unwrap(), own_memory().await.unwrap());
        assert!(own > 0 && free < 1 << 50, "{own} {free}");
    }
}
