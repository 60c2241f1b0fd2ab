//! What the weights room promises, on small models made here and on the real one in `shared/data`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::bf16;
use safetensors::Dtype;
use serde_json::{Map, json};

use super::adapter::{self, Adapter, AdapterConfig};
use super::expansion::{EMBEDDING, Expansion, OUTPUT, Recipe, Row};
use super::merging::{Counts, Merge, Onto};
use super::rewrite::{Companions, Rewritten, Sharing, share_companions};
use super::*;

type Tensors = BTreeMap<String, Tensor>;

/// Reproducible values in [-1, 1).
fn random(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> =
        Normal { seed: 7, deviation: 1.0 }.values(name, count).into_iter().map(|v| v.sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A model of one layer with a vocabulary of 10 and width 6, in four shards: the matrices with a row per token lie
/// in the first two, the experts in the third.
fn model(folder: &Path, dtype: DType) -> Checkpoint {
    let layer = "model.layers.0";
    let shapes: [(String, &[usize]); 7] = [
        (EMBEDDING.to_owned(), &[10, 6]),
        (OUTPUT.to_owned(), &[10, 6]),
        ("model.norm.weight".to_owned(), &[6]),
        (format!("{layer}.self_attn.q_proj.weight"), &[6, 6]),
        (format!("{layer}.self_attn.k_proj.weight"), &[4, 6]),
        (format!("{layer}.block_sparse_moe.experts.0.w1.weight"), &[8, 6]),
        (format!("{layer}.block_sparse_moe.experts.0.w2.weight"), &[6, 8]),
    ];
    let tensors: Tensors =
        shapes.into_iter().map(|(name, shape)| (name.clone(), random(&name, shape, dtype))).collect();
    save(folder, &tensors, 96 * dtype.size_in_bytes() as u64).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("generation_config.json"), "{\"bos_token_id\": 1}").unwrap();
    Checkpoint::open(folder).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let spec = checkpoint.spec(name).unwrap();
    Float::of(spec.dtype).unwrap().widen(checkpoint.bytes(name).unwrap())
}

fn message<T>(result: crate::error::Result<T>) -> String {
    result.err().unwrap().one_line()
}

fn go_on(_: u64) -> crate::error::Result<()> {
    Ok(())
}

#[test]
fn files_equal_those_of_the_safetensors_library() {
    let folder = folder();
    let tensors: Tensors = [
        ("b".to_owned(), random("b", &[3, 2], DType::F32)),
        ("a".to_owned(), random("a", &[5], DType::BF16)),
        ("c".to_owned(), Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap()),
        ("é\"".to_owned(), random("d", &[], DType::F32)),
    ]
    .into();
    save(folder.path(), &tensors, 1 << 30).unwrap();
    let ours = fs::read(folder.path().join("model.safetensors")).unwrap();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let theirs = safetensors::serialize(tensors.iter(), Some(metadata)).unwrap();
    assert_eq!(ours, theirs);
    assert!(!folder.path().join("model.safetensors.index.json").exists());
    let back = Checkpoint::open(folder.path()).unwrap();
    for (name, tensor) in &tensors {
        let read = back.tensor(name, &Device::Cpu).unwrap();
        assert_eq!(read.dims(), tensor.dims());
        assert_eq!(bytes_of(&read).unwrap(), bytes_of(tensor).unwrap());
    }
}

#[test]
fn shards_are_cut_in_name_order_and_indexed() {
    let folder = folder();
    let checkpoint = model(folder.path(), DType::F32);
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    let expected = r#"{
  "metadata": {
    "total_size": 1128
  },
  "weight_map": {
    "lm_head.weight": "model-00001-of-00004.safetensors",
    "model.embed_tokens.weight": "model-00002-of-00004.safetensors",
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": "model-00003-of-00004.safetensors",
    "model.layers.0.block_sparse_moe.experts.0.w2.weight": "model-00003-of-00004.safetensors",
    "model.layers.0.self_attn.k_proj.weight": "model-00004-of-00004.safetensors",
    "model.layers.0.self_attn.q_proj.weight": "model-00004-of-00004.safetensors",
    "model.norm.weight": "model-00004-of-00004.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
    assert_eq!(checkpoint.names().len(), 7);
    assert_eq!(checkpoint.shape(EMBEDDING).unwrap(), [10, 6]);
}

#[test]
fn damaged_folders_are_named() {
    let folder = folder();
    model(folder.path(), DType::F32);
    let shard = folder.path().join("model-00003-of-00004.safetensors");
    let whole = fs::read(&shard).unwrap();

    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    let error = message(Checkpoint::open(folder.path()));
    assert!(error.contains("model-00003-of-00004.safetensors is truncated"), "{error}");

    fs::remove_file(&shard).unwrap();
    let error = message(Checkpoint::open(folder.path()));
    assert!(error.ends_with("model-00003-of-00004.safetensors is missing"), "{error}");

    fs::copy(folder.path().join("model-00001-of-00004.safetensors"), &shard).unwrap();
    let error = message(Checkpoint::open(folder.path()));
    assert!(error.contains("does not hold `model.layers.0.block_sparse_moe.experts.0.w1.weight`"), "{error}");

    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "../model.safetensors"}}"#).unwrap();
    let error = message(Checkpoint::open(folder.path()));
    assert!(error.contains("`../model.safetensors` is not the name of a file in the same folder"), "{error}");

    fs::remove_file(&index).unwrap();
    let error = message(Checkpoint::open(folder.path()));
    assert!(error.contains("holds no weights"), "{error}");
}

#[test]
fn stacked_experts_of_v5_are_presented_one_by_one() {
    let folder = folder();
    let gate_up = random("gate_up", &[2, 8, 6], DType::F32);
    let down = random("down", &[2, 6, 4], DType::F32);
    let tensors: Tensors = [
        ("model.layers.0.mlp.experts.gate_up_proj".to_owned(), gate_up.clone()),
        ("model.layers.0.mlp.experts.down_proj".to_owned(), down.clone()),
        ("model.layers.0.mlp.gate.weight".to_owned(), random("gate", &[2, 6], DType::F32)),
    ]
    .into();
    save(folder.path(), &tensors, 1 << 30).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().len(), 7);
    assert_eq!(checkpoint.shape("model.layers.0.block_sparse_moe.gate.weight").unwrap(), [2, 6]);
    for expert in 0..2 {
        let both = gate_up.get(expert).unwrap();
        let parts = [
            ("w1", both.narrow(0, 0, 4).unwrap()),
            ("w3", both.narrow(0, 4, 4).unwrap()),
            ("w2", down.get(expert).unwrap()),
        ];
        for (name, expected) in parts {
            let name = format!("model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight");
            let tensor = checkpoint.tensor(&name, &Device::Cpu).unwrap();
            assert_eq!(tensor.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap(), "{name}");
        }
    }
    // A rewrite leaves v4 names behind.
    let output = self::folder();
    rewrite::rewrite(&checkpoint, output.path(), Sharing::Linked, &BTreeMap::new(), &mut go_on, |_, _, _| Ok(()))
        .unwrap();
    let shard = Shard::open(&output.path().join("model.safetensors")).unwrap();
    assert_eq!(shard.names().collect::<Vec<_>>(), checkpoint.names());
}

/// One mean, in the plainest code: `step` rounds after each addition.
fn mean(rows: &[Vec<f32>], ids: &[u32], step: impl Fn(f32) -> f32) -> Vec<f32> {
    (0..rows[0].len())
        .map(|column| {
            let mut sum = 0.0;
            for &id in ids {
                sum = step(sum + rows[id as usize][column]);
            }
            sum / ids.len() as f32
        })
        .collect()
}

#[test]
fn new_rows_are_means_and_only_their_shards_are_written() {
    for (dtype, recipe) in [
        (DType::F32, Recipe::Clean),
        (DType::BF16, Recipe::Clean),
        (DType::BF16, Recipe::AsPublished),
        (DType::F32, Recipe::AsPublished),
    ] {
        let (source, output) = (folder(), folder());
        let base = model(source.path(), dtype);
        let rows = [Row::Mean(vec![1, 9, 3, 3, 7]), Row::Zero, Row::Mean(vec![4]), Row::MeanOfAll];
        let normal = Normal { seed: 1, deviation: 0.02 };
        let expansion = Expansion { base: &base, rows: &rows, recipe, normal };
        let done = expansion.write(output.path(), Sharing::Linked, &mut go_on).unwrap();
        let name = |i| format!("model-0000{i}-of-00004.safetensors");
        assert_eq!(done, Rewritten { written: vec![name(1), name(2)], shared: vec![name(3), name(4)] });

        let expanded = Checkpoint::open(output.path()).unwrap();
        let stored = |value: f32| if dtype == DType::BF16 { bf16::from_f32(value).to_f32() } else { value };
        let step = |value: f32| if recipe == Recipe::AsPublished { stored(value) } else { value };
        for matrix in [EMBEDDING, OUTPUT] {
            assert_eq!(expanded.shape(matrix).unwrap(), [14, 6]);
            let old: Vec<Vec<f32>> = values(&base, matrix).chunks(6).map(<[f32]>::to_vec).collect();
            let new: Vec<Vec<f32>> = values(&expanded, matrix).chunks(6).map(<[f32]>::to_vec).collect();
            assert_eq!(new[..10], old);
            let expected: Vec<f32> = mean(&old, &[1, 9, 3, 3, 7], step).into_iter().map(stored).collect();
            assert_eq!(new[10], expected);
            assert_eq!(new[11], [0.0; 6]);
            assert_eq!(new[12], old[4]);
            let all: Vec<u32> = (0..10).collect();
            let expected = mean(&old, &all, |value| value);
            assert!(new[13].iter().zip(expected).all(|(a, b)| (a - b).abs() <= 4e-3), "{:?}", new[13]);
        }
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(output.path().join("model.safetensors.index.json")).unwrap()).unwrap();
        let size = dtype.size_in_bytes() as u64;
        assert_eq!(index["metadata"]["total_size"], json!((282 + 2 * 4 * 6) * size));
    }
}

#[test]
fn drawn_rows_depend_on_seed_and_matrix_only() {
    let source = folder();
    let base = model(source.path(), DType::F32);
    let expand = |rows: &[Row], seed| {
        let output = folder();
        let normal = Normal { seed, deviation: 0.02 };
        let expansion = Expansion { base: &base, rows, recipe: Recipe::Clean, normal };
        expansion.write(output.path(), Sharing::Linked, &mut go_on).unwrap();
        let expanded = Checkpoint::open(output.path()).unwrap();
        [values(&expanded, EMBEDDING)[60..].to_vec(), values(&expanded, OUTPUT)[60..].to_vec()]
    };
    let [embedding, output] = expand(&[Row::Normal, Row::Normal], 1);
    assert_ne!(embedding, output);
    assert!(embedding.iter().all(|value| value.abs() < 0.2 && *value != 0.0));
    assert_eq!(expand(&[Row::Normal], 1)[0], embedding[..6]);
    assert_ne!(expand(&[Row::Normal], 2)[0], embedding[..6]);
}

#[test]
fn files_of_the_store_are_linked_and_those_of_users_are_not() {
    let source = folder();
    let base = model(source.path(), DType::F32);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let shard = "model-00003-of-00004.safetensors";
    let rows = [Row::Zero];
    let expansion =
        Expansion { base: &base, rows: &rows, recipe: Recipe::Clean, normal: Normal { seed: 1, deviation: 0.0 } };
    for sharing in [Sharing::of("@base"), Sharing::of("models/mine")] {
        let output = folder();
        expansion.write(output.path(), sharing, &mut go_on).unwrap();
        share_companions(source.path(), output.path(), sharing, Companions::ExceptConfigAndTokenizer).unwrap();
        let (from, to) = (source.path().join(shard), output.path().join(shard));
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        if sharing == Sharing::Copied {
            assert_ne!(inode(from), inode(to));
        }
        assert!(output.path().join("generation_config.json").exists());
        assert!(!output.path().join("config.json").exists());
    }
}

fn config(r: usize, alpha: f64) -> AdapterConfig {
    AdapterConfig {
        base_model_name_or_path: Some("expand".to_owned()),
        r,
        lora_alpha: alpha,
        lora_dropout: 0.05,
        target_modules: vec!["q_proj".to_owned(), "w1".to_owned()],
        modules_to_save: vec!["embed_tokens".to_owned(), "lm_head".to_owned()],
        use_rslora: false,
        rank_pattern: Map::new(),
        alpha_pattern: Map::new(),
    }
}

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";
const W1: &str = "base_model.model.model.layers.0.block_sparse_moe.experts.0.w1";

fn lora(dtype: DType) -> Tensors {
    let shapes: [(String, &[usize]); 6] = [
        (format!("{Q}.lora_A.weight"), &[3, 6]),
        (format!("{Q}.lora_B.weight"), &[6, 3]),
        (format!("{W1}.lora_A.weight"), &[3, 6]),
        (format!("{W1}.lora_B.weight"), &[8, 3]),
        ("base_model.model.model.embed_tokens.weight".to_owned(), &[10, 6]),
        ("base_model.model.lm_head.weight".to_owned(), &[10, 6]),
    ];
    shapes.into_iter().map(|(name, shape)| (name.clone(), random(&format!("new {name}"), shape, dtype))).collect()
}

fn saved(config: &AdapterConfig, tensors: &Tensors) -> (tempfile::TempDir, Adapter) {
    let folder = folder();
    adapter::save(folder.path(), config, tensors).unwrap();
    let adapter = Adapter::open(folder.path()).unwrap();
    (folder, adapter)
}

#[test]
fn an_adapter_is_written_as_peft_writes_it_and_comes_back() {
    let mut written = config(64, 128.0);
    written.alpha_pattern.insert("w1".to_owned(), json!(16));
    let tensors = lora(DType::F32);
    let (folder, adapter) = saved(&written, &tensors);
    assert_eq!(adapter.config, written);
    assert_eq!(adapter.names(), tensors.keys().collect::<Vec<_>>());
    assert_eq!(adapter.shape(&format!("{Q}.lora_B.weight")).unwrap(), [6, 3]);
    let text = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let expected = r#"{
  "alpha_pattern": {
    "w1": 16
  },
  "auto_mapping": null,
  "base_model_name_or_path": "expand",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 128,
  "lora_dropout": 0.05,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": [
    "embed_tokens",
    "lm_head"
  ],
  "peft_type": "LORA",
  "r": 64,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "q_proj",
    "w1"
  ],
  "task_type": "CAUSAL_LM",
  "use_rslora": false
}"#;
    assert_eq!(text, expected);
}

#[test]
fn adapters_of_other_kinds_are_refused() {
    let base = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0});
    let cases = [
        ("peft_type", json!("IA3"), "`peft_type` is IA3; only LORA can be used here"),
        ("peft_type", json!(null), "`peft_type` is missing"),
        ("use_dora", json!(true), "`use_dora` is true; only false can be used here"),
        ("bias", json!("all"), "`bias` is \"all\"; only \"none\" can be used here"),
        ("r", json!(0), "`r` is 0, not a rank of at least 1"),
        ("lora_alpha", json!("x"), "`lora_alpha` is \"x\", not a number of at least 0"),
        ("target_modules", json!([1]), "`target_modules` must be a list of strings"),
    ];
    let folder = folder();
    let path = folder.path().join("adapter_config.json");
    fs::write(&path, base.to_string()).unwrap();
    AdapterConfig::read(&path).unwrap();
    for (name, value, expected) in cases {
        let mut config = base.clone();
        config[name] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = message(AdapterConfig::read(&path));
        assert!(error.contains("adapter_config.json: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn scales_follow_patterns_and_rslora() {
    let mut config = config(64, 128.0);
    assert_eq!(config.scale("model.layers.0.self_attn.q_proj", 64).unwrap(), 2.0);
    config.alpha_pattern.insert("q_proj".to_owned(), json!(32));
    config.rank_pattern.insert("layers.1.self_attn.q_proj".to_owned(), json!(8));
    assert_eq!(config.scale("model.layers.0.self_attn.q_proj", 64).unwrap(), 0.5);
    assert_eq!(config.scale("model.layers.0.self_attn.xq_proj", 64).unwrap(), 2.0);
    // PEFT looks for one pattern, among the ranks first, and takes both numbers under it.
    assert_eq!(config.scale("model.layers.1.self_attn.q_proj", 8).unwrap(), 16.0);
    config.use_rslora = true;
    assert_eq!(config.scale("model.layers.0.self_attn.k_proj", 64).unwrap(), 16.0);
}

fn merged(base: &Checkpoint, adapter: &Adapter) -> (tempfile::TempDir, Checkpoint) {
    let output = folder();
    Merge::new(base, adapter, Onto::Original).unwrap().write(output.path(), Sharing::Linked, &mut go_on).unwrap();
    let checkpoint = Checkpoint::open(output.path()).unwrap();
    (output, checkpoint)
}

#[test]
fn merging_adds_the_scaled_product_and_replaces_whole_modules() {
    for (dtype, adapter_dtype) in
        [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32), (DType::F16, DType::F16)]
    {
        let source = folder();
        let base = model(source.path(), dtype);
        let tensors = lora(adapter_dtype);
        let (_adapter_folder, adapter) = saved(&config(3, 6.0), &tensors);
        assert_eq!(
            Merge::new(&base, &adapter, Onto::Original).unwrap().counts(),
            Counts { added: 2, replaced: 2, dequantised: 0 }
        );
        let (_output, merged) = merged(&base, &adapter);
        assert_eq!(merged.names(), base.names());

        let (to, between) = (Float::of(dtype.into()).unwrap(), Float::of(adapter_dtype.into()).unwrap());
        for name in base.names() {
            let old = values(&base, name);
            let columns = base.shape(name).unwrap().last().copied().unwrap();
            let get = |name: String| {
                let tensor = tensors.get(&name)?.to_dtype(DType::F32).unwrap();
                Some(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            };
            let module = name.strip_suffix(".weight").unwrap();
            let expected: Vec<f32> = if let Some(new) = get(format!("base_model.model.{name}")) {
                new.into_iter().map(|value| to.round(value)).collect()
            } else if let Some(a) = get(format!("base_model.model.{module}.lora_A.weight")) {
                let b = get(format!("base_model.model.{module}.lora_B.weight")).unwrap();
                let delta = |i: usize| {
                    let (row, column) = (i / columns, i % columns);
                    let product: f64 =
                        (0..3).map(|k| f64::from(b[row * 3 + k]) * f64::from(a[k * columns + column])).sum();
                    between.round((product * 2.0) as f32)
                };
                old.iter().enumerate().map(|(i, w)| to.round(w + delta(i))).collect()
            } else {
                old.clone()
            };
            // The product's last bit may differ from float64's, and with it, rarely, a rounding.
            let unit = if to == Float::F32 && between == Float::F32 { 1e-6 } else { 2e-2 };
            let got = values(&merged, name);
            let off = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= unit), "{name}");
            assert!(to == Float::F32 || off * 20 <= got.len(), "{name}: {off} of {} differ", got.len());
        }
    }
}

#[test]
fn a_merge_into_dequantised_weights_starts_from_what_packing_leaves() {
    for dtype in [DType::F32, DType::BF16] {
        let (source, packed, output, again) = (folder(), folder(), folder(), folder());
        let base = model(source.path(), dtype);
        let (_adapter_folder, adapter) = saved(&config(3, 6.0), &lora(DType::F32));
        let merge = Merge::new(&base, &adapter, Onto::Dequantised).unwrap();
        assert_eq!(merge.counts(), Counts { added: 2, replaced: 2, dequantised: 2 });
        merge.write(output.path(), Sharing::Linked, &mut go_on).unwrap();
        let merged = Checkpoint::open(output.path()).unwrap();

        // What is left when nothing is added, from the rooms that pack and merge.
        let float = Float::of(dtype.into()).unwrap();
        let rounded = |name: &str| -> Vec<u8> {
            let spec = base.spec(name).unwrap();
            let shape = (spec.shape[0], spec.shape[1]);
            let matrix =
                nf4::Matrix::pack_stored(shape, float, nf4::Packing::DEFAULT, base.bytes(name).unwrap()).unwrap();
            float.narrow(&matrix.unpack_all())
        };
        let unpacked: Tensors = base
            .names()
            .into_iter()
            .map(|name| {
                let tensor = base.tensor(name, &Device::Cpu).unwrap();
                if !quantisation::is_packed(name, base.spec(name).unwrap()) {
                    return (name.to_owned(), tensor);
                }
                (
                    name.to_owned(),
                    Tensor::from_raw_buffer(&rounded(name), dtype, tensor.dims(), &Device::Cpu).unwrap(),
                )
            })
            .collect();
        let plain = folder();
        save(plain.path(), &unpacked, 1 << 30).unwrap();
        let plain = Checkpoint::open(plain.path()).unwrap();
        let (_plain_output, expected) = self::merged(&plain, &adapter);
        assert_eq!(merged.names(), expected.names());
        for name in expected.names() {
            assert_eq!(merged.bytes(name).unwrap(), expected.bytes(name).unwrap(), "{name}");
            let changed = merged.bytes(name).unwrap() != base.bytes(name).unwrap();
            assert_eq!(changed, !name.contains("norm"), "{name}");
        }

        // The same from a folder that is packed already; its own weights it does not have any more.
        let quantisation = quantisation::Quantisation::new(&base, nf4::Packing::DEFAULT).unwrap();
        quantisation.write(packed.path(), &mut go_on).unwrap();
        let packed = Checkpoint::open(packed.path()).unwrap();
        let error = Merge::new(&packed, &adapter, Onto::Original).err().unwrap();
        assert!(error.one_line().ends_with("is packed to 4 bits"), "{error:?}");
        assert!(error.advice().unwrap().contains("base = \"dequantised\""));
        let merge = Merge::new(&packed, &adapter, Onto::Dequantised).unwrap();
        let done = merge.write(again.path(), Sharing::Linked, &mut go_on).unwrap();
        assert_eq!(done, Rewritten { written: vec!["model.safetensors".to_owned()], shared: vec![] });
        let again = Checkpoint::open(again.path()).unwrap();
        assert_eq!(again.names(), merged.names());
        for name in merged.names() {
            assert_eq!(again.spec(name).unwrap(), merged.spec(name).unwrap());
            assert_eq!(again.bytes(name).unwrap(), merged.bytes(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn the_parts_of_a_packed_matrix_stay_in_one_file() {
    let parts = ["a.weight", "a.weight.absmax", "a.weight.quant_map", "a.weights", "b.weight", "b.weight.absmax"];
    let specs = parts.iter().map(|name| ((*name).to_owned(), Spec::new(Dtype::U8, [40]))).collect();
    let files = Layout::new(specs, 100).files;
    let names: Vec<Vec<&str>> =
        files.iter().map(|(_, tensors)| tensors.keys().map(String::as_str).collect()).collect();
    assert_eq!(names, [&parts[..3], &parts[3..4], &parts[4..]]);
}

#[test]
fn tensors_may_come_in_any_order_and_each_once() {
    let specs: BTreeMap<String, Spec> = [("a", Dtype::U8, 3), ("b", Dtype::F32, 2), ("c", Dtype::U8, 5)]
        .into_iter()
        .map(|(name, dtype, count)| (name.to_owned(), Spec::new(dtype, [count])))
        .collect();
    let folder = folder();
    let write = |order: &[&str]| {
        let path = folder.path().join(order.concat());
        let mut writer = ShardWriter::create(&path, &specs).unwrap();
        for name in order {
            writer.begin(name).unwrap();
            let bytes = vec![name.as_bytes()[0]; specs[*name].bytes()];
            writer.write(&bytes[..1]).unwrap();
            writer.write(&bytes[1..]).unwrap();
        }
        writer.finish().map(|()| fs::read(path).unwrap())
    };
    let ordered = write(&["b", "a", "c"]).unwrap();
    assert_eq!(write(&["c", "b", "a"]).unwrap(), ordered);
    assert_eq!(write(&["a", "c", "b"]).unwrap(), ordered);
    assert!(message(write(&["a", "b"])).ends_with("`c` is missing"));

    let mut writer = ShardWriter::create(&folder.path().join("misused"), &specs).unwrap();
    writer.begin("a").unwrap();
    assert!(message(writer.begin("b")).ends_with("a tensor lacks 3 bytes"));
    assert!(message(writer.write(&[0; 4])).ends_with("a tensor has more bytes than its shape"));
    writer.write(&[0; 3]).unwrap();
    assert!(message(writer.begin("a")).ends_with("`a` is not in its header, or came twice"));
    assert!(message(writer.begin("d")).ends_with("`d` is not in its header, or came twice"));
}

#[test]
fn merging_cuts_large_matrices_into_blocks_without_a_seam() {
    let source = folder();
    let tensors: Tensors = [("w.weight".to_owned(), random("w", &[3001, 2003], DType::F32))].into();
    save(source.path(), &tensors, 1 << 40).unwrap();
    let base = Checkpoint::open(source.path()).unwrap();
    let pair: Tensors = [
        ("base_model.model.w.lora_A.weight".to_owned(), random("a", &[8, 2003], DType::F32)),
        ("base_model.model.w.lora_B.weight".to_owned(), random("b", &[3001, 8], DType::F32)),
    ]
    .into();
    let (_folder, adapter) = saved(&config(8, 8.0), &pair);
    let (_output, merged) = merged(&base, &adapter);
    let product =
        pair["base_model.model.w.lora_B.weight"].matmul(&pair["base_model.model.w.lora_A.weight"]).unwrap();
    let whole = (&tensors["w.weight"] + product).unwrap();
    assert_eq!(bytes_of(&whole).unwrap(), merged.bytes("w.weight").unwrap());
}

#[test]
fn raw_names_of_a_training_state_are_understood() {
    let source = folder();
    let base = model(source.path(), DType::F32);
    let raw: Tensors = lora(DType::F32)
        .into_iter()
        .map(|(name, tensor)| {
            let name = match name.contains(".lora_") {
                true => name.replace(".weight", ".default.weight"),
                false => name.replace(".weight", ".modules_to_save.default.weight"),
            };
            (name, tensor)
        })
        .collect();
    let (_raw_folder, raw) = saved(&config(3, 6.0), &raw);
    let (_plain_folder, plain) = saved(&config(3, 6.0), &lora(DType::F32));
    assert_eq!(raw.names(), plain.names());
    let ((_a, a), (_b, b)) = (merged(&base, &raw), merged(&base, &plain));
    assert!(a.names().into_iter().all(|name| a.bytes(name).unwrap() == b.bytes(name).unwrap()));
}

#[test]
fn adapters_that_do_not_fit_are_refused_before_anything_is_written() {
    let source = folder();
    let base = model(source.path(), DType::F32);
    let refused = |change: &dyn Fn(&mut Tensors), expected: &str| {
        let mut tensors = lora(DType::F32);
        change(&mut tensors);
        let (_folder, adapter) = saved(&config(3, 6.0), &tensors);
        let error = message(Merge::new(&base, &adapter, Onto::Original));
        assert!(error.contains(expected), "{error}");
    };
    let put = |name: &str, shape: &[usize]| {
        let (name, tensor) = (name.to_owned(), random("x", shape, DType::F32));
        move |tensors: &mut Tensors| drop(tensors.insert(name.clone(), tensor.clone()))
    };
    refused(
        &put("base_model.model.lm_head.weight", &[12, 6]),
        "the adapter was trained with a vocabulary of 12, the model has 10 (`lm_head.weight`)",
    );
    refused(
        &put("base_model.model.lm_head.weight", &[10, 7]),
        "the adapter's `lm_head.weight` is [10, 7], the model's is [10, 6]",
    );
    refused(&put(&format!("{Q}.lora_A.weight"), &[3, 7]), "does not fit `model.layers.0.self_attn.q_proj.weight`");
    refused(&put(&format!("{Q}.lora_C.weight"), &[3, 7]), "q_proj.lora_C.weight`, for which");
    refused(&put("base_model.model.model.layers.9.mlp.up.weight", &[3]), "for which");
    refused(&put(&format!("{Q}.weight"), &[6, 6]), "changes `model.layers.0.self_attn.q_proj.weight` twice");
    refused(&|t| drop(t.remove(&format!("{Q}.lora_B.weight"))), "has no tensor `");
    refused(&|t| drop(t.remove(&format!("{Q}.lora_A.weight"))), "has no tensor `");
    refused(&|t| t.clear(), "has no tensors");
    refused(
        &|t| {
            t.insert(format!("{Q}.lora_A.weight"), random("x", &[2, 6], DType::F32));
            t.insert(format!("{Q}.lora_B.weight"), random("x", &[6, 2], DType::F32));
        },
        "adapter_config.json says rank 3",
    );
}

#[test]
fn quantised_weights_are_not_merged_into() {
    let source = folder();
    let tensors: Tensors =
        [("w.weight".to_owned(), Tensor::zeros((8, 1), DType::U8, &Device::Cpu).unwrap())].into();
    save(source.path(), &tensors, 1 << 30).unwrap();
    let base = Checkpoint::open(source.path()).unwrap();
    let pair: Tensors = [
        ("base_model.model.w.lora_A.weight".to_owned(), random("a", &[3, 1], DType::F32)),
        ("base_model.model.w.lora_B.weight".to_owned(), random("b", &[8, 3], DType::F32)),
    ]
    .into();
    let (_folder, adapter) = saved(&config(3, 6.0), &pair);
    let error = message(Merge::new(&base, &adapter, Onto::Original));
    assert!(error.contains("`w.weight` is stored as U8"), "{error}");
}

#[test]
fn the_real_model_opens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/stories-moe");
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let checkpoint = Checkpoint::open(&folder).unwrap();
    // 3 + 5 layers of 2 norms, 4 projections, a router and 4 experts of 3.
    assert_eq!(checkpoint.names().len(), 3 + 5 * (2 + 4 + 1 + 12));
    assert_eq!(checkpoint.spec(EMBEDDING).unwrap(), &Spec::new(Dtype::F32, [512, 64]));
    assert_eq!(checkpoint.shape("model.layers.4.block_sparse_moe.experts.3.w2.weight").unwrap(), [64, 172]);
    let name = "model.layers.0.self_attn.q_proj.weigth";
    let error = checkpoint.tensor(name, &Device::Cpu).err().unwrap();
    assert_eq!(error.advice(), Some("there is `model.layers.0.self_attn.q_proj.weight`"));
}
