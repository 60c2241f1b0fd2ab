//! A PEFT adapter, from its two files to the merge: whatever the bytes, an error, or a model with the tensors that it had.
//!
//! The input is `adapter_config.json`, a NUL, and the header of `adapter_model.safetensors`; the values are made here.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use cmx::weights::adapter::Adapter;
use cmx::weights::merging::{Merge, Onto};
use cmx::weights::rewrite::Sharing;
use cmx::weights::{Checkpoint, Layout, Spec};
use libfuzzer_sys::fuzz_target;
use safetensors::Dtype;

/// A folder of this process.
fn folder(name: &str) -> PathBuf {
    let path = cmx_fuzz::file("marker", b"").with_file_name(name);
    std::fs::create_dir_all(&path).expect("a temporary folder");
    path
}

/// A model of a few small matrices.
fn base() -> &'static Checkpoint {
    static BASE: OnceLock<Checkpoint> = OnceLock::new();
    BASE.get_or_init(|| {
        let folder = folder("base");
        let layer = "model.layers.0";
        let specs = [
            ("lm_head.weight".to_owned(), Dtype::F32, vec![5, 4]),
            ("model.embed_tokens.weight".to_owned(), Dtype::F16, vec![5, 4]),
            ("model.norm.weight".to_owned(), Dtype::BF16, vec![4]),
            (format!("{layer}.self_attn.q_proj.weight"), Dtype::BF16, vec![4, 4]),
            (format!("{layer}.block_sparse_moe.experts.0.w1.weight"), Dtype::F32, vec![6, 4]),
            (format!("{layer}.block_sparse_moe.experts.0.w2.weight"), Dtype::BF16, vec![4, 6]),
        ];
        let specs = specs.into_iter().map(|(name, dtype, shape)| (name, Spec::new(dtype, shape))).collect();
        let values = |spec: &Spec| (0..spec.bytes()).map(|i| (i * 37 % 61) as u8).collect::<Vec<u8>>();
        Layout::new(specs, 100)
            .write(&folder, |_, spec, writer| writer.write(&values(spec)))
            .expect("a model is written");
        Checkpoint::open(&folder).expect("the model opens")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (config, header) = (&bytes[..split], bytes.get(split + 1..).unwrap_or_default());
    let value: serde_json::Value = serde_json::from_slice(header).unwrap_or_default();
    let ends = value.as_object().into_iter().flatten().filter_map(|(_, tensor)| tensor["data_offsets"][1].as_u64());
    let size = ends.max().unwrap_or(0).min(1 << 16) as usize;
    let values: Vec<u8> = (0..size).map(|i| (i * 41 % 67) as u8).collect();
    cmx_fuzz::file("adapter_model.safetensors", &[&(header.len() as u64).to_le_bytes(), header, &values].concat());
    let path = cmx_fuzz::file("adapter_config.json", config);
    let Ok(adapter) = Adapter::open(path.parent().unwrap()) else { return };
    for name in adapter.names() {
        assert_eq!(adapter.bytes(name).unwrap().len(), adapter.spec(name).unwrap().bytes());
    }
    for onto in [Onto::Original, Onto::Dequantised] {
        let Ok(merge) = Merge::new(base(), &adapter, onto) else { continue };
        let output = folder("merged");
        let done = merge.write(&output, Sharing::Copied, &mut |_| Ok(()));
        if done.is_ok() {
            let merged = Checkpoint::open(&output).unwrap();
            assert_eq!(merged.names(), base().names());
            for name in merged.names() {
                assert_eq!(merged.spec(name).unwrap(), base().spec(name).unwrap(), "{name}");
            }
        }
        std::fs::remove_dir_all(output).unwrap();
    }
});
