//! Two readings of the system's counters, and the rates between them.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use sutazai_core::{Error, ErrorKind, Result};
use sysinfo::{Disks, Networks, Process, ProcessRefreshKind, ProcessesToUpdate, System};

use super::report::{
    Cgroup, Cpu, CpuCore, Disk, Hardware, Load, Memory, Network, NetworkInterface, ProcessUse, Processes, Swap,
};

/// The first reading. Blocks for milliseconds; so does [`Sampler::finish`].
pub(super) struct Sampler {
    system: System,
    disks: Disks,
    networks: Networks,
    began: Instant,
}

impl Sampler {
    pub(super) fn start() -> Result<Self> {
        let unreadable = |what: &'static str| {
            move |error: sysinfo::Error| Error::new(ErrorKind::Unsupported, what).during("sample").because(error)
        };
        let mut system = System::new().map_err(unreadable("this system's counters cannot be read"))?;
        system.refresh_cpu_all();
        refresh_processes(&mut system);
        let disks = Disks::new_with_refreshed_list().map_err(unreadable("this system's disks cannot be read"))?;
        let networks =
            Networks::new_with_refreshed_list().map_err(unreadable("this system's network cannot be read"))?;
        Ok(Self { system, disks, networks, began: Instant::now() })
    }

    /// The second reading, at least [`sysinfo::MINIMUM_CPU_UPDATE_INTERVAL`] after the first, with the `top` largest consumers.
    pub(super) fn finish(mut self, top: usize) -> Hardware {
        let elapsed = self.began.elapsed();
        self.system.refresh_cpu_all();
        self.system.refresh_memory();
        // Before the scan of all processes, which takes long: rates are over the interval that is stated.
        self.disks.refresh(true);
        self.networks.refresh(true);
        refresh_processes(&mut self.system);
        let per_second = |bytes: u64| (bytes as f64 / elapsed.as_secs_f64()).round() as u64;
        Hardware {
            sample_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            cpu: cpu(&self.system),
            memory: memory(&self.system),
            swap: Swap { total_bytes: self.system.total_swap(), used_bytes: self.system.used_swap() },
            cgroup: cgroup(&self.system),
            disks: disks(&self.disks, per_second),
            network: network(&self.networks, per_second),
            processes: processes(&self.system, top),
            observations: Vec::new(),
        }
    }
}

/// Neither threads nor command lines: the first are no processes, the second hold secrets.
fn refresh_processes(system: &mut System) {
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
}

fn cpu(system: &System) -> Cpu {
    let cores: Vec<_> = system
        .cpus()
        .iter()
        .map(|core| CpuCore {
            name: core.name().into(),
            usage_percent: tenths(core.usage()),
            frequency_mhz: core.frequency(),
        })
        .collect();
    Cpu {
        model: system.cpus().first().map(|core| core.brand().trim().to_owned()).unwrap_or_default(),
        usage_percent: tenths(system.global_cpu_usage()),
        logical_cores: cores.len(),
        physical_cores: System::physical_core_count().ok(),
        cores,
        load: System::load_average().ok().map(|load| Load { one: load.one, five: load.five, fifteen: load.fifteen }),
    }
}

fn memory(system: &System) -> Memory {
    let (total, available) = (system.total_memory(), system.available_memory());
    Memory {
        total_bytes: total,
        used_bytes: system.used_memory(),
        free_bytes: system.free_memory(),
        available_bytes: available,
        used_percent: share(total.saturating_sub(available), total),
    }
}

/// sysinfo tells a group's memory; its share of the processor is read from cgroup v2's own files.
fn cgroup(system: &System) -> Option<Cgroup> {
    let limits = sysinfo::get_current_pid().ok().and_then(|me| system.process(me)?.cgroup_limits());
    let cpu_limit = fs::read_to_string("/proc/self/cgroup").ok().and_then(|groups| cpu_limit(&groups));
    if limits.is_none() && cpu_limit.is_none() {
        return None;
    }
    Some(Cgroup {
        memory_limit_bytes: limits.as_ref().map(|limits| limits.total_memory),
        memory_used_bytes: limits.as_ref().map(|limits| limits.rss),
        cpu_limit,
    })
}

/// The least quota of this process's group, the line `0::/PATH` of `groups`, and of those around it.
fn cpu_limit(groups: &str) -> Option<f64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    let around = group.ancestors().take_while(|path| path.starts_with("/sys/fs/cgroup"));
    let quotas = around.filter_map(|path| cpu_quota(&fs::read_to_string(path.join("cpu.max")).ok()?));
    quotas.min_by(f64::total_cmp)
}

/// `200000 100000` is two cores, `max 100000` no limit.
fn cpu_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

fn disks(disks: &Disks, per_second: impl Fn(u64) -> u64) -> Vec<Disk> {
    // One device mounted in several places is one disk; its shortest mount point names it.
    let mut by_device: BTreeMap<(String, u64), Disk> = BTreeMap::new();
    for disk in disks {
        let (total, available, usage) = (disk.total_space(), disk.available_space(), disk.usage());
        let found = Disk {
            name: disk.name().to_string_lossy().into_owned(),
            mount: disk.mount_point().to_string_lossy().into_owned(),
            file_system: disk.file_system().to_string_lossy().into_owned(),
            total_bytes: total,
            available_bytes: available,
            used_percent: share(total.saturating_sub(available), total),
            read_only: disk.is_read_only(),
            read_bytes_per_s: per_second(usage.read_bytes),
            written_bytes_per_s: per_second(usage.written_bytes),
        };
        let known = by_device.entry((found.name.clone(), total)).or_insert_with(|| found.clone());
        if found.mount.len() < known.mount.len() {
            *known = found;
        }
    }
    by_device.into_values().collect()
}

fn network(networks: &Networks, per_second: impl Fn(u64) -> u64) -> Network {
    let mut interfaces: Vec<_> = networks
        .iter()
        .map(|(name, data)| NetworkInterface {
            name: name.to_string_lossy().into_owned(),
            received_bytes_per_s: per_second(data.received()),
            transmitted_bytes_per_s: per_second(data.transmitted()),
            received_bytes: data.total_received(),
            transmitted_bytes: data.total_transmitted(),
            errors: data.total_errors_on_received() + data.total_errors_on_transmitted(),
        })
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    let outside = || interfaces.iter().filter(|interface| interface.name != "lo" && interface.name != "lo0");
    Network {
        received_bytes_per_s: outside().map(|interface| interface.received_bytes_per_s).sum(),
        transmitted_bytes_per_s: outside().map(|interface| interface.transmitted_bytes_per_s).sum(),
        interfaces,
    }
}

fn processes(system: &System, top: usize) -> Processes {
    let mut all: Vec<&Process> =
        system.processes().values().filter(|process| process.thread_kind().is_none()).collect();
    let take = |all: &[&Process]| {
        all.iter()
            .take(top)
            .map(|process| ProcessUse {
                pid: process.pid().as_u32(),
                name: process.name().to_string_lossy().into_owned(),
                cpu_percent: tenths(process.cpu_usage()),
                memory_bytes: process.memory(),
            })
            .collect()
    };
    all.sort_by(|a, b| b.cpu_usage().total_cmp(&a.cpu_usage()).then(a.pid().cmp(&b.pid())));
    let top_by_cpu = take(&all);
    all.sort_by(|a, b| b.memory().cmp(&a.memory()).then(a.pid().cmp(&b.pid())));
    Processes { count: all.len(), top_by_cpu, top_by_memory: take(&all) }
}

fn tenths(value: f32) -> f32 {
    (value * 10.0).round() / 10.0
}

fn share(part: u64, whole: u64) -> f32 {
    if whole == 0 { 0.0 } else { tenths((part as f64 / whole as f64 * 100.0) as f32) }
}

#[cfg(test)]
mod tests {
    use sysinfo::MINIMUM_CPU_UPDATE_INTERVAL;

    use super::*;

    #[test]
    fn a_quota_is_cores_and_max_is_none() {
        assert_eq!(cpu_quota("150000 100000\n"), Some(1.5));
        assert_eq!(cpu_quota("max 100000\n"), None);
        assert_eq!(cpu_quota(""), None);
    }

    #[tokio::test]
    async fn a_snapshot_shows_this_machine_and_this_process() {
        let sampler = Sampler::start().unwrap();
        tokio::time::sleep(MINIMUM_CPU_UPDATE_INTERVAL).await;
        let hardware = sampler.finish(usize::MAX);
        assert!(hardware.memory.total_bytes > 0 && hardware.memory.available_bytes <= hardware.memory.total_bytes);
        assert_eq!(hardware.cpu.logical_cores, hardware.cpu.cores.len());
        assert!(hardware.cpu.usage_percent >= 0.0 && hardware.cpu.usage_percent <= 100.0);
        let me = std::process::id();
        assert!(hardware.processes.top_by_memory.iter().any(|process| process.pid == me && process.memory_bytes > 0));
        assert!(hardware.processes.top_by_cpu.windows(2).all(|pair| pair[0].cpu_percent >= pair[1].cpu_percent));
        let text = serde_json::to_string(&hardware).unwrap();
        for word in ["\"cpu\"", "\"memory\"", "\"disks\"", "\"network\"", "\"processes\""] {
            assert!(text.contains(word), "{word}");
        }
    }
}
