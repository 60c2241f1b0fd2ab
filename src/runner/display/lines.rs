//! Plain lines for logs and pipes: turning points as they come, and a heartbeat while a stage works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Display, RunEvent, amount, sentence, write_line};

/// How often a working stage says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Lines {
    working: BTreeMap<String, Working>,
}

struct Working {
    last_said: Instant,
    step: Option<Step>,
    since: Instant,
}

struct Step {
    label: String,
    since: Instant,
    first: u64,
    text: String,
}

impl Display for Lines {
    fn event(&mut self, event: &RunEvent) {
        if let Some(text) = sentence(event) {
            say(&text);
        }
        match event {
            RunEvent::StageStarted { stage, .. } => {
                let now = Instant::now();
                self.working.insert(stage.clone(), Working { last_said: now, step: None, since: now });
            }
            RunEvent::StageFinished { stage, .. }
            | RunEvent::StageFailed { stage, .. }
            | RunEvent::StageInterrupted { stage }
            | RunEvent::StageFresh { stage, .. } => {
                self.working.remove(stage);
            }
            RunEvent::Progress { stage, label, done, total, unit } => {
                if let Some(working) = self.working.get_mut(stage) {
                    let same = working.step.take().filter(|step| step.label == *label);
                    let (since, first) = same.map_or((Instant::now(), *done), |step| (step.since, step.first));
                    let elapsed = since.elapsed().as_secs_f64();
                    // A resumed stage starts in the middle: its rate is that of this attempt.
                    let text = if first == 0 {
                        amount::progress(*done, *total, *unit, elapsed)
                    } else {
                        amount::progress(
                            *done,
                            *total,
                            *unit,
                            elapsed * *done as f64 / (*done - first).max(1) as f64,
                        )
                    };
                    working.step = Some(Step { label: label.clone(), since, first, text });
                }
            }
            _ => {}
        }
        self.tick();
    }

    fn tick(&mut self) {
        for (stage, working) in &mut self.working {
            if working.last_said.elapsed() >= HEARTBEAT {
                working.last_said = Instant::now();
                match &working.step {
                    Some(step) => say(&format!("{stage}: {}: {}", step.label, step.text)),
                    None => say(&format!(
                        "{stage}: working for {}",
                        amount::seconds(working.since.elapsed().as_secs_f64())
                    )),
                }
            }
        }
    }
}

fn say(text: &str) {
    write_line(&format!("{} {text}", jiff::Zoned::now().strftime("%H:%M:%S")));
}
