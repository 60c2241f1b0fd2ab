//! Model weights: a safetensors file or its index. Whatever the bytes, an error, or tensors that lie in the file and are as
//! long as their shapes say: those that the safetensors library finds.
#![no_main]

use cmx::weights::{Checkpoint, Shard, Spec};
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fn check(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let (spec, bytes) = (checkpoint.spec(name).unwrap(), checkpoint.bytes(name).unwrap());
        assert_eq!(bytes.len(), spec.bytes(), "{name}");
        let _ = checkpoint.packed(name);
    }
    let _ = checkpoint.unpacked_specs();
}

/// A safetensors file with this header, and as many zeros behind it as it speaks of, within reason.
fn with_header(header: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(header).unwrap_or_default();
    let ends = value.as_object().into_iter().flatten().filter_map(|(_, tensor)| tensor["data_offsets"][1].as_u64());
    let size = ends.max().unwrap_or(0).min(1 << 16) as usize;
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; size][..]].concat()
}

fuzz_target!(|bytes: &[u8]| {
    // As they are; as a header; as an index.
    for file in [bytes.to_vec(), with_header(bytes)] {
        let path = cmx_fuzz::file("model.safetensors", &file);
        let ours = Shard::open(&path);
        if !file.starts_with(b"PK\x03\x04") && !file.starts_with(b"\x80\x02") {
            let theirs = SafeTensors::deserialize(&file);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours.err().map(|e| e.one_line()), theirs.err());
            if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
                assert_eq!(ours.names().count(), theirs.len());
                for (name, tensor) in theirs.iter() {
                    assert_eq!(ours.spec(name), Some(&Spec::new(tensor.dtype(), tensor.shape())));
                    assert_eq!(ours.bytes(name), Some(tensor.data()));
                }
            }
        }
        if let Ok(checkpoint) = Checkpoint::open(path.parent().unwrap()) {
            check(&checkpoint);
        }
        std::fs::remove_file(path).unwrap();
    }
    let path = cmx_fuzz::file("model.safetensors.index.json", bytes);
    let shard = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    cmx_fuzz::file("model-1.safetensors", &with_header(shard));
    if let Ok(checkpoint) = Checkpoint::open(path.parent().unwrap()) {
        check(&checkpoint);
        assert!(checkpoint.names().iter().all(|name| *name == "w"));
    }
    std::fs::remove_file(&path).unwrap();
});
