//! Displays: they listen to a run's events and change nothing.

mod amount;
mod bars;
mod json;
mod lines;

use std::io::Write;

use super::RunEvent;

pub use amount::{bytes, count, counted, seconds};
pub use bars::Bars;
pub use json::Json;
pub use lines::Lines;

/// Something that shows a run to its user.
pub trait Display {
    /// Something happened.
    fn event(&mut self, event: &RunEvent);
    /// Time passed without events.
    fn tick(&mut self) {}
    /// The run is over: leave the terminal as it should stay.
    fn end(&mut self) {}
}

/// A line on standard error. That nobody reads there any more is no reason to end a run.
fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The sentences that a run's turning points are told in; `None` for what only moves a bar.
fn sentence(event: &RunEvent) -> Option<String> {
    Some(match event {
        RunEvent::StageStarted { stage, why, .. } => format!("{stage}: starts ({})", reasons(why)),
        RunEvent::StageWaits { stage, holder } => format!("{stage}: waiting for {holder}"),
        RunEvent::StageFinished { stage, seconds: elapsed, same, .. } => {
            let same = if *same { ", the same as before" } else { "" };
            format!("{stage}: done in {}{same}", seconds(*elapsed))
        }
        RunEvent::StageInterrupted { stage } => format!("{stage}: interrupted; the next run continues"),
        RunEvent::StageFailed { stage, message, hint, log, tail } => {
            let mut text = format!("{stage}: failed: {message}");
            for line in tail {
                text.push_str(&format!("\n  | {line}"));
            }
            if let Some(hint) = hint {
                text.push_str(&format!("\n  hint: {hint}"));
            }
            if let Some(log) = log {
                text.push_str(&format!("\n  log: {}", log.display()));
            }
            text
        }
        RunEvent::Quarantined { stage, path, differences } => {
            let shown = differences.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            format!(
                "{stage}: warning: the artifact was altered by hand ({shown}); it is kept in {} and made again",
                path.display()
            )
        }
        RunEvent::Message { stage, level: crate::events::Level::Warn, text } => format!("{stage}: warning: {text}"),
        _ => return None,
    })
}

fn reasons(why: &[String]) -> String {
    match why {
        [] => "asked for".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
