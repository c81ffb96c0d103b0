//! The snapshot: plain data, bytes and percent, nothing of a process but its name and number.

use schemars::JsonSchema;
use serde::Serialize;

use super::Finding;

/// A snapshot of the machine. Sizes are in bytes, rates in bytes a second over the sampled interval.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Hardware {
    /// Milliseconds between the two samples.
    pub sample_ms: u64,
    /// The processor.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Swap.
    pub swap: Swap,
    /// Limits of this process's control group, where there are some.
    pub cgroup: Option<Cgroup>,
    /// Mounted disks.
    pub disks: Vec<Disk>,
    /// Network traffic.
    pub network: Network,
    /// Processes.
    pub processes: Processes,
    /// What stands out, the worst first.
    pub observations: Vec<Finding>,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Cpu {
    /// Its name, empty where the system tells none.
    pub model: String,
    /// Use of all cores together, 0 to 100.
    pub usage_percent: f32,
    /// Cores as the system schedules them.
    pub logical_cores: usize,
    /// Cores of silicon, where the system tells.
    pub physical_cores: Option<usize>,
    /// Each logical core.
    pub cores: Vec<CpuCore>,
    /// Load averages, where the system keeps them.
    pub load: Option<Load>,
}

/// A logical core.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CpuCore {
    /// Its name, such as `cpu0`.
    pub name: String,
    /// 0 to 100.
    pub usage_percent: f32,
    /// MHz; 0 where the system tells none.
    pub frequency_mhz: u64,
}

/// Runnable processes on average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Load {
    /// Over one minute.
    pub one: f64,
    /// Over five.
    pub five: f64,
    /// Over fifteen.
    pub fifteen: f64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Memory {
    /// All there is.
    pub total_bytes: u64,
    /// In use, caches not counted.
    pub used_bytes: u64,
    /// Not in use for anything.
    pub free_bytes: u64,
    /// What a new program could get, caches given up.
    pub available_bytes: u64,
    /// What is not available, 0 to 100.
    pub used_percent: f32,
}

/// Swap, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Swap {
    /// All there is.
    pub total_bytes: u64,
    /// In use.
    pub used_bytes: u64,
}

/// The limits under which this process runs (a container's, a service's).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Cgroup {
    /// Memory the group may use at most, where that is limited: the least of its own limit and of those around it.
    pub memory_limit_bytes: Option<u64>,
    /// Memory its processes hold, caches of files not counted, where the group is told.
    pub memory_used_bytes: Option<u64>,
    /// Cores it may use at most, where that is limited.
    pub cpu_limit: Option<f64>,
}

/// A mounted disk.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Disk {
    /// The device.
    pub name: String,
    /// Where it is mounted first.
    pub mount: String,
    /// Its file system.
    pub file_system: String,
    /// All space.
    pub total_bytes: u64,
    /// Space for new files.
    pub available_bytes: u64,
    /// What is not available, 0 to 100.
    pub used_percent: f32,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Read a second.
    pub read_bytes_per_s: u64,
    /// Written a second.
    pub written_bytes_per_s: u64,
}

/// Network traffic.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Network {
    /// Received a second, loopback not counted.
    pub received_bytes_per_s: u64,
    /// Sent a second, loopback not counted.
    pub transmitted_bytes_per_s: u64,
    /// Each interface.
    pub interfaces: Vec<NetworkInterface>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NetworkInterface {
    /// Its name.
    pub name: String,
    /// Received a second.
    pub received_bytes_per_s: u64,
    /// Sent a second.
    pub transmitted_bytes_per_s: u64,
    /// Received since it is up.
    pub received_bytes: u64,
    /// Sent since it is up.
    pub transmitted_bytes: u64,
    /// Errors in both directions since it is up.
    pub errors: u64,
}

/// Processes.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Processes {
    /// How many there are.
    pub count: usize,
    /// Those that took the most processor time in the interval.
    pub top_by_cpu: Vec<ProcessUse>,
    /// Those that hold the most memory.
    pub top_by_memory: Vec<ProcessUse>,
}

/// A process, by name and number alone: command lines hold secrets.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ProcessUse {
    /// Its number.
    pub pid: u32,
    /// The program's name.
    pub name: String,
    /// Percent of one core.
    pub cpu_percent: f32,
    /// Memory it holds.
    pub memory_bytes: u64,
}
