//! `cmx graph`: the graph of a pipeline as DOT or Mermaid.

use std::path::PathBuf;

use super::{Surroundings, project};
use crate::error::Result;
use crate::plan::Plan;

/// Print the graph of a pipeline
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// The language to write it in
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, _) = project(surroundings, self.pipeline.as_deref())?;
        match self.format {
            Format::Dot => print!("{}", dot(&plan)),
            Format::Mermaid => print!("{}", mermaid(&plan)),
        }
        Ok(())
    }
}

fn dot(plan: &Plan) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n  rankdir = LR;\n  node [shape = box];\n", quote(&plan.name));
    for node in &plan.order {
        let stage = &plan.graph[*node];
        let name = quote(&stage.name);
        if stage.kind == stage.name {
            text.push_str(&format!("  {name};\n"));
        } else {
            text.push_str(&format!("  {name} [label = \"{}\\n{}\"];\n", stage.name, stage.kind));
        }
    }
    for (parent, child) in edges(plan) {
        text.push_str(&format!("  {} -> {};\n", quote(&plan.graph[parent].name), quote(&plan.graph[child].name)));
    }
    text.push_str("}\n");
    text
}

fn mermaid(plan: &Plan) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for node in &plan.order {
        let stage = &plan.graph[*node];
        let kind = if stage.kind == stage.name { String::new() } else { format!("<br/>{}", stage.kind) };
        text.push_str(&format!("  s{}[\"{}{kind}\"]\n", node.index(), stage.name));
    }
    for (parent, child) in edges(plan) {
        text.push_str(&format!("  s{} --> s{}\n", parent.index(), child.index()));
    }
    text
}

type Edge = (petgraph::graph::NodeIndex, petgraph::graph::NodeIndex);

/// From each stage to those that use its artifact, in the order of the plan.
fn edges(plan: &Plan) -> impl Iterator<Item = Edge> + '_ {
    plan.order.iter().flat_map(|&child| plan.parents(child).into_iter().map(move |parent| (parent, child)))
}
