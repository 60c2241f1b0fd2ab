//! Training speed: tokens per second of whole steps (forward, backward, clipping, AdamW); `training.py` is the peer.
//!
//! `cargo bench --bench training [-- SHAPE [METHOD]]`; prints the median of five steps after two, and the peak memory.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{Device, Tensor};
use cmx::model::ops::{Stream, tensor, uniform};
use cmx::model::{Batch, Gradients, Mixtral, Objective, Pass, Precision, Storage};
use cmx::training::{Adam, AdamW, clipping, global_norm};

struct Shape {
    name: &'static str,
    width: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    experts: usize,
    vocabulary: usize,
    sequences: usize,
    length: usize,
    rank: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "quickstart",
        width: 128,
        inner: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        experts: 4,
        vocabulary: 4000,
        sequences: 8,
        length: 128,
        rank: 16,
    },
    Shape {
        name: "small",
        width: 256,
        inner: 896,
        layers: 4,
        heads: 8,
        kv_heads: 2,
        experts: 8,
        vocabulary: 4000,
        sequences: 4,
        length: 256,
        rank: 64,
    },
    Shape {
        name: "small-32k",
        width: 256,
        inner: 896,
        layers: 4,
        heads: 8,
        kv_heads: 2,
        experts: 8,
        vocabulary: 32000,
        sequences: 4,
        length: 256,
        rank: 64,
    },
];

/// What is measured: all parameters, or adapters beside frozen weights.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Full,
    Lora,
    LoraBf16,
    LoraNf4,
}

const METHODS: [(&str, Method); 4] = [
    ("full", Method::Full),
    ("lora", Method::Lora),
    ("lora-bf16", Method::LoraBf16),
    ("lora-nf4", Method::LoraNf4),
];

fn main() -> cmx::error::Result<()> {
    cmx::training::keep_freed_memory();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [shape, method] = &wanted[..] {
        let shape = SHAPES.iter().find(|known| known.name == shape).expect("no shape of that name");
        let (_, method) = METHODS.iter().find(|(name, _)| name == method).expect("no method of that name");
        return measure(shape, *method);
    }
    // A process for each, so that the peak of its memory is its own.
    let program = std::env::current_exe().expect("this program has a path");
    for shape in SHAPES.iter().filter(|shape| wanted.first().is_none_or(|name| name == shape.name)) {
        for (method, _) in METHODS {
            let run = std::process::Command::new(&program).args([shape.name, method]).status();
            assert!(run.expect("this program can be started").success());
        }
    }
    Ok(())
}

fn measure(shape: &Shape, method: Method) -> cmx::error::Result<()> {
    let seconds = median_step(shape, method)?;
    let tokens = (shape.sequences * shape.length) as f64;
    let memory = cmx::training::peak_memory().unwrap_or_default() as f64 / 1e6;
    let name = METHODS.iter().find(|(_, known)| *known == method).map_or("", |(name, _)| name);
    println!("{:12} {name:9} {:7.0} tokens/s {:7.0} MB", shape.name, tokens / seconds, memory);
    Ok(())
}

fn median_step(shape: &Shape, method: Method) -> cmx::error::Result<f64> {
    let folder = std::env::temp_dir().join(format!("cmx-bench-{}-{}", shape.name, std::process::id()));
    let storage = |module: &str| match method {
        _ if module == "lm_head" => Storage::Float32,
        Method::Full | Method::Lora => Storage::Float32,
        Method::LoraBf16 => Storage::Bfloat16,
        Method::LoraNf4 => Storage::Nf4,
    };
    let model = write_model(&folder, shape).and_then(|()| Mixtral::open_as(&folder, &Device::Cpu, storage));
    let _ = std::fs::remove_dir_all(&folder);
    let mut model = model?;
    if method == Method::LoraBf16 {
        model.set_precision(Precision::Bfloat16);
    }
    if method == Method::Full {
        model.train_only(|_| true);
    } else {
        model.add_adapters(shape.rank, 2.0 * shape.rank as f64, 0.05, 1, |module| !module.ends_with("gate"))?;
        model
            .train_only(|name| name.contains("lora_") || name.contains("embed_tokens") || name.contains("lm_head"));
    }
    let parameters = model.trained();
    let mut gradients = Gradients::of(&parameters)?;
    let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimiser = AdamW::new(adam, &parameters);
    let mut times = Vec::new();
    for step in 0..7u64 {
        let blocks: Vec<Vec<u32>> = (0..shape.sequences)
            .map(|row| {
                let stream = Stream::new(step).numbered(row as u64);
                (0..shape.length as u64).map(|i| (stream.word(i) % shape.vocabulary as u64) as u32).collect()
            })
            .collect();
        let batch = Batch::next_tokens(&blocks)?;
        let started = Instant::now();
        gradients.clear();
        let scale = 1.0 / batch.predictions() as f32;
        model.train(&batch, Objective::cross_entropy(scale), Pass::new(1, step), 0.0, false, &gradients)?;
        let norm = global_norm(&mut gradients)?;
        optimiser.step(&parameters, &mut gradients, clipping(norm, 1.0), |_| 1e-4, step)?;
        times.push(started.elapsed().as_secs_f64());
    }
    let mut timed = times[2..].to_vec();
    timed.sort_by(f64::total_cmp);
    Ok(timed[timed.len() / 2])
}

fn write_model(folder: &std::path::Path, shape: &Shape) -> cmx::error::Result<()> {
    use cmx::error::Context;
    let (width, inner) = (shape.width, shape.inner);
    let keys = width / shape.heads * shape.kv_heads;
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| -> cmx::error::Result<()> {
        let count = shape.iter().product();
        let values =
            if shape.len() == 1 { vec![1.0; count] } else { uniform(Stream::new(0).named(&name), count, 0.035) };
        tensors.insert(name, tensor(values, shape)?);
        Ok(())
    };
    add("model.embed_tokens.weight".into(), &[shape.vocabulary, width])?;
    add("lm_head.weight".into(), &[shape.vocabulary, width])?;
    add("model.norm.weight".into(), &[width])?;
    for layer in 0..shape.layers {
        let mut part = |part: &str, shape: &[usize]| add(format!("model.layers.{layer}.{part}.weight"), shape);
        part("input_layernorm", &[width])?;
        part("post_attention_layernorm", &[width])?;
        part("self_attn.q_proj", &[width, width])?;
        part("self_attn.k_proj", &[keys, width])?;
        part("self_attn.v_proj", &[keys, width])?;
        part("self_attn.o_proj", &[width, width])?;
        part("block_sparse_moe.gate", &[shape.experts, width])?;
        for expert in 0..shape.experts {
            part(&format!("block_sparse_moe.experts.{expert}.w1"), &[inner, width])?;
            part(&format!("block_sparse_moe.experts.{expert}.w2"), &[width, inner])?;
            part(&format!("block_sparse_moe.experts.{expert}.w3"), &[inner, width])?;
        }
    }
    let config = serde_json::json!({
        "architectures": ["MixtralForCausalLM"], "vocab_size": shape.vocabulary, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "num_local_experts": shape.experts, "num_experts_per_tok": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": null,
    });
    std::fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(folder.join("config.json"), config.to_string()).context(|| "cannot write".to_owned())?;
    cmx::weights::save(folder, &tensors, 1 << 40)
}
