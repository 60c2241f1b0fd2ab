//! `compare`: the results of several eval stages in one table.

use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::evaluation::comparison::{Comparison, Row, default_label};
use crate::stages::{Fault, Input, Stage, Work};

/// Puts evaluations side by side.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// Artifacts of eval stages, in the order of the rows; the first is the baseline.
    results: Vec<Input>,
    /// The name of each row; by default the name of the eval stage or of its `foreach` instance.
    labels: Option<Vec<String>>,
}

/// Columns of the table in a terminal; wider ones go on below.
const TERMINAL_WIDTH: usize = 110;

impl Stage for Compare {
    const KIND: &'static str = "compare";
    const REVISION: u32 = 1;

    fn check(&self) -> Result<(), Fault> {
        let results = self.results.len();
        match self.labels.as_ref().map(Vec::len).filter(|labels| *labels != results) {
            Some(labels) => {
                Err(Fault::new("labels", format!("there are {labels} `labels` for {results} `results`")))
            }
            None => Ok(()),
        }
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let labels = match &self.labels {
            Some(labels) => labels.clone(),
            None => self.results.iter().map(|result| default_label(&result.from)).collect(),
        };
        let rows = labels.into_iter().zip(&self.results);
        let rows = rows.map(|(label, result)| Row::read(label, result.path())).collect::<Result<_>>()?;
        let comparison = Comparison::new(rows)?;
        let mut json = serde_json::to_string_pretty(&comparison.to_json())
            .context(|| "cannot write the comparison".to_owned())?;
        json.push('\n');
        for (name, text) in [("compare.json", json), ("compare.md", comparison.to_markdown())] {
            let path = work.output().join(name);
            fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
        }
        for mismatch in comparison.mismatches() {
            work.warn(mismatch);
        }
        work.note(comparison.table().to_text(TERMINAL_WIDTH));
        Ok(())
    }
}
