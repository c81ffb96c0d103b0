//! hardware-resource-optimizer: what the machine has, what is in use, and what stands out. It observes and changes nothing.

mod findings;
mod report;
mod sample;

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use sutazai_core::{
    Error, ErrorKind, Fault,
    agent::{AgentDescriptor, AgentError, Effects, Phase, TypedAgent},
    context::Context,
    resource::ResourceRequest,
};

use self::sample::Sampler;
pub use self::{
    findings::{Finding, Severity, Thresholds},
    report::{
        Cgroup, Cpu, CpuCore, Disk, Hardware, Load, Memory, Network, NetworkInterface, ProcessUse, Processes, Swap,
    },
};

/// What to look at; every field may be left out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HardwareInput {
    /// What the caller wants to know, in words; the whole snapshot is given whatever it says.
    pub text: Option<String>,
    /// Milliseconds between the two samples from which rates are computed: 200 to 10,000, otherwise 500.
    #[schemars(range(min = 200, max = 10_000))]
    pub sample_ms: Option<u64>,
    /// How many of the top consumers to list: at most 100, otherwise 5.
    #[schemars(range(max = 100))]
    pub top: Option<usize>,
}

/// The processor's counters advance in ticks of 10 ms: a shorter interval measures the ticks.
const SAMPLE_MS: std::ops::RangeInclusive<u64> = 200..=10_000;
const TOP: usize = 100;

/// The agent; register it with [`sutazai_core::agent::typed`].
#[derive(Clone, Debug, Default)]
pub struct HardwareOptimizer {
    thresholds: Thresholds,
}

impl HardwareOptimizer {
    /// The agent's name.
    pub const NAME: &str = "hardware-resource-optimizer";

    /// An agent that reports what passes `thresholds`.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds }
    }
}

#[async_trait]
impl TypedAgent for HardwareOptimizer {
    type Input = HardwareInput;
    type Output = Hardware;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new(Self::NAME)
            .version(env!("CARGO_PKG_VERSION"))
            .description(
                "Shows the hardware of this machine and how it is used: processor load per core, free and used memory, swap, disk space and \
                 disk throughput, network traffic, and which processes take the most CPU and memory. Says what stands out, such as memory \
                 running low or a full disk. Observes only.",
            )
            .capabilities(["hardware_monitoring", "cpu_usage", "memory_usage", "disk_usage", "network_throughput", "process_list"])
            .place(Phase::Auxiliary, 10370)
            .effects(Effects::None)
            .resources(ResourceRequest { memory_mb: 256, cpu: 0.25, model_slots: 0 })
    }

    fn check(&self, input: &HardwareInput) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(ms) = input.sample_ms.filter(|ms| !SAMPLE_MS.contains(ms)) {
            faults
                .push(Fault::new("/sample_ms", format!("{ms} is not in {} to {}", SAMPLE_MS.start(), SAMPLE_MS.end())));
        }
        if let Some(top) = input.top.filter(|top| *top > TOP) {
            faults.push(Fault::new("/top", format!("{top} is more than {TOP}")));
        }
        faults
    }

    async fn run(&self, context: Context, input: HardwareInput) -> Result<Hardware, AgentError> {
        let interval = Duration::from_millis(input.sample_ms.unwrap_or(500));
        let top = input.top.unwrap_or(5);
        context.progress(Some(0.1), "reading the counters");
        let sampler = blocking(Sampler::start).await?;
        // The wait between the samples holds no thread.
        tokio::time::sleep(interval).await;
        context.progress(Some(0.9), "reading the counters again");
        let mut hardware = blocking(move || Ok(sampler.finish(top))).await?;
        hardware.observations = findings::of(&hardware, &self.thresholds);
        Ok(hardware)
    }
}

/// Reading /proc of a busy machine takes milliseconds: not on the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> sutazai_core::Result<T> + Send + 'static,
) -> sutazai_core::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "the sampling thread ended early").because(error))?
}
