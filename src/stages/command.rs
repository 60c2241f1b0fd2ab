//! `command`: a user's own program as a stage.

use std::collections::BTreeMap;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Input, Stage, Work};
use crate::error::{Context, Error, Result};

/// Runs a program in the workspace folder. What it writes into `{output}` becomes the artifact; what it prints goes to
/// the stage's log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments, not passed through a shell. `{NAME}` stands for the path of an input, `{output}` for the
    /// folder that becomes the artifact, `{scratch}` for one that is kept between attempts, `{threads}` for the number
    /// of threads; `{{` and `}}` are braces.
    pub command: Vec<String>,
    /// What it reads: name → stage artifact or source file.
    pub inputs: BTreeMap<String, Input>,
}

impl Stage for Command {
    const KIND: &'static str = "command";
    const REVISION: u32 = 1;

    fn run(&self, work: &mut Work) -> Result<()> {
        let arguments = self.command.iter().map(|part| self.fill(part, work)).collect::<Result<Vec<_>>>()?;
        let Some((program, arguments)) = arguments.split_first() else {
            return Err(
                Error::invalid("the command is empty").hint("write `command = [\"PROGRAM\", \"ARGUMENT\", …]`")
            );
        };
        work.info(format!("runs {}", self.command.join(" ")));
        let mut child = Process::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // The worker's own standard output carries events.
            .stdout(std::io::stderr())
            .spawn()
            .map_err(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let failed = Error::new(format!("cannot start {program}")).caused_by(error);
                match missing {
                    true => {
                        failed.hint("a program is looked for in PATH, or at its path in the workspace: tools/NAME")
                    }
                    false => failed,
                }
            })?;
        let status = loop {
            if let Some(status) = child.try_wait().context(|| format!("cannot wait for {program}"))? {
                break status;
            }
            if let Err(stop) = work.check() {
                child.kill().and_then(|()| child.wait()).context(|| format!("cannot end {program}"))?;
                return Err(stop);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if status.success() { Ok(()) } else { Err(Error::new(format!("{program} failed: {status}"))) }
    }
}

impl Command {
    /// Replaces the placeholders of one argument.
    fn fill(&self, argument: &str, work: &Work) -> Result<String> {
        let mut filled = String::new();
        let mut rest = argument;
        while let Some(position) = rest.find(['{', '}']) {
            filled.push_str(&rest[..position]);
            let brace = &rest[position..=position];
            rest = &rest[position + 1..];
            if rest.starts_with(brace) {
                filled.push_str(brace);
                rest = &rest[1..];
                continue;
            }
            let (true, Some(end)) = (brace == "{", rest.find('}')) else {
                return Err(Error::invalid(format!("`{argument}` has an unmatched brace"))
                    .hint("write `{{` and `}}` for braces that are meant"));
            };
            let name = &rest[..end];
            rest = &rest[end + 1..];
            match (name, self.inputs.get(name)) {
                (_, Some(input)) => filled.push_str(&input.path.to_string_lossy()),
                ("output", _) => filled.push_str(&work.output().to_string_lossy()),
                ("scratch", _) => filled.push_str(&work.scratch().to_string_lossy()),
                ("threads", _) => filled.push_str(&work.threads().to_string()),
                _ => {
                    let known = self.inputs.keys().map(String::as_str).chain(["output", "scratch", "threads"]);
                    let error =
                        Error::invalid(format!("`{argument}` names `{name}`, which is no input of this stage"));
                    let known: Vec<_> = known.collect();
                    return Err(match crate::error::nearest(name, known.iter().copied()) {
                        Some(near) => error.hint(format!("did you mean `{{{near}}}`?")),
                        None => error.hint(format!("known are {}", known.join(", "))),
                    });
                }
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }
}
