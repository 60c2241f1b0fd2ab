//! The learning rate of each step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Half a cosine down to 0.
    Cosine,
    /// A straight line down to 0.
    Linear,
    Constant,
}

/// A linear warm-up from 0, then the scheduler's course: transformers' `get_scheduler`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    scheduler: Scheduler,
    peak: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// The warm-up takes ⌈ratio · total⌉ steps.
    pub fn new(scheduler: Scheduler, peak: f64, warmup_ratio: f64, total: u64) -> Self {
        Self { scheduler, peak, warmup: (warmup_ratio * total as f64).ceil() as u64, total }
    }

    /// The learning rate of the step that follows `done` steps. With a warm-up, that of the first step is 0.
    pub fn rate(&self, done: u64) -> f64 {
        let factor = if done < self.warmup {
            done as f64 / self.warmup as f64
        } else {
            let progress = (done - self.warmup) as f64 / (self.total - self.warmup).max(1) as f64;
            match self.scheduler {
                Scheduler::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
                Scheduler::Linear => (1.0 - progress).max(0.0),
                Scheduler::Constant => 1.0,
            }
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(scheduler: Scheduler, ratio: f64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(scheduler, 1.0, ratio, total);
        (0..=total).map(|step| (schedule.rate(step) * 1e4).round() / 1e4).collect()
    }

    /// The numbers are those of transformers' get_cosine_schedule_with_warmup and its siblings.
    #[test]
    fn as_transformers() {
        assert_eq!(
            rates(Scheduler::Cosine, 0.2, 10),
            [0.0, 0.5, 1.0, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381, 0.0]
        );
        assert_eq!(rates(Scheduler::Linear, 0.15, 6), [0.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]);
        assert_eq!(rates(Scheduler::Constant, 0.0, 3), [1.0; 4]);
        assert_eq!(rates(Scheduler::Cosine, 1.0, 2), [0.0, 0.5, 1.0]);
    }
}
