//! What the stages of a run share: threads, memory, GPUs, and the number of stages at once.

use std::collections::HashMap;

use petgraph::graph::NodeIndex;

use crate::error::{Error, Result};
use crate::plan::Resources;

/// The host's resources and who has which part of them.
pub struct Pools {
    total: Resources,
    jobs: usize,
    taken: HashMap<NodeIndex, Share>,
}

/// What one running stage has.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// At least 1.
    pub threads: usize,
    memory: u64,
    gpus: usize,
}

impl Pools {
    /// `cpus`: threads in all, every core when absent; `jobs`: stages at once, as many as fit when absent.
    pub fn new(cpus: Option<usize>, jobs: Option<usize>) -> Result<Self> {
        if cpus == Some(0) || jobs == Some(0) {
            return Err(Error::invalid("nothing can run with no threads and no jobs: give at least 1"));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let total = Resources { cpus: cpus.unwrap_or(cores), memory: memory(), gpus: gpus() };
        Ok(Self { total, jobs: jobs.unwrap_or(usize::MAX), taken: HashMap::new() })
    }

    /// The share that a stage gets if it can start now. One that asks for more threads or memory than the host has
    /// runs alone with what there is; one that asks for more GPUs cannot run here.
    pub fn take(&self, stage: &str, asked: Resources) -> Result<Option<Share>> {
        if asked.gpus > self.total.gpus {
            let message =
                format!("stage {stage} asks for {} GPU(s), and this host has {}", asked.gpus, self.total.gpus);
            return Err(Error::invalid(message).hint("set `resources.gpus` of the stage"));
        }
        let threads = if asked.cpus == 0 { self.total.cpus } else { asked.cpus.min(self.total.cpus) };
        let share = Share { threads, memory: asked.memory.min(self.total.memory), gpus: asked.gpus };
        let used = |part: fn(&Share) -> u64| self.taken.values().map(part).sum::<u64>();
        let fits = self.taken.len() < self.jobs
            && used(|share| share.threads as u64) + share.threads as u64 <= self.total.cpus as u64
            && used(|share| share.memory) + share.memory <= self.total.memory
            && used(|share| share.gpus as u64) + share.gpus as u64 <= self.total.gpus as u64;
        Ok(fits.then_some(share))
    }

    pub fn started(&mut self, node: NodeIndex, share: Share) {
        self.taken.insert(node, share);
    }

    pub fn finished(&mut self, node: NodeIndex) {
        self.taken.remove(&node);
    }
}

/// Bytes of memory of this host.
#[cfg(target_os = "linux")]
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Where the host does not say, memory is no bound.
#[cfg(not(target_os = "linux"))]
pub fn memory() -> u64 {
    u64::MAX
}

/// NVIDIA devices of this host: `/dev/nvidia0`, `/dev/nvidia1`, …
fn gpus() -> usize {
    (0..).take_while(|number| std::path::Path::new(&format!("/dev/nvidia{number}")).exists()).count()
}
