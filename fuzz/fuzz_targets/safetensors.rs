//! Model weights: a safetensors file or its index, or a state dict of torch. Whatever the bytes, an error, or tensors that lie
//! in the file and are as long as their shapes say; of safetensors, those that the safetensors library finds.
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

/// A zip archive of entries that are not compressed, as torch writes them.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let at = file.len() as u32;
        let size = (bytes.len() as u32).to_le_bytes();
        let mut common = Vec::new();
        common.extend([0; 8]); // flags, method, time, date
        common.extend(crc32fast::hash(bytes).to_le_bytes());
        common.extend(size);
        common.extend(size);
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]); // extra field
        file.extend(b"PK\x03\x04\x14\0");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, count) = (file.len() as u32, (entries.len() as u16).to_le_bytes());
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count);
    file.extend(count);
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0; 2]);
    file
}

fuzz_target!(|bytes: &[u8]| {
    // As they are; as a header; as a pickle; as an index.
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
    let values: Vec<u8> = (0..64).collect();
    let path = cmx_fuzz::file("pytorch_model.bin", &archive(&[("a/data.pkl", bytes), ("a/data/0", &values)]));
    if let Ok(checkpoint) = Checkpoint::open(path.parent().unwrap()) {
        check(&checkpoint);
        for name in checkpoint.names() {
            let part = checkpoint.bytes(name).unwrap();
            assert!(part.is_empty() || values.windows(part.len()).any(|window| window == part));
        }
    }
    std::fs::remove_file(&path).unwrap();
    let path = cmx_fuzz::file("model.safetensors.index.json", bytes);
    let shard = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    cmx_fuzz::file("model-1.safetensors", &with_header(shard));
    if let Ok(checkpoint) = Checkpoint::open(path.parent().unwrap()) {
        check(&checkpoint);
        assert!(checkpoint.names().iter().all(|name| *name == "w"));
    }
    std::fs::remove_file(&path).unwrap();
});
