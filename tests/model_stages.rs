//! `new-model`, `expand` and `merge`, each run as a worker runs it: on a model from nothing, and on the real one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use cmx::error::Result;
use cmx::stages::{Work, kind};
use cmx::tokenizer::{ModelProto, Tokenizer};
use cmx::weights::adapter::{self, Adapter, AdapterConfig};
use cmx::weights::expansion::{EMBEDDING, OUTPUT};
use cmx::weights::{Checkpoint, Normal, bytes_of};
use serde_json::{Map, Value, json};

/// A file or folder of the shared data, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// Where a stage's events go.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Events {
    fn metric(&self, name: &str) -> Value {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut metrics = events.filter(|event| event["event"] == "metric" && event["name"] == name);
        metrics.next_back().unwrap_or_else(|| panic!("no metric {name}"))["value"].clone()
    }
}

/// Runs a kind into `output` with the defaults of its manifest under `parameters`.
fn run(name: &str, output: &Path, parameters: Value) -> Result<Events> {
    let kind = kind(name).unwrap();
    let manifest: toml::Value = toml::from_str(kind.manifest).unwrap();
    let mut all = serde_json::to_value(&manifest["parameters"]).unwrap();
    for (key, value) in parameters.as_object().unwrap() {
        all[key] = value.clone();
    }
    fs::create_dir_all(output).unwrap();
    let events = Events::default();
    let scratch = output.with_extension("scratch");
    let mut work = Work::new(output.to_owned(), scratch, 2, Box::new(events.clone()), Arc::default());
    kind.run(all, &mut work)?;
    Ok(events)
}

fn input(from: &str, path: &Path) -> Value {
    json!({ "from": from, "path": path })
}

/// The error of a stage on one line.
fn refused(name: &str, output: &Path, parameters: Value) -> String {
    let _ = fs::remove_dir_all(output);
    run(name, output, parameters).err().unwrap().one_line()
}

/// The tokenizer at `from` with pieces appended, below all scores of its own.
fn extended(from: &Path, to: &Path, pieces: &[&str]) {
    let mut model = ModelProto::read(from).unwrap();
    for piece in pieces {
        let score = model.minimum_score() - 1.0;
        let mut new = model.pieces.last().unwrap().clone();
        new.text = Some((*piece).to_owned());
        new.score = Some(score);
        model.pieces.push(new);
    }
    model.write(to).unwrap();
}

fn rows(checkpoint: &Checkpoint, name: &str) -> Vec<Vec<f32>> {
    let tensor = checkpoint.tensor(name, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    tensor.to_vec2::<f32>().unwrap()
}

fn mean(rows: &[Vec<f32>], ids: &[usize]) -> Vec<f32> {
    (0..rows[0].len())
        .map(|column| ids.iter().fold(0.0, |sum, &id| sum + rows[id][column]) / ids.len() as f32)
        .collect()
}

const TINY: [(&str, usize); 8] = [
    ("hidden_size", 8),
    ("intermediate_size", 12),
    ("num_hidden_layers", 2),
    ("num_attention_heads", 4),
    ("num_key_value_heads", 2),
    ("num_local_experts", 3),
    ("num_experts_per_tok", 2),
    ("max_position_embeddings", 64),
];

fn new_model(tokenizer: &Path, output: &Path, dtype: &str) -> Events {
    let mut parameters = json!({ "tokenizer": input("@vocab", tokenizer), "torch_dtype": dtype });
    for (name, size) in TINY {
        parameters[name] = size.into();
    }
    run("new-model", output, parameters).unwrap()
}

#[test]
fn a_model_from_nothing_is_a_folder_that_transformers_reads() {
    let Some(tokenizer) = shared("tokenizers/mixtral-8x7b-v0.1.tokenizer.model") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let events = new_model(&tokenizer, &first, "bfloat16");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| new_model(&tokenizer, &second, "bfloat16"));

    let config = fs::read_to_string(first.join("config.json")).unwrap();
    let expected = r#"{
  "architectures": [
    "MixtralForCausalLM"
  ],
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 8,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 64,
  "model_type": "mixtral",
  "num_attention_heads": 4,
  "num_experts_per_tok": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 2,
  "num_local_experts": 3,
  "output_router_logits": false,
  "rms_norm_eps": 1e-05,
  "rope_theta": 1000000.0,
  "router_aux_loss_coef": 0.02,
  "sliding_window": null,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "use_cache": true,
  "vocab_size": 32000
}
"#;
    assert_eq!(config, expected);
    let names: Vec<String> = fs::read_dir(&first)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| fs::read(first.join(name)).unwrap() != fs::read(second.join(name)).unwrap())
        .collect();
    assert!(names.is_empty(), "not the same bytes on one thread: {names:?}");

    let model = Checkpoint::open(&first).unwrap();
    assert_eq!(model.names().len(), 3 + 2 * (2 + 4 + 1 + 9));
    assert_eq!(model.shape("model.layers.1.self_attn.k_proj.weight").unwrap(), [4, 8]);
    assert_eq!(model.shape("model.layers.1.block_sparse_moe.experts.2.w2.weight").unwrap(), [8, 12]);
    let norm = model.tensor("model.norm.weight", &Device::Cpu).unwrap();
    assert_eq!(bytes_of(&norm).unwrap(), [0x80, 0x3f].repeat(8));
    let parameters: usize = model.names().iter().map(|name| model.spec(name).unwrap().elements()).sum();
    assert_eq!(events.metric("parameters"), json!(parameters));
    let embedding = rows(&model, EMBEDDING).concat();
    let deviation = (embedding.iter().map(|v| v * v).sum::<f32>() / embedding.len() as f32).sqrt();
    assert!((deviation - 0.02).abs() < 1e-4, "{deviation}");
    assert_eq!(Tokenizer::open(&first).unwrap().vocab_size(), 32000);
}

#[test]
fn sizes_that_make_no_model_are_refused() {
    let Some(tokenizer) = shared("stories-moe/tokenizer.model") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("hidden_size", json!(0), "`hidden_size` is 0; it must be at least 1"),
        ("hidden_size", json!(20), "it must be an even multiple of `num_attention_heads`, which is 8"),
        ("num_key_value_heads", json!(3), "it must be a multiple of `num_key_value_heads`, which is 3"),
        ("num_experts_per_tok", json!(9), "`num_experts_per_tok` is 9, more than `num_local_experts`, which is 8"),
        ("rms_norm_eps", json!(-1.0), "`rms_norm_eps` is -1; it must be a number of at least 0"),
    ];
    for (name, value, expected) in cases {
        let mut parameters = json!({ "tokenizer": input("t", &tokenizer) });
        parameters[name] = value;
        let error = refused("new-model", &folder.path().join("out"), parameters);
        assert!(error.contains(expected), "{error}");
    }
}

/// On LLaMA's vocabulary and its Chinese extension, whose tokens are known: 中 is 30275, 国 is 30356, ▁ is 29871.
#[test]
fn expanded_rows_are_means_of_the_tokens_that_spell_them() {
    let (Some(old), Some(new)) =
        (shared("tokenizers/llama-32000.model"), shared("tokenizers/ymcui-chinese-llama2-55296.model"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    new_model(&old, &base, "float32");
    let tokenizer = Tokenizer::open(&new).unwrap();
    let china = (32000..55296).find(|&id| tokenizer.piece(id) == Some("中国")).unwrap() as usize;
    let before = Checkpoint::open(&base).unwrap();
    for (recipe, ids) in [("clean", &[30275usize, 30356][..]), ("as-published", &[1, 29871, 30275, 30356])] {
        let output = folder.path().join(recipe);
        let parameters = json!({
            "model": input("@base", &base), "tokenizer": input("@vocab", &new), "recipe": recipe,
        });
        let events = run("expand", &output, parameters).unwrap();
        assert_eq!(events.metric("vocabulary"), json!(55296));
        let after = Checkpoint::open(&output).unwrap();
        for name in [EMBEDDING, OUTPUT] {
            let (before, after) = (rows(&before, name), rows(&after, name));
            assert_eq!(after.len(), 55296);
            assert_eq!(after[..32000], before);
            assert_eq!(after[china], mean(&before, ids));
            assert!(after.iter().all(|row| row.iter().any(|value| *value != 0.0)));
        }
        for name in before.names().into_iter().filter(|name| ![EMBEDDING, OUTPUT].contains(name)) {
            assert_eq!(before.bytes(name).unwrap(), after.bytes(name).unwrap());
        }
        let config = fs::read_to_string(base.join("config.json")).unwrap();
        let expected = config.replace("\"vocab_size\": 32000", "\"vocab_size\": 55296");
        assert_eq!(fs::read_to_string(output.join("config.json")).unwrap(), expected);
        assert_eq!(Tokenizer::open(&output).unwrap().vocab_size(), 55296);
        assert!(output.join("generation_config.json").exists());
    }
}

#[test]
fn both_matrices_are_drawn_before_and_after_and_the_same_on_any_threads() {
    let Some(model) = shared("stories-moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let vocab = folder.path().join("tokenizer.model");
    extended(&model.join("tokenizer.model"), &vocab, &["中", "国", "中国"]);
    let mut parameters = json!({ "model": input("@m", &model), "tokenizer": input("@v", &vocab) });
    let pictures = |name: &str, parameters: &Value| {
        let output = folder.path().join(name);
        run("expand", &output, parameters.clone()).unwrap();
        let file = |name: &str| (name.to_owned(), fs::read(output.join("report").join(name)).unwrap());
        ["embedding.svg", "embedding.png", "output.svg", "output.png"].map(file)
    };
    let drawn = pictures("two", &parameters);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(one.install(|| pictures("one", &parameters)) == drawn);
    assert_ne!(drawn[0].1, drawn[2].1);
    let svg = String::from_utf8(drawn[0].1.clone()).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let text = |tag: &str| {
        let node = document.root_element().children().find(|node| node.has_tag_name(tag)).unwrap();
        node.text().unwrap().to_owned()
    };
    assert_eq!(text("title"), "model.embed_tokens.weight, before and after");
    let wanted =
        "The matrix had 512 rows of 64 numbers, mean |w| 0.239. It has 515 rows, of which 3 new: mean |w| ";
    assert!(text("desc").starts_with(wanted), "{}", text("desc"));
    assert!(document.descendants().filter(|node| node.has_tag_name("image")).count() >= 3);

    // A model folder made of this one does not inherit what was drawn of it.
    parameters = json!({ "model": input("@m", &folder.path().join("two")), "tokenizer": input("@v", &vocab), "plots": false });
    let output = folder.path().join("plain");
    run("expand", &output, parameters).unwrap();
    assert!(!output.join("report").exists());
}

/// The tokens of a dialogue, and what transformers is told of them, go with the model.
#[test]
fn a_model_gets_rows_for_added_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let [base, chat, output] = ["base", "chat", "expanded"].map(|name| folder.path().join(name));
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece/llama.model");
    new_model(&tokenizer, &base, "float32");
    let template = folder.path().join("chat.jinja");
    fs::write(&template, "{{ messages }}").unwrap();
    let tokens = ["<|beginofutterance|>", "<|endofutterance|>"];
    let parameters = json!({
        "tokenizer": input("@base", &base), "tokens": tokens, "chat_template": input("chat.jinja", &template),
    });
    run("add-tokens", &chat, parameters).unwrap();
    for init in ["normal", "mean"] {
        let _ = fs::remove_dir_all(&output);
        let parameters =
            json!({ "model": input("@base", &base), "tokenizer": input("@chat", &chat), "init": init });
        let events = run("expand", &output, parameters).unwrap();
        assert_eq!((events.metric("vocabulary_before"), events.metric("vocabulary")), (json!(2400), json!(2402)));
        let [before, after] = [&base, &output].map(|folder| rows(&Checkpoint::open(folder).unwrap(), EMBEDDING));
        assert_eq!(after[..2400], before);
        let old = Tokenizer::open(&base).unwrap();
        for (row, token) in after[2400..].iter().zip(tokens) {
            // Behind a byte, no token begins with the dummy prefix.
            let ids: Vec<usize> =
                old.encode(&format!("\n{token}")).unwrap()[2..].iter().map(|id| *id as usize).collect();
            assert_eq!(*row == mean(&before, &ids), init == "mean", "{token}");
            assert!(row.iter().any(|value| *value != 0.0));
        }
        for name in ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            assert!(fs::read(output.join(name)).unwrap() == fs::read(chat.join(name)).unwrap(), "{name}");
        }
    }
}

#[test]
fn the_real_model_grows_by_leading_spaces_and_bytes_and_only_one_shard_is_written() {
    let Some(model) = shared("stories-moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let vocab = folder.path().join("tokenizer.model");
    let own = Tokenizer::open(&model).unwrap();
    extended(&model.join("tokenizer.model"), &vocab, &["▁once▁upon", "upon", "中", "▁▁▁"]);
    let output = folder.path().join("out");
    let parameters = json!({ "model": input("models/stories", &model), "tokenizer": input("@vocab", &vocab) });
    let events = run("expand", &output, parameters).unwrap();
    assert_eq!((events.metric("shards_written"), events.metric("shards_shared")), (json!(1), json!(1)));
    let (before, after) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&output).unwrap());
    let before = rows(&before, EMBEDDING);
    let after = rows(&after, EMBEDDING);
    assert_eq!(after.len(), 516);
    // A text begins with the dummy prefix, so that this is what ▁once▁upon is made of.
    let ids = |text: &str| own.encode(text).unwrap().into_iter().map(|id| id as usize).collect::<Vec<_>>();
    assert_eq!(after[512], mean(&before, &ids("once upon")));
    // `upon` stands inside a text: behind a byte, no token begins with ▁.
    let spelled = ids("\nupon");
    assert_eq!(after[513], mean(&before, spelled.strip_prefix(ids("\n").as_slice()).unwrap()));
    assert!(spelled.iter().all(|&id| !own.piece(id as u32).unwrap().contains("▁u")));
    // No token has this character: three bytes.
    let bytes: Vec<usize> = [0xe4, 0xb8, 0xad].iter().map(|byte| byte + 3).collect();
    assert_eq!(after[514], mean(&before, &bytes));
    assert_eq!(after[515], mean(&before, &ids("\n   ")[ids("\n").len()..]));
}

#[test]
fn tokenizers_that_do_not_extend_the_models_own_are_refused() {
    let (Some(model), Some(foreign)) = (shared("stories-moe"), shared("tokenizers/llama-32000.model")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (output, vocab) = (folder.path().join("out"), folder.path().join("tokenizer.model"));
    let expand = |model: &Path, tokenizer: &Path| {
        refused("expand", &output, json!({ "model": input("m", model), "tokenizer": input("t", tokenizer) }))
    };
    let error = expand(&model, &foreign);
    assert!(
        error.contains("the new tokenizer does not extend the model's: token 259 is `▁▁`, and was `"),
        "{error}"
    );

    let mut smaller = ModelProto::read(&model.join("tokenizer.model")).unwrap();
    smaller.pieces.pop();
    smaller.write(&vocab).unwrap();
    let error = expand(&model, &vocab);
    assert_eq!(error, "the new tokenizer has 511 tokens, fewer than the model's own, which has 512");

    // A model whose own tokenizer has another size.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(&model).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, other.join(path.file_name().unwrap())).unwrap();
    }
    fs::remove_file(other.join("tokenizer.model")).unwrap();
    extended(&model.join("tokenizer.model"), &other.join("tokenizer.model"), &["中"]);
    let error = expand(&other, &other);
    assert!(error.contains("has 512 rows, its tokenizer has 513 tokens"), "{error}");
}

/// The real model with another `config.json`.
fn with_config(model: &Path, to: &Path, change: impl Fn(&mut Value)) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::remove_file(to.join("config.json")).unwrap();
    fs::write(to.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_config_of_another_model_is_noticed_before_anything_is_written() {
    let Some(model) = shared("stories-moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (output, lora) = (at("out"), at("lora"));
    adapter(&lora, 4, 512);
    with_config(&model, &at("vocabulary"), |config| config["vocab_size"] = 32000.into());
    with_config(&model, &at("width"), |config| config["hidden_size"] = 128.into());
    with_config(&model, &at("tied"), |config| config["vocab_size"] = Value::Null);
    let tokenizer = input("t", &model);
    for (kind, name, expected) in [
        ("expand", "vocabulary", "vocabulary says vocab_size 32000, its tokenizer has 512 tokens"),
        ("expand", "tied", "config.json of the model has no `vocab_size`"),
        ("merge", "vocabulary", "vocabulary says vocab_size 32000, `model.embed_tokens.weight` has 512 rows"),
        ("export", "vocabulary", "`model.embed_tokens.weight` of "),
        ("export", "width", "has the shape [512, 64]; config.json says [512, 128]"),
    ] {
        let mut parameters = json!({ "model": input("m", &at(name)) });
        match kind {
            "expand" => parameters["tokenizer"] = tokenizer.clone(),
            "merge" => parameters["adapter"] = input("@train", &lora),
            _ => {}
        }
        let error = refused(kind, &output, parameters);
        assert!(error.contains(expected), "{kind}: {error}");
        assert_eq!(fs::read_dir(&output).unwrap().count(), 0, "{kind} wrote something");
    }
}

fn adapter(folder: &Path, rank: usize, vocabulary: usize) {
    let config = AdapterConfig {
        base_model_name_or_path: None,
        r: rank,
        lora_alpha: 2.0 * rank as f64,
        lora_dropout: 0.0,
        target_modules: ["q_proj", "w1", "w2"].map(str::to_owned).to_vec(),
        modules_to_save: vec!["lm_head".to_owned()],
        use_rslora: false,
        rank_pattern: Map::new(),
        alpha_pattern: Map::new(),
    };
    let layer = "base_model.model.model.layers.0";
    let pairs = [("self_attn.q_proj", 64, 64), ("block_sparse_moe.experts.1.w1", 172, 64)];
    let mut shapes = vec![("base_model.model.lm_head.weight".to_owned(), [vocabulary, 64])];
    for (module, out, inputs) in pairs {
        shapes.push((format!("{layer}.{module}.lora_A.weight"), [rank, inputs]));
        shapes.push((format!("{layer}.{module}.lora_B.weight"), [out, rank]));
    }
    let tensors: BTreeMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = Normal { seed: 3, deviation: 0.1 }.values(&name, shape[0] * shape[1]);
            (name, Tensor::from_vec(values, &shape, &Device::Cpu).unwrap())
        })
        .collect();
    fs::create_dir_all(folder).unwrap();
    adapter::save(folder, &config, &tensors).unwrap();
}

#[test]
fn an_adapter_is_merged_into_the_real_model() {
    let Some(model) = shared("stories-moe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (lora, output) = (folder.path().join("lora"), folder.path().join("out"));
    adapter(&lora, 4, 512);
    let parameters = json!({ "model": input("m", &model), "adapter": input("@train", &lora) });
    let events = run("merge", &output, parameters.clone()).unwrap();
    assert_eq!((events.metric("tensors_merged"), events.metric("tensors_replaced")), (json!(2), json!(1)));
    assert_eq!((events.metric("shards_written"), events.metric("shards_shared")), (json!(1), json!(1)));

    let (before, after) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&output).unwrap());
    let lora = Adapter::open(&lora).unwrap();
    let matrix = |name: &str| lora.tensor(name, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(rows(&after, OUTPUT), matrix("base_model.model.lm_head.weight"));
    let module = "model.layers.0.block_sparse_moe.experts.1.w1";
    let a = matrix(&format!("base_model.model.{module}.lora_A.weight"));
    let b = matrix(&format!("base_model.model.{module}.lora_B.weight"));
    let (old, new) = (rows(&before, &format!("{module}.weight")), rows(&after, &format!("{module}.weight")));
    for (i, (old, new)) in old.iter().zip(&new).enumerate() {
        for (j, (old, new)) in old.iter().zip(new).enumerate() {
            let delta: f64 = (0..4).map(|k| f64::from(b[i][k]) * f64::from(a[k][j])).sum();
            assert!((f64::from(*old) + 2.0 * delta - f64::from(*new)).abs() < 1e-6);
        }
    }
    let changed: Vec<&str> = before
        .names()
        .into_iter()
        .filter(|name| before.bytes(name).unwrap() != after.bytes(name).unwrap())
        .collect();
    let query = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(changed, [OUTPUT, &format!("{module}.weight"), query]);
    for file in ["config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"] {
        assert_eq!(fs::read(model.join(file)).unwrap(), fs::read(output.join(file)).unwrap());
    }

    adapter(&folder.path().join("larger"), 4, 600);
    let parameters = json!({ "model": input("m", &model), "adapter": input("a", &folder.path().join("larger")) });
    let error = refused("merge", &output, parameters);
    let expected = "the adapter was trained with a vocabulary of 600, the model has 512 (`lm_head.weight`)";
    assert_eq!(error, expected);
    let left: Vec<_> = fs::read_dir(&output).unwrap().collect();
    assert!(left.is_empty(), "something was written before the check: {left:?}");
}
