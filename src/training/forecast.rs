//! What a training will take, known before it starts: the parameters it trains, its memory term by term, and the
//! operations of a step.
//!
//! The terms are those of `model/` and of the loop beside this file: whoever changes what these keep changes the table
//! here, and `tests/memory_is_forecast.rs` holds the sum against the memory of real trainings.

use serde::Serialize;

use crate::model::{Config, Precision, Storage};
use crate::weights::adapter::{AdapterConfig, is_named};

/// Bytes of a float32.
const FLOAT: u64 = 4;
/// Bytes of a bfloat16.
const HALF: u64 = 2;

/// What the program takes beside all this, measured: its own pages, threads, buffers of matrix products, and what the
/// allocator cannot use.
const PROGRAM: u64 = 60 << 20;

/// A training as it bears on memory and time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    pub config: Config,
    /// The linear layers but the output are packed to 4 bits as they are read.
    pub packed: bool,
    pub precision: Precision,
    pub trained: Trained,
    /// Sequences of a micro-batch, and the tokens of each.
    pub sequences: usize,
    pub length: usize,
    /// Layers keep only their inputs, and run again on the way back.
    pub recompute: bool,
}

/// Which weights are trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trained {
    All,
    Adapters {
        rank: usize,
        /// Whether a part of the adapters' inputs is dropped.
        dropout: bool,
        /// Linear layers that get an adapter, by the end of their names.
        target_modules: Vec<String>,
        /// Modules that are trained whole, by the end of their names.
        modules_to_save: Vec<String>,
    },
}

/// What is trained, and what that takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Trained parameters: of adapters, and of weights that are trained whole.
    pub adapter_parameters: u64,
    pub whole_parameters: u64,
    pub memory: Memory,
    /// Operations of a micro-batch, a multiplication and an addition counted as two.
    pub operations: Operations,
}

/// Bytes at the moment when they are most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model, as it was read.
    pub weights: u64,
    /// The adapters' matrices.
    pub adapter: u64,
    /// Of AdamW: two moments.
    pub optimiser: u64,
    pub gradients: u64,
    /// What the layers keep for the way back.
    pub activations: u64,
    /// A run of logits, whose gradient takes their place.
    pub logits: u64,
    /// What a layer needs on the way back besides. It is never there together with logits.
    pub working: u64,
    /// The program itself.
    pub program: u64,
}

/// Forward, and backward as far as gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Operations {
    /// Of all layers.
    pub layers: f64,
    /// Of the output.
    pub output: f64,
}

impl Forecast {
    pub fn parameters(&self) -> u64 {
        self.adapter_parameters + self.whole_parameters
    }
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { weights, adapter, optimiser, gradients, activations, logits, working, program } = *self;
        weights + adapter + optimiser + gradients + activations + logits.max(working) + program
    }

    /// Each term under a name for people.
    pub fn terms(&self) -> [(&'static str, u64); 8] {
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("gradients", self.gradients),
            ("optimiser", self.optimiser),
            ("activations", self.activations),
            ("logits, or", self.logits),
            ("working memory", self.working),
            ("program", self.program),
        ]
    }
}

/// What the weights are to a training.
struct Weights {
    /// Of the model, as it is held.
    bytes: u64,
    /// Values that are trained whole.
    whole: u64,
    /// Values of the adapters.
    adapter: u64,
    /// Values between the adapters' matrices, all layers.
    inner: u64,
}

impl Trained {
    /// Adapters of this configuration; ranks that its patterns make others are counted as all the rest.
    pub fn adapters(config: &AdapterConfig) -> Self {
        Self::Adapters {
            rank: config.r,
            dropout: config.lora_dropout > 0.0,
            target_modules: config.target_modules.clone(),
            modules_to_save: config.modules_to_save.clone(),
        }
    }

    /// The rank of a linear layer's adapter; 0 if it has none.
    pub(super) fn rank(&self, module: &str) -> u64 {
        match self {
            Self::Adapters { rank, target_modules, .. }
                if target_modules.iter().any(|end| is_named(module, end)) =>
            {
                *rank as u64
            }
            _ => 0,
        }
    }

    /// Whether a module is trained whole.
    pub(super) fn whole(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Adapters { modules_to_save, .. } => modules_to_save.iter().any(|end| is_named(module, end)),
        }
    }

    /// How the matrix of a linear layer is held: what is trained in float32, the rest as small as asked for. `packed`:
    /// all but the output to 4 bits.
    pub fn storage(&self, module: &str, packed: bool, precision: Precision) -> Storage {
        match precision {
            _ if self.whole(module) => Storage::Float32,
            _ if packed && module != "lm_head" => Storage::Nf4,
            Precision::Bfloat16 => Storage::Bfloat16,
            Precision::Float32 => Storage::Float32,
        }
    }
}

impl Subject {
    /// Where so many threads work: experts run beside each other.
    pub fn forecast(&self, threads: usize) -> Forecast {
        let weights = self.weights();
        let trained = weights.whole + weights.adapter;
        let memory = Memory {
            weights: weights.bytes,
            adapter: FLOAT * weights.adapter,
            optimiser: 2 * FLOAT * trained,
            gradients: FLOAT * trained,
            activations: self.activations(weights.inner),
            logits: FLOAT * self.logits(),
            working: FLOAT * self.working(threads as u64),
            program: PROGRAM,
        };
        Forecast {
            adapter_parameters: weights.adapter,
            whole_parameters: weights.whole,
            memory,
            operations: self.operations(),
        }
    }

    /// Tokens of a micro-batch.
    fn tokens(&self) -> u64 {
        (self.sequences * self.length) as u64
    }

    /// Pairs of a token and one of its experts.
    fn slots(&self) -> u64 {
        self.tokens() * self.config.num_experts_per_tok as u64
    }

    fn widths(&self) -> Widths {
        let Config { hidden_size, intermediate_size, head_dim, .. } = self.config;
        Widths {
            hidden: hidden_size as u64,
            inner: intermediate_size as u64,
            queries: (self.config.num_attention_heads * head_dim) as u64,
            keys: (self.config.num_key_value_heads * head_dim) as u64,
        }
    }

    fn weights(&self) -> Weights {
        let mut sum = Weights { bytes: 0, whole: 0, adapter: 0, inner: 0 };
        for (name, shape) in self.config.weights() {
            let values = shape.iter().map(|&size| size as u64).product::<u64>();
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let is_linear = shape.len() == 2 && module != "model.embed_tokens";
            let storage = match module {
                _ if !is_linear => Storage::Float32,
                "lm_head" => self.trained.storage(module, self.packed, self.precision),
                _ if self.config.packed => Storage::Nf4,
                _ => self.trained.storage(module, self.packed, self.precision),
            };
            sum.bytes += match storage {
                Storage::Float32 => FLOAT * values,
                Storage::Bfloat16 => HALF * values,
                // Two values in a byte, and a scale in float32 for each block of 64.
                Storage::Nf4 => values.div_ceil(2) + FLOAT * values.div_ceil(64),
            };
            if is_linear && module != "lm_head" {
                let rank = self.trained.rank(module);
                sum.adapter += rank * (shape[0] + shape[1]) as u64;
                sum.inner += rank * self.rows(module);
            }
            if self.trained.whole(module) {
                sum.whole += values;
            }
        }
        sum
    }

    /// Rows that a linear layer is given: all tokens, or an expert's share of the slots.
    fn rows(&self, module: &str) -> u64 {
        if module.contains(".experts.") {
            self.slots().div_ceil(self.config.num_local_experts as u64)
        } else {
            self.tokens()
        }
    }

    /// Bytes that the layers keep (`Trace` in `model/attention.rs` and `model/experts.rs`), and the last layer's output.
    /// `inner` are the values between the adapters' matrices, of all layers.
    fn activations(&self, inner: u64) -> u64 {
        let (n, slots, layers) = (self.tokens(), self.slots(), self.config.num_hidden_layers as u64);
        let Widths { hidden, inner: wide, queries, keys } = self.widths();
        let value = match self.precision {
            Precision::Float32 => FLOAT,
            Precision::Bfloat16 => HALF,
        };
        // Both blocks' inputs, queries, keys, values, the attention's output; of each slot both branches and the output.
        let kept = n * (2 * hidden + 2 * queries + 2 * keys) + slots * (2 * wide + hidden);
        // The attention's logarithms, and five numbers of the routing.
        let small = n * self.config.num_attention_heads as u64 + slots * 5 + inner / layers;
        let layer = value * kept + FLOAT * small;
        let kept = if self.recompute { layers * value * n * hidden + layer } else { layers * layer };
        kept + FLOAT * n * hidden
    }

    /// Values of a run of logits (`Mixtral::runs`), and beside them the normed output and its gradient.
    fn logits(&self) -> u64 {
        const LOGITS: u64 = 1 << 22;
        let vocabulary = self.config.vocab_size as u64;
        let run = (LOGITS / vocabulary).max(64).min(self.tokens());
        run * vocabulary + 2 * self.tokens() * self.widths().hidden
    }

    /// Values that the way back through a layer needs at one time beside what was kept.
    fn working(&self, threads: u64) -> u64 {
        let (n, slots, count) = (self.tokens(), self.slots(), self.config.num_local_experts as u64);
        let Widths { hidden, inner, queries, keys } = self.widths();
        let half = u64::from(self.precision == Precision::Bfloat16);
        // What the output left, the gradient of the residual stream, the block's input if it was rounded, its norm, and
        // the norm's gradient.
        let stream = n * (5 + half) * hidden;
        // Of as many experts as run at one time: the output's gradient and four values of the inner width, or six if
        // both branches were rounded. All experts' outputs are not there any more. The busiest experts have a quarter
        // more rows than the mean.
        let busy = slots.min(5 * slots * threads.min(count) / (4 * count));
        let experts = (busy * (hidden + (4 + 2 * half) * inner)).saturating_sub(slots * hidden);
        // Of queries, keys and values, per head and put together; both branches of the experts are not there any more.
        let rounded = half * (2 * queries + 2 * keys);
        let attention = (n * (3 * queries + 4 * keys + rounded)).saturating_sub(2 * slots * inner);
        // Frozen weights in fewer bits are widened panel by panel.
        let panels = threads * (128 * hidden.max(inner)).max(1 << 16);
        stream + experts.max(attention) + panels
    }

    /// Forward, again if layers keep only their inputs, and back: to the input of every linear layer, and to each weight
    /// that is trained.
    fn operations(&self) -> Operations {
        let mut layers = 0.0;
        let mut output = 0.0;
        let passes = if self.recompute { 3.0 } else { 2.0 };
        for (name, shape) in self.config.weights() {
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            if shape.len() != 2 || module == "model.embed_tokens" {
                continue;
            }
            let rows = 2.0 * self.rows(module) as f64;
            let values = (shape[0] * shape[1]) as f64;
            let trained = if self.trained.whole(module) { 1.0 } else { 0.0 };
            if module == "lm_head" {
                output += rows * values * (2.0 + trained);
                continue;
            }
            layers += rows * values * (passes + trained);
            let adapter = self.trained.rank(module) * (shape[0] + shape[1]) as u64;
            layers += rows * adapter as f64 * (passes + 1.0);
        }
        // Half of all pairs of positions: scores and values forward, five products back.
        let pairs = self.tokens() as f64 * self.length as f64 / 2.0;
        let attention = 2.0 * pairs * self.widths().queries as f64 * (2.0 * (passes - 1.0) + 5.0);
        layers += attention * self.config.num_hidden_layers as f64;
        Operations { layers, output }
    }
}

struct Widths {
    hidden: u64,
    inner: u64,
    queries: u64,
    keys: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mixtral-8x7B with 57,000 tokens: the sizes that the published run states.
    #[test]
    fn the_published_run() {
        let config = Config::read(std::path::Path::new("pipelines/models/mixtral-8x7b.json")).unwrap();
        let config = Config { vocab_size: 57_000, ..config };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let subject = Subject {
            config: config.clone(),
            packed: true,
            precision: Precision::Float32,
            trained: Trained::Adapters {
                rank: 64,
                dropout: true,
                target_modules: names(&["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]),
                modules_to_save: names(&["embed_tokens", "lm_head"]),
            },
            sequences: 16,
            length: 2048,
            recompute: true,
        };
        let forecast = subject.forecast(2);
        assert_eq!(forecast.adapter_parameters, 960_495_616);
        assert_eq!(forecast.whole_parameters, 466_944_000);
        // In bfloat16, as published.
        assert_eq!(format!("{:.2}", (2 * forecast.parameters()) as f64 / (1u64 << 30) as f64), "2.66");
        let weights: u64 =
            config.weights().iter().map(|(_, shape)| shape.iter().map(|&size| size as u64).product::<u64>()).sum();
        assert_eq!(weights, 46_907_592_704);
        let packed = 46_440_382_464;
        let dense = weights - packed;
        assert_eq!(forecast.memory.weights, packed / 2 + packed / 16 + 4 * dense);
        assert_eq!(forecast.memory.optimiser, 8 * 1_427_439_616);
    }
}
