//! The whole model: opened from its folder, run forward, differentiated.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use super::attention::{AttentionBlock, Cache, Place, Trace as AttentionTrace};
use super::config::Config;
use super::experts::{Expert, ExpertBlock, Trace as ExpertTrace};
use super::linear::{Linear, Lora, Pass, Storage, Weight};
use super::nf4::Nf4;
use super::ops::{
    self, AttentionShape, Half, IGNORED, Loss, LossFactors, Rope, RouterFactors, RouterLosses, RouterSums, Stream,
};
use super::parameter::{Gradients, Parameter};
use super::precision::{Kept, Precision};
use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// Logits that exist at one time in training and in evaluation by loss: positions are taken in runs of about this
/// many values.
const LOGITS: usize = 1 << 22;

/// A Mixtral on the CPU. Its arithmetic is float32's.
pub struct Mixtral {
    config: Config,
    precision: Precision,
    embedding: Parameter,
    layers: Vec<Layer>,
    norm: Parameter,
    head: Linear,
}

struct Layer {
    attention: AttentionBlock,
    experts: ExpertBlock,
}

/// The state of a sequence that is being continued: keys and values of every layer.
#[derive(Default)]
pub struct KeyValueCache {
    layers: Vec<Cache>,
    length: usize,
}

impl KeyValueCache {
    /// Positions held.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// A block of token sequences of one length, and what the model is to predict at each position.
pub struct Batch {
    /// Sequence by sequence.
    pub ids: Vec<u32>,
    /// The token that follows each position, or [`IGNORED`].
    pub labels: Vec<i64>,
    /// Tokens per sequence.
    pub length: usize,
    /// For every position the first position of its document, counted within its sequence: no position sees what is
    /// before that, and positions are counted from there. `None`: a sequence is one document.
    pub documents: Option<Vec<u32>>,
    /// Tokens of the longest text of the batch, which is what others pad the rest to: NEFTune's noise is scaled by it.
    pub longest: usize,
}

impl Batch {
    /// Sequences of one length, each predicting its own next tokens; the last position predicts nothing.
    pub fn next_tokens(sequences: &[Vec<u32>]) -> Result<Self> {
        let length = sequences.first().map_or(0, Vec::len);
        if length == 0 || sequences.iter().any(|sequence| sequence.len() != length) {
            return Err(Error::invalid("the token blocks of a batch have different lengths"));
        }
        let labels =
            sequences.iter().flat_map(|ids| ids[1..].iter().map(|&id| i64::from(id)).chain([IGNORED])).collect();
        Ok(Self { ids: sequences.concat(), labels, length, documents: None, longest: length })
    }

    fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Positions that predict something.
    pub fn predictions(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORED).count()
    }
}

/// What a training pass differentiates: the sum of these losses, each times its factor.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Of the summed cross-entropy, and of the summed (ln Z)² of the output (PaLM).
    pub predictions: LossFactors,
    /// Of the routers' losses, which are means over all positions of all layers.
    pub router: RouterLosses,
}

impl Objective {
    /// `factor` times the summed cross-entropy, and nothing else.
    pub fn cross_entropy(factor: f32) -> Self {
        Self { predictions: LossFactors { sum: factor, z: 0.0 }, router: RouterLosses::default() }
    }
}

/// The losses of a batch in training, without the factors of their [`Objective`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    pub predictions: Loss,
    pub router: RouterLosses,
}

/// What a layer leaves for the backward pass.
struct LayerTrace {
    x: Kept,
    attention: AttentionTrace,
    middle: Kept,
    experts: ExpertTrace,
}

impl Layer {
    /// x [n, width] → [n, width]
    fn forward(&self, x: Tensor, place: &Place, cache: Option<&mut Cache>) -> Result<(Tensor, LayerTrace)> {
        let (middle, attention) = self.attention.forward(&x, place, cache)?;
        let (y, experts) = self.experts.forward(&middle, place)?;
        let (x, middle) = (place.precision.keep(x)?, place.precision.keep(middle)?);
        Ok((y, LayerTrace { x, attention, middle, experts }))
    }

    /// Turns `dx`, the gradient of the layer's output, into that of its input.
    fn backward(
        &self,
        trace: LayerTrace,
        dx: &Tensor,
        router: &RouterFactors,
        place: &Place,
        gradients: &Gradients,
    ) -> Result<()> {
        self.experts.backward(&trace.middle.restore()?, trace.experts, router, place, gradients, dx)?;
        self.attention.backward(&trace.x.restore()?, trace.attention, place, gradients, dx)
    }
}

impl Mixtral {
    /// Opens a model folder (`config.json` and weights under the names of transformers v4, or stacked as in v5); weights
    /// become float32, those that are stored packed by bitsandbytes stay so. Missing tensors and shapes that do not fit the
    /// configuration are errors.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        Self::open_as(folder, device, |_| Storage::Float32)
    }

    /// The same, with every linear layer held as `storage` says of its name (`model.layers.0.self_attn.q_proj`); what is
    /// not held in float32 is frozen.
    pub fn open_as(folder: &Path, device: &Device, storage: impl Fn(&str) -> Storage) -> Result<Self> {
        if !device.is_cpu() {
            return Err(Error::invalid("the model runs on the CPU only"));
        }
        let config = Config::open(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let check = |name: &str, found: &[usize], shape: &[usize]| {
            if found == shape {
                return Ok(());
            }
            let folder = folder.display();
            Err(Error::invalid(format!("`{name}` of {folder} has the shape {found:?}; config.json says {shape:?}")))
        };
        let load = |name: String, shape: &[usize]| -> Result<Parameter> {
            check(&name, &checkpoint.shape(&name)?, shape)?;
            let value = checkpoint.tensor(&name, device)?.to_dtype(DType::F32)?.contiguous()?;
            checkpoint.release(&name);
            Ok(Parameter::frozen(name, value))
        };
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |name: String, out: usize, input: usize| -> Result<Linear> {
            if let Some(matrix) = checkpoint.packed(&name)? {
                let (rows, columns) = matrix.shape();
                check(&name, &[rows, columns], &[out, input])?;
                return Ok(Linear::new(Weight::Frozen(name, Box::new(Nf4::from(matrix)))));
            }
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let storage = storage(module);
            if storage == Storage::Bfloat16 && checkpoint.spec(&name)?.dtype == Dtype::BF16 {
                check(&name, &checkpoint.shape(&name)?, &[out, input])?;
                let matrix = Half::stored(checkpoint.bytes(&name)?, (out, input));
                checkpoint.release(&name);
                return Ok(Linear::new(Weight::Frozen(name, Box::new(matrix))));
            }
            let parameter = load(name, &[out, input])?;
            Ok(Linear::new(match storage {
                Storage::Float32 => Weight::Dense(parameter),
                Storage::Bfloat16 => Weight::Frozen(parameter.name, Box::new(Half::of(&parameter.value)?)),
                Storage::Nf4 => Weight::Frozen(parameter.name, Box::new(Nf4::quantise(&parameter.value)?)),
            }))
        };
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
                let expert = |e: usize, part: &str| name(&format!("block_sparse_moe.experts.{e}.{part}"));
                Ok(Layer {
                    attention: AttentionBlock {
                        norm: load(name("input_layernorm"), &[width])?,
                        q: linear(name("self_attn.q_proj"), queries, width)?,
                        k: linear(name("self_attn.k_proj"), keys, width)?,
                        v: linear(name("self_attn.v_proj"), keys, width)?,
                        o: linear(name("self_attn.o_proj"), width, queries)?,
                    },
                    experts: ExpertBlock {
                        norm: load(name("post_attention_layernorm"), &[width])?,
                        gate: linear(name("block_sparse_moe.gate"), config.num_local_experts, width)?,
                        experts: (0..config.num_local_experts)
                            .map(|e| {
                                Ok(Expert {
                                    w1: linear(expert(e, "w1"), inner, width)?,
                                    w2: linear(expert(e, "w2"), width, inner)?,
                                    w3: linear(expert(e, "w3"), inner, width)?,
                                })
                            })
                            .collect::<Result<_>>()?,
                        top: config.num_experts_per_tok,
                    },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: load("model.embed_tokens.weight".into(), &[config.vocab_size, width])?,
            layers,
            norm: load("model.norm.weight".into(), &[width])?,
            head: linear("lm_head.weight".into(), config.vocab_size, width)?,
            config,
            precision: Precision::default(),
        })
    }

    /// Sets the type of activations, float32 when a model is opened.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// float32 logits [batch, length, vocabulary] of u32 ids [batch, length]. Every position sees the ones before it,
    /// padding or not.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (sequences, length) = ids.dims2()?;
        if ids.elem_count() == 0 {
            return Err(Error::invalid("there are no tokens to run the model on"));
        }
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        let x = self.hidden(&ids, length, None)?;
        let (logits, _) = self.head.forward(&x, None)?;
        Ok(logits.reshape((sequences, length, self.config.vocab_size))?)
    }

    /// The logits [vocabulary] of what follows `ids`, which follow the tokens in `cache`; they are added to it.
    pub fn next(&self, ids: &[u32], cache: &mut KeyValueCache) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::invalid("there are no tokens to continue"));
        }
        cache.layers.resize_with(self.layers.len(), Cache::default);
        let rope = self.rope(cache.length..cache.length + ids.len());
        let place = self.place(1, ids.len(), cache.length + ids.len(), None, &rope, None);
        let mut x = self.embed(ids)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(x, &place, Some(cache))?.0;
        }
        cache.length += ids.len();
        let last = x.narrow(0, ids.len() - 1, 1)?;
        let last = self.normed(&last)?;
        Ok(self.head.forward(&last, None)?.0.squeeze(0)?)
    }

    /// The summed loss of a batch, outside training.
    pub fn loss(&self, batch: &Batch) -> Result<Loss> {
        let x = self.hidden(&batch.ids, batch.length, batch.documents.as_deref())?;
        let mut loss = Loss::default();
        for run in self.runs(batch.ids.len()) {
            let x = x.narrow(0, run.start, run.len())?;
            let (logits, _) = self.head.forward(&x, None)?;
            loss += ops::cross_entropy(&logits, &batch.labels[run], None)?;
        }
        Ok(loss)
    }

    /// The losses of a batch in training; adds to `gradients` those of the objective. `neftune` is the strength of the
    /// noise on the embeddings (Jain et al. 2023), 0 for none. With `recompute`, layers keep only their inputs and run
    /// forward again on the way back: less memory, more time, the same bits.
    pub fn train(
        &self,
        batch: &Batch,
        objective: Objective,
        pass: Pass,
        neftune: f64,
        recompute: bool,
        gradients: &Gradients,
    ) -> Result<Losses> {
        let (length, count) = (batch.length, batch.ids.len());
        let documents = batch.documents.as_deref();
        let rope = self.rope_of(length, documents);
        let place = self.place(batch.sequences(), length, length, documents, &rope, Some(pass));
        let x = ops::gather_rows(&self.embedding.value, &batch.ids)?;
        if neftune > 0.0 {
            let width = self.config.hidden_size;
            let bound = neftune / ((batch.longest * width) as f64).sqrt();
            let noise = ops::uniform(pass.stream("neftune"), count * width, bound as f32);
            ops::add(&x, &ops::tensor(noise, (count, width))?)?;
        }
        let mut x = self.precision.rounded(x)?;
        let mut traces = Vec::new();
        let mut sums = RouterSums::default();
        for layer in &self.layers {
            let (y, trace) = layer.forward(x, &place, None)?;
            sums.add(trace.experts.routing());
            traces.push(if recompute { Err(trace.x) } else { Ok(trace) });
            x = y;
        }

        // The head, in runs of positions: logits, loss and gradient of a run before the next one.
        let normed = self.normed(&x)?;
        let dnormed = ops::zeros(normed.shape())?;
        let mut loss = Loss::default();
        for run in self.runs(count) {
            let normed = normed.narrow(0, run.start, run.len())?;
            let (logits, _) = self.head.forward(&normed, None)?;
            loss += ops::cross_entropy(&logits, &batch.labels[run.clone()], Some(objective.predictions))?;
            let dnormed = dnormed.narrow(0, run.start, run.len())?;
            self.head.backward((&normed, None), &logits, None, gradients, &dnormed, false)?;
        }
        let dx = ops::zeros(x.shape())?;
        let wanted = self.norm.is_trained();
        let dnorm = ops::rms_norm_backward(&x, &self.norm.value, place.epsilon, &dnormed, &dx, wanted)?;
        if let Some(dnorm) = dnorm {
            gradients.add(&self.norm, &dnorm)?;
        }

        let router = sums.factors(&objective.router);
        for (layer, trace) in self.layers.iter().zip(traces).rev() {
            let trace = match trace {
                Ok(trace) => trace,
                Err(input) => layer.forward(input.restore()?, &place, None)?.1,
            };
            layer.backward(trace, &dx, &router, &place, gradients)?;
        }
        gradients.add_rows(&self.embedding, &batch.ids, &dx)?;
        Ok(Losses { predictions: loss, router: sums.losses() })
    }

    /// The last layer's output after the final norm, [n, width].
    fn hidden(&self, ids: &[u32], length: usize, documents: Option<&[u32]>) -> Result<Tensor> {
        let rope = self.rope_of(length, documents);
        let place = self.place(ids.len() / length, length, length, documents, &rope, None);
        let mut x = self.embed(ids)?;
        for layer in &self.layers {
            x = layer.forward(x, &place, None)?.0;
        }
        self.normed(&x)
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.precision.rounded(ops::gather_rows(&self.embedding.value, ids)?)
    }

    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        self.precision.rounded(ops::rms_norm(x, &self.norm.value, self.config.rms_norm_eps as f32)?)
    }

    fn rope(&self, positions: impl ExactSizeIterator<Item = usize>) -> Rope {
        Rope::new(self.config.rope_theta, self.config.head_dim, positions)
    }

    /// Positions begin at 0 in every document, as transformers numbers them. That changes no score but for its rounding,
    /// which so is that of the document alone, wherever in a block it stands.
    fn rope_of(&self, length: usize, documents: Option<&[u32]>) -> Rope {
        match documents {
            None => self.rope(0..length),
            Some(starts) => self.rope(starts.iter().enumerate().map(|(at, &start)| at % length - start as usize)),
        }
    }

    fn place<'a>(
        &self,
        sequences: usize,
        queries: usize,
        keys: usize,
        documents: Option<&'a [u32]>,
        rope: &'a Rope,
        pass: Option<Pass>,
    ) -> Place<'a> {
        let shape = AttentionShape {
            sequences,
            queries,
            keys,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            width: self.config.head_dim,
            window: self.config.sliding_window,
        };
        Place { shape, documents, rope, epsilon: self.config.rms_norm_eps as f32, pass, precision: self.precision }
    }

    /// The positions in runs whose logits fit the bound.
    fn runs(&self, count: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let step = (LOGITS / self.config.vocab_size).max(64);
        (0..count).step_by(step).map(move |start| start..(start + step).min(count))
    }

    /// Every linear layer with its name (`model.layers.0.self_attn.q_proj`), in a fixed order.
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = Vec::new();
        for layer in &mut self.layers {
            let AttentionBlock { q, k, v, o, .. } = &mut layer.attention;
            all.extend([q, k, v, o]);
            all.push(&mut layer.experts.gate);
            for Expert { w1, w2, w3 } in &mut layer.experts.experts {
                all.extend([w1, w2, w3]);
            }
        }
        all.push(&mut self.head);
        all
    }

    /// Every weight that is held in float32, in a fixed order.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mut all = vec![&self.embedding];
        for layer in &self.layers {
            let AttentionBlock { norm, q, k, v, o } = &layer.attention;
            all.push(norm);
            for linear in [q, k, v, o] {
                linear.visit(&mut |parameter| all.push(parameter));
            }
            let ExpertBlock { norm, gate, experts, .. } = &layer.experts;
            all.push(norm);
            gate.visit(&mut |parameter| all.push(parameter));
            for Expert { w1, w2, w3 } in experts {
                for linear in [w1, w2, w3] {
                    linear.visit(&mut |parameter| all.push(parameter));
                }
            }
        }
        all.push(&self.norm);
        self.head.visit(&mut |parameter| all.push(parameter));
        all
    }

    fn visit_mut(&mut self, each: &mut dyn FnMut(&mut Parameter)) {
        each(&mut self.embedding);
        for layer in &mut self.layers {
            let AttentionBlock { norm, q, k, v, o } = &mut layer.attention;
            each(norm);
            for linear in [q, k, v, o] {
                linear.visit_mut(each);
            }
            let ExpertBlock { norm, gate, experts, .. } = &mut layer.experts;
            each(norm);
            gate.visit_mut(each);
            for Expert { w1, w2, w3 } in experts {
                for linear in [w1, w2, w3] {
                    linear.visit_mut(each);
                }
            }
        }
        each(&mut self.norm);
        self.head.visit_mut(each);
    }

    /// The weights that are trained, in the order of their [`Gradients`].
    pub fn trained(&self) -> Vec<&Parameter> {
        self.parameters().into_iter().filter(|parameter| parameter.is_trained()).collect()
    }

    /// Freezes every weight but those for which `choose` is true of the name.
    pub fn train_only(&mut self, choose: impl Fn(&str) -> bool) {
        let mut next = 0;
        self.visit_mut(&mut |parameter| {
            parameter.index = choose(&parameter.name).then(|| {
                next += 1;
                next - 1
            });
        });
    }

    /// Gives a new adapter to every linear layer for which `choose` is true of the module's name
    /// (`model.layers.0.self_attn.q_proj`): A uniform in ±1/√in (the initialisation of PEFT) as a function of the seed
    /// and the name, B zero. Returns how many there are. The head cannot have one.
    pub fn add_adapters(
        &mut self,
        rank: usize,
        alpha: f64,
        dropout: f64,
        seed: u64,
        choose: impl Fn(&str) -> bool,
    ) -> Result<usize> {
        let mut count = 0;
        for linear in self.linears_mut() {
            let module = linear.weight.module().to_owned();
            if module == "lm_head" || !choose(&module) {
                continue;
            }
            let (out, input) = linear.weight.shape()?;
            let bound = 1.0 / (input as f32).sqrt();
            let a = ops::uniform(Stream::new(seed).named("lora").named(&module), rank * input, bound);
            linear.lora = Some(Lora {
                a: Parameter::frozen(format!("{module}.lora_A.weight"), ops::tensor(a, (rank, input))?),
                b: Parameter::frozen(
                    format!("{module}.lora_B.weight"),
                    ops::tensor(vec![0.0; out * rank], (out, rank))?,
                ),
                scale: (alpha / rank as f64) as f32,
                dropout: dropout as f32,
                stream: Stream::new(seed).named("dropout").named(&module),
            });
            count += 1;
        }
        Ok(count)
    }

    /// Whether a linear layer is held in fewer bits than float32, and therefore frozen.
    pub fn is_packed(&self) -> bool {
        let packed = |linear: &Linear| matches!(linear.weight, Weight::Frozen(..));
        self.layers.iter().any(|Layer { attention, experts }| {
            let AttentionBlock { q, k, v, o, .. } = attention;
            let mut inner = experts.experts.iter().flat_map(|Expert { w1, w2, w3 }| [w1, w2, w3]);
            [q, k, v, o, &experts.gate].into_iter().any(packed) || inner.any(packed)
        })
    }

    /// The names of all linear layers (`model.layers.0.self_attn.q_proj`).
    pub fn linear_modules(&mut self) -> Vec<String> {
        self.linears_mut().into_iter().map(|linear| linear.weight.module().to_owned()).collect()
    }
}

mod adapters;
#[cfg(test)]
pub mod tests;
