//! Bars for a terminal: one line per running stage, turning points above them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Display, RunEvent, amount, sentence};

#[derive(Default)]
pub struct Bars {
    screen: MultiProgress,
    stages: BTreeMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    label: String,
    since: Instant,
    first: u64,
}

impl Bars {
    fn say(&self, text: &str) {
        for line in text.lines() {
            let _ = self.screen.println(line);
        }
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template =
        if with_total { "{spinner} {prefix:24!} {bar:24} {wide_msg}" } else { "{spinner} {prefix:24!} {wide_msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌")
}

impl Display for Bars {
    fn event(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageStarted { stage, why, .. } => {
                let bar = self.screen.add(ProgressBar::new_spinner().with_style(style(false)));
                bar.set_prefix(stage.clone());
                bar.set_message(super::reasons(why));
                bar.enable_steady_tick(Duration::from_millis(120));
                self.stages
                    .insert(stage.clone(), Bar { bar, label: String::new(), since: Instant::now(), first: 0 });
                return;
            }
            RunEvent::StageFinished { stage, .. }
            | RunEvent::StageFailed { stage, .. }
            | RunEvent::StageInterrupted { stage }
            | RunEvent::StageFresh { stage, .. } => {
                if let Some(bar) = self.stages.remove(stage) {
                    bar.bar.finish_and_clear();
                    self.screen.remove(&bar.bar);
                }
            }
            RunEvent::Progress { stage, label, done, total, unit } => {
                if let Some(bar) = self.stages.get_mut(stage) {
                    if bar.label != *label {
                        bar.label.clone_from(label);
                        bar.since = Instant::now();
                        bar.first = *done;
                        bar.bar.set_style(style(total.is_some()));
                    }
                    if let Some(total) = total {
                        bar.bar.set_length(*total);
                    }
                    bar.bar.set_position(*done);
                    let worked = (*done - bar.first.min(*done)).max(1) as f64;
                    let elapsed = bar.since.elapsed().as_secs_f64() * *done as f64 / worked;
                    bar.bar.set_message(format!("{label}: {}", amount::progress(*done, *total, *unit, elapsed)));
                }
            }
            _ => {}
        }
        if let Some(text) = sentence(event) {
            self.say(&text);
        }
    }

    fn end(&mut self) {
        for bar in self.stages.values() {
            bar.bar.finish_and_clear();
        }
        let _ = self.screen.clear();
    }
}
