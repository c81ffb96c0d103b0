//! What stands out in a snapshot, by stated thresholds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::Hardware;

/// When a figure is worth a word. Percent of the whole, except where said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Memory in use, the machine's or the control group's.
    pub memory_percent: f32,
    /// Swap in use.
    pub swap_percent: f32,
    /// All cores together.
    pub cpu_percent: f32,
    /// Space in use on a disk that can be written.
    pub disk_percent: f32,
    /// Load of one minute for each core.
    pub load_per_core: f64,
    /// Above this a finding is critical.
    pub critical_percent: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_percent: 85.0,
            swap_percent: 50.0,
            cpu_percent: 90.0,
            disk_percent: 90.0,
            load_per_core: 2.0,
            critical_percent: 95.0,
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Act now.
    Critical,
    /// Look at it.
    Warning,
}

/// A figure beyond its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Which figure, such as `memory`.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// The figure.
    pub value: f64,
    /// The threshold that it passed.
    pub threshold: f64,
}

/// What passes `thresholds`, the worst first.
pub(super) fn of(hardware: &Hardware, thresholds: &Thresholds) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut percent = |subject: String, value: f32, threshold: f32, message: String| {
        if value >= threshold {
            let severity = if value >= thresholds.critical_percent { Severity::Critical } else { Severity::Warning };
            found.push(Finding { severity, subject, message, value: value.into(), threshold: threshold.into() });
        }
    };
    let memory = &hardware.memory;
    let message =
        format!("memory is {:.0} % used, {} are available", memory.used_percent, size(memory.available_bytes));
    percent("memory".into(), memory.used_percent, thresholds.memory_percent, message);
    let group = hardware.cgroup.as_ref();
    if let Some((limit, used)) = group.and_then(|group| group.memory_limit_bytes.zip(group.memory_used_bytes)) {
        let used = share(used, limit);
        let message = format!("the control group has used {used:.0} % of its {} of memory", size(limit));
        percent("cgroup_memory".into(), used, thresholds.memory_percent, message);
    }
    let swap = share(hardware.swap.used_bytes, hardware.swap.total_bytes);
    percent(
        "swap".into(),
        swap,
        thresholds.swap_percent,
        format!("swap is {swap:.0} % used, programs wait for the disk"),
    );
    let cpu = &hardware.cpu;
    let top =
        hardware.processes.top_by_cpu.first().map(|process| format!(", most by {}", process.name)).unwrap_or_default();
    percent(
        "cpu".into(),
        cpu.usage_percent,
        thresholds.cpu_percent,
        format!("the cpu is {:.0} % busy{top}", cpu.usage_percent),
    );
    for disk in hardware.disks.iter().filter(|disk| !disk.read_only && disk.total_bytes > 0) {
        let message = format!(
            "the disk at {} is {:.0} % full, {} are left",
            disk.mount,
            disk.used_percent,
            size(disk.available_bytes)
        );
        percent(format!("disk {}", disk.mount), disk.used_percent, thresholds.disk_percent, message);
    }
    if let Some(load) = &cpu.load {
        let per_core = load.one / cpu.logical_cores.max(1) as f64;
        if per_core >= thresholds.load_per_core {
            found.push(Finding {
                severity: Severity::Warning,
                subject: "load".into(),
                message: format!(
                    "{:.1} processes wait for or use the {} cores on average",
                    load.one, cpu.logical_cores
                ),
                value: per_core,
                threshold: thresholds.load_per_core,
            });
        }
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

fn share(part: u64, whole: u64) -> f32 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 100.0) as f32 }
}

fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Cgroup, Cpu, Disk, Load, Memory, Network, Processes, Swap},
        *,
    };

    fn calm() -> Hardware {
        Hardware {
            sample_ms: 500,
            cpu: Cpu {
                model: String::new(),
                usage_percent: 12.0,
                logical_cores: 2,
                physical_cores: Some(2),
                cores: Vec::new(),
                load: Some(Load { one: 0.5, five: 0.5, fifteen: 0.5 }),
            },
            memory: Memory {
                total_bytes: 8 << 30,
                used_bytes: 1 << 30,
                free_bytes: 6 << 30,
                available_bytes: 7 << 30,
                used_percent: 12.5,
            },
            swap: Swap { total_bytes: 0, used_bytes: 0 },
            cgroup: None,
            disks: Vec::new(),
            network: Network { received_bytes_per_s: 0, transmitted_bytes_per_s: 0, interfaces: Vec::new() },
            processes: Processes { count: 1, top_by_cpu: Vec::new(), top_by_memory: Vec::new() },
            observations: Vec::new(),
        }
    }

    #[test]
    fn a_calm_machine_gives_no_finding() {
        assert_eq!(of(&calm(), &Thresholds::default()), []);
    }

    #[test]
    fn the_worst_comes_first_and_names_its_threshold() {
        let mut hardware = calm();
        hardware.memory.used_percent = 92.0;
        hardware.memory.available_bytes = 600 << 20;
        hardware.cpu.load = Some(Load { one: 9.0, five: 1.0, fifteen: 1.0 });
        let full = Disk {
            name: "sda".into(),
            mount: "/".into(),
            file_system: "ext4".into(),
            total_bytes: 100,
            available_bytes: 1,
            used_percent: 99.0,
            read_only: false,
            read_bytes_per_s: 0,
            written_bytes_per_s: 0,
        };
        hardware.disks = vec![Disk { read_only: true, mount: "/cd".into(), ..full.clone() }, full];
        let found = of(&hardware, &Thresholds::default());
        let group = Cgroup { memory_limit_bytes: Some(1 << 30), memory_used_bytes: Some(900 << 20), cpu_limit: None };
        let in_group = of(&Hardware { cgroup: Some(group), ..calm() }, &Thresholds::default());
        assert_eq!(in_group[0].message, "the control group has used 88 % of its 1.0 GiB of memory");
        let subjects: Vec<_> = found.iter().map(|finding| finding.subject.as_str()).collect();
        assert_eq!(subjects, ["disk /", "memory", "load"]);
        assert_eq!(found[0].severity, Severity::Critical);
        assert_eq!(found[1].message, "memory is 92 % used, 600 MiB are available");
        assert!((found[1].threshold - 85.0).abs() < 1e-6);
    }
}
