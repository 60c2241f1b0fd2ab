//! `--log-format json`: one object a line on standard error.

use super::{Display, RunEvent};

pub struct Json;

impl Display for Json {
    fn event(&mut self, event: &RunEvent) {
        eprintln!("{}", event.to_json());
    }
}
