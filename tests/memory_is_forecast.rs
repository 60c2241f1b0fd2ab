//! What `cmx plan` says of a training's memory before it runs is what the training takes, to within 15 %.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cmx::corpus::{BlockWriter, Layout, Row};
use cmx::model::ops::{Stream, tensor, uniform};
use serde_json::{Value, json};
use support::Project;

/// A Mixtral of width 256 with four layers of eight experts, 25 million parameters beside embedding and output.
fn write_model(folder: &Path, vocabulary: usize) {
    let config = json!({
        "architectures": ["MixtralForCausalLM"], "vocab_size": vocabulary, "hidden_size": 256,
        "intermediate_size": 896, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "sliding_window": null, "torch_dtype": "float32"
    });
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("config.json"), config.to_string()).expect("a written file");
    let weights = cmx::model::Config::open(folder).expect("a configuration").weights();
    let tensors: BTreeMap<_, _> = weights
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values = if shape.len() == 1 {
                vec![1.0; count]
            } else {
                uniform(Stream::new(0).named(&name), count, 0.035)
            };
            (name, tensor(values, shape).expect("a tensor"))
        })
        .collect();
    cmx::weights::save(folder, &tensors, 1 << 40).expect("a model folder");
}

/// Trains three steps; the forecast and the real peak in bytes.
fn forecast_and_peak(vocabulary: usize, parameters: &str) -> (u64, u64, Value) {
    let project = Project::new().file("datasets.toml", "[noise]\n").file(
        "p.toml",
        &format!(
            "name = \"p\"\n[stage.train]\nmodel = \"model\"\nmix = [\"1:noise\"]\nvalid = [\"noise\"]\n\
             max_steps = 3\ncheckpoint_steps = 2\n{parameters}"
        ),
    );
    write_model(&project.path().join("model"), vocabulary);
    for (split, rows) in [("train", 24), ("dev", 4)] {
        let folder = project.path().join(format!("data/noise/encoded-noise-{split}"));
        fs::create_dir_all(folder.parent().expect("a parent")).expect("a folder");
        let layout = Layout::compact(vocabulary, 256);
        let mut writer = BlockWriter::create(&folder, &layout).expect("a writer");
        for row in 0..rows {
            let stream = Stream::new(1).named(split).numbered(row);
            let ids: Vec<u32> = (0..256).map(|at| (stream.word(at) % vocabulary as u64) as u32).collect();
            writer.push(&Row::full(&ids, &[])).expect("a block");
        }
        writer.finish(&layout).expect("a dataset");
    }
    let plan = project.cmx(&["plan", "p.toml", "--json"]).success().stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let forecast = plan["forecasts"][0].clone();
    project.run();
    let receipt = fs::read_dir(project.path().join("cache/receipts")).expect("receipts").next().expect("one");
    let receipt = fs::read_to_string(receipt.expect("a receipt").path()).expect("a receipt");
    let receipt: Value = serde_json::from_str(&receipt).expect("JSON");
    let trained = &forecast["parameters"];
    let trained = trained["adapter"].as_u64().expect("a number") + trained["whole"].as_u64().expect("a number");
    assert_eq!(receipt["metrics"]["trained_parameters"], trained);
    let peak = receipt["metrics"]["peak_memory"].as_u64().expect("a peak");
    (forecast["memory_total"].as_u64().expect("a total"), peak, forecast)
}

fn check(name: &str, vocabulary: usize, parameters: &str) {
    let (forecast, peak, parts) = forecast_and_peak(vocabulary, parameters);
    let ratio = peak as f64 / forecast as f64;
    eprintln!("{name}: forecast {} MiB, measured {} MiB, {ratio:.3}", forecast >> 20, peak >> 20);
    assert!((0.85..=1.15).contains(&ratio), "{name}: {peak} bytes, {ratio:.3} of the forecast: {parts:#}");
}

#[test]
fn of_all_parameters() {
    check("all", 4_000, "method = \"full\"\nbatch_size = 4\n");
}

#[test]
fn of_adapters_and_a_large_vocabulary() {
    check("adapters", 32_000, "batch_size = 4\n");
}

#[test]
fn of_adapters_on_packed_weights_whose_layers_run_again() {
    check(
        "packed",
        32_000,
        "batch_size = 8\nquantization = \"nf4\"\ngradient_checkpointing = true\nlora = { modules_to_save = [\"lm_head\"] }\n",
    );
}

#[test]
fn of_long_blocks_that_keep_everything() {
    check("activations", 4_000, "batch_size = 12\nmax_grad_norm = 0\nlora = { rank = 16, modules_to_save = [] }\n");
}

#[test]
fn of_bfloat16() {
    let parameters = "batch_size = 12\nprecision = \"bfloat16\"\nlora = { modules_to_save = [\"embed_tokens\"] }\n";
    check("bfloat16", 16_000, parameters);
}
