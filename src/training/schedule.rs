//! The learning rate of each step.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The course of the learning rate, as transformers' `get_scheduler` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The peak from the first step to the last; no warm-up.
    Constant,
    /// The warm-up, then the peak.
    ConstantWithWarmup,
    /// The warm-up, then a straight line down to 0.
    Linear,
    /// The warm-up, then half a cosine down to the floor.
    Cosine,
    /// The warm-up, then the peak, and at the end half a cosine down to the floor.
    WarmupStableDecay,
}

/// What a schedule is made of, apart from its length.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub scheduler: Scheduler,
    /// The part of all steps in which the rate rises from 0.
    pub warmup_ratio: f64,
    /// The part of all steps in which [`Scheduler::WarmupStableDecay`] falls.
    pub decay_ratio: f64,
    /// What is left of the peak at the end; of [`Scheduler::Cosine`] and [`Scheduler::WarmupStableDecay`].
    pub min_lr_ratio: f64,
}

/// A linear warm-up from 0, then the scheduler's course.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    scheduler: Scheduler,
    /// In steps.
    warmup: u64,
    decay: u64,
    total: u64,
    floor: f64,
}

impl Schedule {
    /// Of `total` steps. The warm-up takes ⌈ratio · total⌉ of them, the decay as many, if the warm-up leaves them.
    pub fn new(Shape { scheduler, warmup_ratio, decay_ratio, min_lr_ratio }: Shape, total: u64) -> Self {
        let steps = |ratio: f64| ((ratio * total as f64).ceil() as u64).min(total);
        let warmup = if scheduler == Scheduler::Constant { 0 } else { steps(warmup_ratio) };
        Self { scheduler, warmup, decay: steps(decay_ratio).min(total - warmup), total, floor: min_lr_ratio }
    }

    /// What the peak is multiplied by in the step that follows `done` steps. With a warm-up, that of the first step
    /// is 0.
    pub fn factor(&self, done: u64) -> f64 {
        if done < self.warmup {
            return done as f64 / self.warmup as f64;
        }
        // From the peak at the first of `length` steps from `start` on to the floor behind the last.
        let cosine = |start: u64, length: u64| {
            let progress = done.saturating_sub(start) as f64 / length.max(1) as f64;
            (1.0 - self.floor) * (0.5 * (1.0 + (PI * progress).cos())) + self.floor
        };
        let falling = self.total - self.decay;
        match self.scheduler {
            Scheduler::Constant | Scheduler::ConstantWithWarmup => 1.0,
            Scheduler::Linear => self.total.saturating_sub(done) as f64 / (self.total - self.warmup).max(1) as f64,
            Scheduler::Cosine => cosine(self.warmup, self.total - self.warmup),
            Scheduler::WarmupStableDecay if done < falling => 1.0,
            Scheduler::WarmupStableDecay if done >= self.total => self.floor,
            Scheduler::WarmupStableDecay => cosine(falling, self.decay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        schedules: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        scheduler: Scheduler,
        warmup_ratio: f64,
        total: u64,
        min_lr_ratio: f64,
        decay_ratio: f64,
        rates: Vec<f64>,
    }

    /// transformers 4.46.3, by `tests/golden/make_schedules.py`.
    #[test]
    fn as_transformers() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../tests/golden/schedules.json")).expect("a golden file");
        assert!(golden.schedules.len() > 40);
        for Case { scheduler, warmup_ratio, total, min_lr_ratio, decay_ratio, rates } in golden.schedules {
            let shape = Shape { scheduler, warmup_ratio, decay_ratio, min_lr_ratio };
            let schedule = Schedule::new(shape, total);
            assert_eq!(rates.len() as u64, total + 1);
            for (step, rate) in (0..).zip(rates) {
                let factor = schedule.factor(step);
                assert!((factor - rate).abs() < 1e-12, "{shape:?}, step {step} of {total}: {factor}, not {rate}");
            }
        }
    }
}
