//! `--log-format json`: one object a line on standard error.

use super::{Display, RunEvent, write_line};

pub struct Json;

impl Display for Json {
    fn event(&mut self, event: &RunEvent) {
        write_line(&event.to_json().to_string());
    }
}
