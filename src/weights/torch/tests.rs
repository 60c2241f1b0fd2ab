//! State dicts that torch wrote (`tests/golden/make_torch_files.py`), and archives that lie.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::weights::{Checkpoint, Shard};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch").join(name)
}

#[test]
fn tensors_of_every_type_and_protocol_are_those_that_torch_saved() {
    for (name, expected) in [
        ("protocol-2.bin", "expected.safetensors"),
        ("protocol-4.bin", "expected.safetensors"),
        ("protocol-5.bin", "expected.safetensors"),
        ("module.bin", "module.safetensors"),
    ] {
        let (shard, expected) = (Shard::open(&golden(name)).unwrap(), Shard::open(&golden(expected)).unwrap());
        assert_eq!(shard.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
        for name in expected.names() {
            assert_eq!(shard.spec(name), expected.spec(name), "{name}");
            assert_eq!(shard.bytes(name), expected.bytes(name), "{name}");
        }
    }
}

#[test]
fn what_is_no_state_dict_is_named() {
    for (name, expected) in [
        ("transposed.bin", "`w` in it is stored out of order (shape [4, 3], strides [1, 4])"),
        ("nested.bin", "`epoch` in it is no tensor: this is no state dict"),
        ("whole-module.bin", "it names `torch.nn.modules.container.Sequential`"),
        ("before-1.6.bin", "is a pickle of torch before 1.6"),
    ] {
        let error = Shard::open(&golden(name)).err().unwrap().one_line();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_model_of_torch_s_shards_opens_and_is_rewritten_as_safetensors() {
    use crate::weights::rewrite::{Rewritten, Sharing, rewrite};
    let (source, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let index = serde_json::json!({
        "metadata": { "total_size": 1 },
        "weight_map": {
            "0.weight": "pytorch_model-00001-of-00002.bin", "0.bias": "pytorch_model-00001-of-00002.bin",
            "1.weight": "pytorch_model-00001-of-00002.bin", "1.bias": "pytorch_model-00001-of-00002.bin",
            "float32": "pytorch_model-00002-of-00002.bin", "bfloat16": "pytorch_model-00002-of-00002.bin",
        }
    });
    for (name, number) in [("module.bin", 1), ("protocol-2.bin", 2)] {
        let to = source.path().join(format!("pytorch_model-0000{number}-of-00002.bin"));
        std::fs::copy(golden(name), to).unwrap();
    }
    std::fs::write(source.path().join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    let checkpoint = Checkpoint::open(source.path()).unwrap();
    assert_eq!(checkpoint.names().len(), 6);
    let go_on = &mut |_| Ok(());
    let done =
        rewrite(&checkpoint, output.path(), Sharing::Linked, &BTreeMap::new(), go_on, |_, _, _| Ok(())).unwrap();
    let written = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].map(str::to_owned);
    assert_eq!(done, Rewritten { written: written.to_vec(), shared: vec![] });
    let again = Checkpoint::open(output.path()).unwrap();
    assert_eq!(again.names(), checkpoint.names());
    assert!(again.names().into_iter().all(|name| again.bytes(name).unwrap() == checkpoint.bytes(name).unwrap()));

    std::fs::remove_file(source.path().join("pytorch_model-00002-of-00002.bin")).unwrap();
    let error = Checkpoint::open(source.path()).err().unwrap().one_line();
    assert!(error.ends_with("pytorch_model-00002-of-00002.bin is missing"), "{error}");
}

/// An archive as torch lays it out.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(format!("archive/{name}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A pickle of {"w": a float32 tensor in the storage "0" of `count` values}; shape and strides as opcodes.
fn pickle(count: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut all = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
    all.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    all.extend([count, b't', b'Q', b'K', offset]);
    all.extend(shape);
    all.extend(strides);
    all.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    all
}

fn refused(file: &[u8]) -> String {
    tensors(file).unwrap_err()
}

#[test]
fn a_tensor_lies_within_its_storage_and_a_storage_within_the_file() {
    let values = [0; 24];
    let good = archive(&[("data.pkl", &pickle(6, 1, b"K\x05\x85", b"K\x01\x85")), ("data/0", &values)]);
    let (spec, range) = tensors(&good).unwrap()["w"].clone();
    assert_eq!((spec.shape, range.len()), (vec![5], 20));
    assert_eq!(good[range], values[4..]);

    let of = |pickle: &[u8], storage: &[u8]| refused(&archive(&[("data.pkl", pickle), ("data/0", storage)]));
    let plain = |shape: &[u8], strides: &[u8]| of(&pickle(6, 1, shape, strides), &values);
    let huge = b"\x8a\x08\0\0\0\0\0\0\0\x40";
    for (error, expected) in [
        (plain(b"K\x06\x85", b"K\x01\x85"), "`w` in it goes beyond its storage of 6 values"),
        (of(&pickle(7, 1, b"K\x06\x85", b"K\x01\x85"), &values), "the storage `0`, which is missing or too short"),
        (refused(&archive(&[("data.pkl", &pickle(6, 0, b")", b")"))])), "the storage `0`, which is missing or too"),
        (plain(b"K\x02K\x02\x86", b"K\x01K\x02\x86"), "stored out of order (shape [2, 2], strides [1, 2])"),
        (plain(b"K\x05\x85", b")"), "is stored out of order"),
        (plain(b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), "a tensor has the size -1"),
        (plain(b"N\x85", b"K\x01\x85"), "a size of a tensor is no number"),
        (plain(&[huge, huge, &b"\x86"[..]].concat(), b"K\x01K\x01\x86"), "which is too large"),
        (plain(&[huge, &b"\x85"[..]].concat(), b"K\x01\x85"), "goes beyond its storage"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn nothing_is_called_that_a_pickle_names() {
    let of = |pickle: &[u8]| refused(&archive(&[("data.pkl", pickle)]));
    for (pickle, expected) in [
        (
            &b"cos\nsystem\n(X\x04\0\0\0truetR."[..],
            "at byte 0 of its pickle: it names `os.system`, which no state dict",
        ),
        (b"\x80\x02cposix\nsystem\n.", "at byte 2 of its pickle: it names `posix.system`"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "it names `builtins.eval`"),
        (b"ctorch\nload\n.", "it names `torch.load`"),
        (b"ctorch\nUntypedStorage\n.", "it names `torch.UntypedStorage`"),
        (b"ctorch.storage\nFloatStorage\n.", "it names `torch.storage.FloatStorage`"),
        (b"(ios\nsystem\n.", "it uses the opcode 0x69, which no state dict needs"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "it uses the opcode 0x81"),
        (b"]", "at byte 1 of its pickle: it ends too early"),
        (b"X\xff\xff\xff\xffabc.", "it ends too early"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.", "it ends too early"),
        (b"cos\nsys", "it ends too early"),
        (b".", "the stack is empty"),
        (b"t.", "a mark is missing"),
        (b"K\x01(\x85.", "the stack is empty"),
        (b"h\x07.", "it recalls a value 7 that it never kept"),
        (b"K\x01K\x01R.", "it calls what cannot be called"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "it calls OrderedDict with what that does not take"),
        (b"K\x01K\x01b.", "it sets attributes of what is no dict"),
        (b"}K\x01K\x01\x86Q.", "it refers to something beside the pickle that is no storage"),
        (b"}(K\x01u.", "it sets a key without a value"),
        (b"K\x01.", "it holds no dict of tensors"),
        (b"}K\x01K\x01s.", "a key in it is no text"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", "a number has 9 bytes"),
    ] {
        let error = of(pickle);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn neither_depth_nor_doubling_costs_more_than_the_pickle_is_long() {
    let start = Instant::now();
    let of = |pickle: &[u8]| refused(&archive(&[("data.pkl", pickle)]));
    // A million tuples within each other.
    let deep = [b")".as_slice(), &b"\x85".repeat(1_000_000), b"."].concat();
    assert!(of(&deep).contains("it holds no dict of tensors"));
    // Each value twice the one before, 10,000 times.
    let doubled: Vec<u8> = [b")q\0".to_vec(), b"h\0h\0\x86q\0".repeat(10_000), b".".to_vec()].concat();
    assert!(of(&doubled).contains("it holds no dict of tensors"));
    // A list that holds itself.
    assert!(of(b"]q\0h\0a.").contains("it holds no dict of tensors"));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn archives_that_torch_never_writes_are_refused() {
    let good = archive(&[("data.pkl", b"}."), ("byteorder", b"little")]);
    assert!(tensors(&good).unwrap().is_empty());
    for (file, expected) in [
        (archive(&[("data.pkl", b"}."), ("byteorder", b"big")]), "its values are not little-endian"),
        (archive(&[("version", b"3")]), "it holds no `data.pkl`"),
        (archive(&[("data.pkl", b"}."), ("b/data.pkl", b"}.")]), "it holds more than one `data.pkl`"),
        (archive(&[("data.pkl", &vec![b'N'; MAX_PICKLE + 1])]), "its pickle has 67108865 bytes"),
        (good[..good.len() - 1].to_vec(), "its archive is damaged"),
        (good[..40].to_vec(), "its archive is damaged"),
    ] {
        let error = refused(&file);
        assert!(error.contains(expected), "{error}");
    }
    // The method of every entry says that it is deflated.
    let mut compressed = good.clone();
    for (signature, field) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        for at in 0..compressed.len() - 4 {
            if compressed[at..].starts_with(signature) {
                compressed[at + field] = 8;
            }
        }
    }
    assert!(refused(&compressed).contains("is compressed or encrypted"), "{}", refused(&compressed));
    // Whatever byte is changed, there is an answer.
    let file = archive(&[("data.pkl", &pickle(6, 0, b"K\x06\x85", b"K\x01\x85")), ("data/0", &[0; 24])]);
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            let _ = tensors(&changed);
        }
    }
}
