//! The model against the numbers of transformers, against finite differences, and against itself.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::model::ops::{View, modify, tensor};
use crate::weights::adapter::{self, Adapter, AdapterConfig, PREFIX};

/// What `tests/golden/mixtral.py` printed.
fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/golden/mixtral.json")).unwrap()
}

/// The formula of `tests/golden/mixtral.py`.
pub fn formula(count: usize, seed: u64) -> Vec<f32> {
    let number = |i: usize| {
        let word = ((i as u64 + 1) * 2_654_435_761 + seed * 40_503) as u32;
        let word = (word ^ (word >> 15)).wrapping_mul(2_246_822_519);
        (word >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(number).collect()
}

/// The names and shapes of a Mixtral's weights, in name order.
fn shapes(config: &serde_json::Value) -> Vec<(String, Vec<usize>)> {
    let size = |name: &str| config[name].as_u64().unwrap() as usize;
    let (vocabulary, width, inner) = (size("vocab_size"), size("hidden_size"), size("intermediate_size"));
    let keys = width / size("num_attention_heads") * size("num_key_value_heads");
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, width]),
        ("lm_head.weight".to_owned(), vec![vocabulary, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ];
    for layer in 0..size("num_hidden_layers") {
        let mut add = |part: &str, shape: &[usize]| {
            all.push((format!("model.layers.{layer}.{part}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[width]);
        add("post_attention_layernorm", &[width]);
        add("self_attn.q_proj", &[width, width]);
        add("self_attn.k_proj", &[keys, width]);
        add("self_attn.v_proj", &[keys, width]);
        add("self_attn.o_proj", &[width, width]);
        add("block_sparse_moe.gate", &[size("num_local_experts"), width]);
        for expert in 0..size("num_local_experts") {
            let part = |name: &str| format!("block_sparse_moe.experts.{expert}.{name}");
            add(&part("w1"), &[inner, width]);
            add(&part("w2"), &[width, inner]);
            add(&part("w3"), &[inner, width]);
        }
    }
    all.sort();
    all
}

/// Writes a model folder with the formula's weights.
pub fn write_model(folder: &Path, config: &serde_json::Value) {
    let mut config = config.clone();
    config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    config["torch_dtype"] = "float32".into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = shapes(&config)
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let scale = |v: f32| if name.contains("norm") { 1.0 + v / 4.0 } else { v / 2.0 };
            let values = formula(shape.iter().product(), seed as u64).into_iter().map(scale).collect();
            (name.clone(), tensor(values, shape).unwrap())
        })
        .collect();
    crate::weights::save(folder, &weights, 1 << 30).unwrap();
}

/// The configuration of the golden model.
pub fn tiny_config() -> serde_json::Value {
    golden()["config"].clone()
}

fn tiny(sliding_window: &serde_json::Value) -> Mixtral {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    config["sliding_window"] = sliding_window.clone();
    write_model(folder.path(), &config);
    Mixtral::open(folder.path(), &Device::Cpu).unwrap()
}

fn plain() -> Mixtral {
    tiny(&serde_json::Value::Null)
}

fn batch() -> Batch {
    let sequences = [vec![1, 5, 9, 13, 2, 7, 7, 39, 20], vec![1, 30, 21, 8, 8, 0, 17, 4, 11]];
    Batch::next_tokens(&sequences).unwrap()
}

const PASS: fn() -> Pass = || Pass::new(7, 3);

/// Every loss there is.
const OBJECTIVE: Objective =
    Objective { predictions: LossFactors { sum: 0.25, z: 0.125 }, router: RouterLosses { balance: 2.0, z: 0.5 } };

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Loss, and the gradients of all trained weights as bytes would compare.
fn run(model: &Mixtral, recompute: bool) -> (Losses, Vec<Vec<f32>>) {
    let mut gradients = Gradients::of(&model.trained()).unwrap();
    let losses = model.train(&batch(), OBJECTIVE, PASS(), 5.0, recompute, &gradients).unwrap();
    let values = (0..gradients.len()).map(|i| flat(gradients.get(i).unwrap())).collect();
    (losses, values)
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let mut model = tiny(&case["sliding_window"]);
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).unwrap();
        let logits = model.forward(&Tensor::new(ids.clone(), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(logits.dims(), [2, 9, 40]);
        let expected: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        for (ours, theirs) in flat(&logits).iter().zip(&expected) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
        }
        let batch = Batch::next_tokens(&ids).unwrap();
        let loss = model.loss(&batch).unwrap();
        assert!((loss.mean() - case["loss"].as_f64().unwrap()).abs() < 1e-5);

        model.train_only(|_| true);
        let mut gradients = Gradients::of(&model.trained()).unwrap();
        let scale = 1.0 / batch.predictions() as f32;
        let objective = Objective::cross_entropy(scale);
        let again = model.train(&batch, objective, PASS(), 0.0, false, &gradients).unwrap();
        assert_eq!(again.predictions, loss);
        compare(&model, &mut gradients, &case["gradients"], "");
    }
}

/// Asserts that the gradients of the trained weights are those that `mixtral.py` probed, under these names after `prefix`.
fn compare(model: &Mixtral, gradients: &mut Gradients, golden: &serde_json::Value, prefix: &str) {
    let trained: Vec<String> = model.trained().iter().map(|parameter| parameter.name.clone()).collect();
    assert_eq!(trained.len(), golden.as_object().unwrap().len());
    for (index, name) in trained.iter().enumerate() {
        let golden = &golden[format!("{prefix}{name}")];
        let gradient = flat(gradients.get(index).unwrap());
        let probe = formula(gradient.len(), 1000);
        let dot = |a: &[f32]| gradient.iter().zip(a).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let square = golden[0].as_f64().unwrap();
        let along = golden[1].as_f64().unwrap();
        assert!((dot(&gradient) - square).abs() <= 1e-4 * square + 1e-12, "{name}: {} {square}", dot(&gradient));
        assert!((dot(&probe) - along).abs() <= 1e-3 * square.sqrt() + 1e-9, "{name}: {} {along}", dot(&probe));
    }
}

/// The adapter of `mixtral.py`, and all that came of it.
pub fn golden_adapter() -> serde_json::Value {
    golden()["adapter"].clone()
}

/// Writes that adapter as PEFT would: matrices by the formula, embedding and output as the model has them.
pub fn write_adapter(folder: &Path, model: &mut Mixtral) {
    let golden = golden_adapter();
    let settings = &golden["settings"];
    let list = |name: &str| serde_json::from_value::<Vec<String>>(settings[name].clone()).unwrap();
    let config = AdapterConfig {
        base_model_name_or_path: None,
        r: settings["r"].as_u64().unwrap() as usize,
        lora_alpha: settings["lora_alpha"].as_f64().unwrap(),
        lora_dropout: 0.0,
        target_modules: list("target_modules"),
        modules_to_save: list("modules_to_save"),
        use_rslora: false,
        rank_pattern: Default::default(),
        alpha_pattern: Default::default(),
    };
    let mut shapes = BTreeMap::new();
    for linear in model.linears_mut() {
        let module = linear.weight.module().to_owned();
        if config.target_modules.iter().any(|target| module.ends_with(target)) {
            let (out, input) = linear.weight.shape().unwrap();
            shapes.insert(format!("{PREFIX}{module}.lora_A.weight"), [config.r, input]);
            shapes.insert(format!("{PREFIX}{module}.lora_B.weight"), [out, config.r]);
        }
    }
    let mut tensors = BTreeMap::new();
    for (seed, (name, shape)) in (100..).zip(shapes) {
        let values = formula(shape[0] * shape[1], seed).into_iter().map(|v| v / 4.0).collect();
        tensors.insert(name, tensor(values, shape.to_vec()).unwrap());
    }
    for parameter in [&model.embedding].into_iter().chain(model.parameters().last().copied()) {
        tensors.insert(format!("{PREFIX}{}", parameter.name), parameter.value.clone());
    }
    adapter::save(folder, &config, &tensors).unwrap();
}

/// Block `number` of `mixtral.py`: counting in steps of 1, 2 or 3.
pub fn golden_block(number: u32) -> Vec<u32> {
    (0..12).map(|i| (number * 7 + i * (1 + number % 3)) % 40).collect()
}

#[test]
fn an_adapter_and_all_losses_have_the_gradients_of_peft() {
    let golden = golden_adapter();
    let folder = tempfile::tempdir().unwrap();
    let mut model = plain();
    write_adapter(folder.path(), &mut model);
    model.continue_adapter(&Adapter::open(folder.path()).unwrap(), 0).unwrap();
    let batch = Batch::next_tokens(&[golden_block(0), golden_block(1)]).unwrap();
    let coefficient = |name: &str| golden["coefficients"][name].as_f64().unwrap();
    let scale = 1.0 / batch.predictions() as f64;
    let objective = Objective {
        predictions: LossFactors { sum: scale as f32, z: (coefficient("z_loss") * scale) as f32 },
        router: RouterLosses { balance: coefficient("router_aux_loss"), z: coefficient("router_z_loss") },
    };
    let mut gradients = Gradients::of(&model.trained()).unwrap();
    let Losses { predictions, router } = model.train(&batch, objective, PASS(), 0.0, false, &gradients).unwrap();
    for (name, ours) in [
        ("loss", predictions.mean()),
        ("z_loss", predictions.mean_z()),
        ("router_aux_loss", router.balance),
        ("router_z_loss", router.z),
    ] {
        let theirs = golden["losses"][name].as_f64().unwrap();
        assert!((ours - theirs).abs() < 1e-5 * theirs, "{name}: {ours} {theirs}");
    }
    compare(&model, &mut gradients, &golden["gradients"], PREFIX);
}

#[test]
fn an_adapter_of_another_model_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = plain();
    write_adapter(folder.path(), &mut model);
    let mut config = tiny_config();
    let other = |config: &serde_json::Value| {
        let place = tempfile::tempdir().unwrap();
        write_model(place.path(), config);
        let mut model = Mixtral::open(place.path(), &Device::Cpu).unwrap();
        model.continue_adapter(&Adapter::open(folder.path()).unwrap(), 0).unwrap_err()
    };
    config["num_hidden_layers"] = 2.into();
    let error = other(&config);
    assert!(error.message().contains("layers.2.") && error.message().contains("belongs to no weight"), "{error:?}");
    config["intermediate_size"] = 32.into();
    let error = other(&config);
    assert!(error.message().contains("w1.lora_B.weight` has the shape [24, 3]"), "{error:?}");
    config = tiny_config();
    config["vocab_size"] = 41.into();
    let error = other(&config);
    assert!(error.message().contains("embed_tokens.weight` has the shape [40, 16]"), "{error:?}");
}

#[test]
fn gradients_with_adapters_dropout_and_noise_are_the_derivatives() {
    let mut model = plain();
    let count = model.add_adapters(3, 6.0, 0.2, 1, |module| !module.ends_with("o_proj")).unwrap();
    assert_eq!(count, 3 * (3 + 1 + 4 * 3));
    model.train_only(|name| name.contains("lora") || name.contains("embed") || name.contains("lm_head"));
    // B is zero at first, which would hide the gradient of A.
    for (seed, parameter) in model.trained().iter().enumerate() {
        let change = formula(parameter.value.elem_count(), 50 + seed as u64);
        modify(&parameter.value, |values| values.iter_mut().zip(&change).for_each(|(v, c)| *v += c / 8.0)).unwrap();
    }
    let (_, gradients) = run(&model, false);
    for (index, parameter) in model.trained().iter().enumerate() {
        let before = parameter.value.copy().unwrap();
        let analytic = tensor(gradients[index].clone(), before.dims()).unwrap();
        // A few of each.
        let keep = (before.elem_count() / 5).max(1);
        for i in (0..before.elem_count()).step_by(keep) {
            let at = |delta: f32| {
                modify(&parameter.value, |values| values[i] += delta).unwrap();
                let Losses { predictions, router } = run(&model, false).0;
                let loss = predictions.sum * 0.25 + predictions.z * 0.125 + router.balance * 2.0 + router.z * 0.5;
                let original = View::of(&before).unwrap()[i];
                modify(&parameter.value, |values| values[i] = original).unwrap();
                loss
            };
            let numeric = (at(2e-3) - at(-2e-3)) / 4e-3;
            let ours = f64::from(flat(&analytic)[i]);
            assert!(
                (numeric - ours).abs() < 3e-3 * (1.0 + numeric.abs()),
                "{}[{i}]: {ours} {numeric}",
                parameter.name
            );
        }
    }
}

#[test]
fn an_adapter_with_b_zero_changes_nothing() {
    let mut model = plain();
    let ids = Tensor::new(&[[1u32, 5, 9, 13]], &Device::Cpu).unwrap();
    let before = flat(&model.forward(&ids).unwrap());
    model.add_adapters(4, 8.0, 0.5, 1, |_| true).unwrap();
    assert_eq!(before, flat(&model.forward(&ids).unwrap()));
    model.train_only(|name| name.contains("lora_"));
    let (_, gradients) = run(&model, false);
    for (parameter, gradient) in model.trained().iter().zip(gradients) {
        let zero = gradient.iter().all(|g| *g == 0.0);
        assert_eq!(zero, parameter.name.ends_with("lora_A.weight"), "{}", parameter.name);
    }
}

#[test]
fn recomputing_layers_and_other_thread_counts_give_the_same_bits() {
    let mut model = plain();
    model.add_adapters(4, 8.0, 0.1, 1, |_| true).unwrap();
    model.train_only(|_| true);
    let first = run(&model, false);
    assert_eq!(first, run(&model, true));
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(first, pool.install(|| run(&model, false)), "{threads} threads");
    }
}

#[test]
fn continuing_with_a_cache_gives_the_logits_of_the_whole() {
    for window in [serde_json::Value::Null, 3.into()] {
        let model = tiny(&window);
        let ids = [1u32, 5, 9, 13, 2, 7, 7, 39, 20];
        let whole = model.forward(&Tensor::new(&[ids], &Device::Cpu).unwrap()).unwrap().squeeze(0).unwrap();
        let mut cache = KeyValueCache::default();
        for (start, end) in [(0, 4), (4, 5), (5, 6), (6, 9)] {
            let next = flat(&model.next(&ids[start..end], &mut cache).unwrap());
            let expected = flat(&whole.get(end - 1).unwrap());
            for (a, b) in next.iter().zip(expected) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }
}

fn all_but_head(storage: Storage) -> impl Fn(&str) -> Storage {
    move |module| if module == "lm_head" { Storage::Float32 } else { storage }
}

/// In bfloat16 the loss and the gradients are those of float32 but for rounding, and recomputed layers give the same bits.
#[test]
fn bfloat16_is_float32_but_for_rounding() {
    let folder = tempfile::tempdir().unwrap();
    // Every token goes to every expert: a choice that rounding changes would change the gradients by more than rounding.
    let mut config = tiny_config();
    config["num_experts_per_tok"] = config["num_local_experts"].clone();
    write_model(folder.path(), &config);
    let mut full = Mixtral::open(folder.path(), &Device::Cpu).unwrap();
    let mut half = Mixtral::open_as(folder.path(), &Device::Cpu, all_but_head(Storage::Bfloat16)).unwrap();
    half.set_precision(Precision::Bfloat16);
    for model in [&mut full, &mut half] {
        model.add_adapters(4, 8.0, 0.1, 1, |module| !module.ends_with("gate")).unwrap();
        model.train_only(|name| name.contains("lora_") || name == "lm_head.weight");
    }
    let (exact, gradients) = run(&full, false);
    let (rounded, rough) = run(&half, false);
    assert_eq!((rounded, rough.clone()), run(&half, true));
    assert!(rounded != exact, "nothing was rounded");
    let ratio = rounded.predictions.mean() / exact.predictions.mean();
    assert!((ratio - 1.0).abs() < 0.01, "{rounded:?} {exact:?}");
    // Over all gradients: single ones are differences of rounded numbers, and less sure.
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value * value)).sum::<f64>();
    let (exact, rough) = (gradients.concat(), rough.concat());
    let difference = squares(&mut exact.iter().zip(&rough).map(|(a, b)| a - b));
    let size = squares(&mut exact.iter().copied());
    assert!(difference.sqrt() <= 0.08 * size.sqrt(), "{} of {}", difference.sqrt(), size.sqrt());
}

#[test]
fn packed_weights_give_the_model_of_their_rounded_values() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &tiny_config());
    let mut packed = Mixtral::open_as(folder.path(), &Device::Cpu, all_but_head(Storage::Nf4)).unwrap();
    let mut dense = Mixtral::open(folder.path(), &Device::Cpu).unwrap();
    for linear in dense.linears_mut() {
        if let Weight::Dense(parameter) = &mut linear.weight
            && parameter.name != "lm_head.weight"
        {
            parameter.value = Nf4::quantise(&parameter.value).unwrap().dequantise().unwrap();
        }
    }
    for model in [&mut packed, &mut dense] {
        model.add_adapters(4, 8.0, 0.1, 1, |module| !module.ends_with("gate")).unwrap();
        model.train_only(|name| name.contains("lora_") || name == "lm_head.weight");
    }
    assert_eq!(run(&packed, false), run(&dense, false));
    assert!(packed.parameters().iter().all(|parameter| !parameter.name.contains("w1.weight")));
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    write_model(folder.path(), &config);
    config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    config["intermediate_size"] = 32.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let error = Mixtral::open(folder.path(), &Device::Cpu).err().unwrap().one_line();
    assert!(error.contains("experts.0.w1.weight") && error.contains("[24, 16]"), "{error}");
    config["intermediate_size"] = 24.into();
    config["num_hidden_layers"] = 4.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let error = Mixtral::open(folder.path(), &Device::Cpu).err().unwrap().one_line();
    assert!(error.contains("model.layers.3"), "{error}");
}

#[test]
fn the_shared_model_gives_the_logits_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/stories-moe");
    if !folder.exists() {
        println!("skipped: there is no {}", folder.display());
        return;
    }
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/golden/stories-moe.json")).unwrap();
    let model = Mixtral::open(&folder, &Device::Cpu).unwrap();
    let ids: Vec<u32> = serde_json::from_value(golden["ids"].clone()).unwrap();
    let logits = model.forward(&Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
    let last = flat(&logits.get(0).unwrap().get(ids.len() - 1).unwrap());
    let expected: Vec<f32> = serde_json::from_value(golden["logits"].clone()).unwrap();
    for (ours, theirs) in last.iter().zip(&expected) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
    let continuation: Vec<u32> = serde_json::from_value(golden["continuation"].clone()).unwrap();
    let sampling = crate::model::Sampling { temperature: 0.0, top_p: None, seed: 0 };
    let prompt = serde_json::from_value(golden["prompt"].clone()).unwrap();
    let generator = crate::model::Generator::new(&model, prompt, None, sampling).unwrap();
    let ours: Vec<u32> = generator.take(continuation.len()).map(|token| token.unwrap()).collect();
    assert_eq!(ours, continuation);
}
