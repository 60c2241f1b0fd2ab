//! Packing held against what bitsandbytes' CPU build wrote (`tests/golden/make_bitsandbytes_nf4.py`), and files that lie.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::*;
use crate::weights::{Checkpoint, Shard, ShardWriter, Spec};

/// The matrices that bitsandbytes packed, by name.
fn golden() -> Shard {
    Shard::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bitsandbytes_nf4.safetensors")).unwrap()
}

fn cases(golden: &Shard) -> Vec<String> {
    golden.names().filter_map(|name| name.strip_suffix(".input")).map(str::to_owned).collect()
}

/// The tensors of a packed matrix, as read from `from`.
fn parts(from: &Shard, name: &str) -> BTreeMap<String, (Spec, Vec<u8>)> {
    let packed = from.names().filter(|other| *other == name || other.starts_with(&format!("{name}.")));
    packed
        .map(|part| (part.to_owned(), (from.spec(part).unwrap().clone(), from.bytes(part).unwrap().to_vec())))
        .collect()
}

/// A model folder with these tensors in its one file.
fn folder(tensors: &BTreeMap<String, (Spec, Vec<u8>)>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let specs = tensors.iter().map(|(name, (spec, _))| (name.clone(), spec.clone())).collect();
    let mut writer = ShardWriter::create(&folder.path().join("model.safetensors"), &specs).unwrap();
    for (name, (_, bytes)) in tensors {
        writer.begin(name).unwrap();
        writer.write(bytes).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// Block size and double quantisation of a stored matrix.
fn packing(state: &[u8]) -> Packing {
    let state: serde_json::Value = serde_json::from_slice(state).unwrap();
    Packing { block: state["blocksize"].as_u64().unwrap() as usize, double: state["nested_offset"].is_number() }
}

#[test]
fn every_byte_is_that_of_bitsandbytes() {
    let golden = golden();
    let cases = cases(&golden);
    assert_eq!(cases.len(), 15);
    for case in cases {
        let name = format!("{case}.weight");
        let theirs = parts(&golden, &name);
        let packing = packing(&theirs[&format!("{name}.quant_state.bitsandbytes__nf4")].1);
        let (input, bytes) =
            (golden.spec(&format!("{case}.input")).unwrap(), golden.bytes(&format!("{case}.input")).unwrap());
        let stored = Stored::new(&name, input, packing).unwrap();
        let written = tempfile::tempdir().unwrap();
        let path = written.path().join("model.safetensors");
        let mut writer = ShardWriter::create(&path, &stored.specs()).unwrap();
        stored.write(bytes, &mut writer).unwrap();
        writer.finish().unwrap();
        let ours = parts(&Shard::open(&path).unwrap(), &name);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (part, (spec, bytes)) in &theirs {
            let (our_spec, our_bytes) = &ours[part];
            if packing.double && part.ends_with("__nf4") {
                // Ours has spaces at its end.
                let text = std::str::from_utf8(our_bytes).unwrap();
                assert_eq!(text.trim_end(), std::str::from_utf8(bytes).unwrap());
                continue;
            }
            assert_eq!(our_spec, spec, "{part}");
            assert_eq!(our_bytes, bytes, "{part}");
        }
    }
}

#[test]
fn what_bitsandbytes_wrote_is_unpacked_as_it_unpacks_it() {
    let golden = golden();
    for case in cases(&golden) {
        let folder = folder(&parts(&golden, &format!("{case}.weight")));
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let matrix = checkpoint.packed(&format!("{case}.weight")).unwrap().unwrap();
        let input = golden.spec(&format!("{case}.input")).unwrap();
        assert_eq!(input.shape, [matrix.shape().0, matrix.shape().1]);
        assert_eq!(matrix.float().dtype(), input.dtype);
        let theirs = Float::F32.widen(golden.bytes(&format!("{case}.values")).unwrap());
        let ours = matrix.unpack_all();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{case}");
        }
        // Any part of it is that part.
        let count = ours.len();
        for (start, end) in [(0, count), (count / 3, count), (1.min(count), count), (0, count / 2), (count, count)]
        {
            let mut part = vec![0.0; end - start];
            matrix.unpack(start..end, &mut part);
            assert!(part.iter().zip(&ours[start..end]).all(|(a, b)| a.to_bits() == b.to_bits()), "{case}");
        }
    }
}

#[test]
fn threads_and_the_type_of_the_values_make_no_difference() {
    let values: Vec<f32> = (0..40_000u32)
        .map(|i| half::bf16::from_f32((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8).to_f32())
        .collect();
    let pack = |threads: usize, float: Float| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bytes = float.narrow(&values);
        let read = |range: Range<usize>, part: &mut [f32]| {
            let size = float.bytes();
            float.widen_into(&bytes[range.start * size..range.end * size], part);
        };
        let matrix = pool.install(|| Matrix::pack((200, 200), float, Packing::DEFAULT, read)).unwrap();
        matrix.unpack_all()
    };
    let one = pack(1, Float::F32);
    for threads in 2..4 {
        assert_eq!(pack(threads, Float::F32), one);
    }
    assert_eq!(pack(2, Float::BF16), one);
}

#[test]
fn what_cannot_be_packed_is_refused() {
    for (block, good) in [(32, true), (4096, true), (16, false), (8192, false), (96, false), (0, false)] {
        assert_eq!(Packing::new(block, false).is_ok(), good);
    }
    let read = |_: Range<usize>, part: &mut [f32]| part.fill(f32::NAN);
    let error = Matrix::pack((3, 5), Float::F32, Packing::DEFAULT, read).err().unwrap();
    assert_eq!(error.message(), "a value is infinite or not a number");
    assert!(Stored::new("w", &Spec::new(Dtype::F32, [8]), Packing::DEFAULT).is_none());
    assert!(Stored::new("w", &Spec::new(Dtype::I8, [8, 8]), Packing::DEFAULT).is_none());
}

#[test]
fn stored_parts_that_do_not_fit_are_errors_that_say_which() {
    let golden = golden();
    type Tensors = BTreeMap<String, (Spec, Vec<u8>)>;
    let message = |case: &str, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = parts(&golden, &format!("{case}.weight"));
        change(&mut tensors);
        let folder = folder(&tensors);
        let packed = Checkpoint::open(folder.path()).unwrap().packed(&format!("{case}.weight")).map(|_| ());
        packed.unwrap_err().one_line()
    };
    let shorten = |part: &'static str| {
        move |tensors: &mut Tensors| {
            let (spec, bytes) = tensors.get_mut(part).unwrap();
            bytes.truncate(bytes.len() - 4);
            *spec = Spec::new(spec.dtype, [bytes.len() * 8 / spec.dtype.bitsize()]);
        }
    };
    let state = |case: &'static str, from: &'static str, to: &'static str| {
        move |tensors: &mut Tensors| {
            let (spec, bytes) = tensors.get_mut(&format!("{case}.weight.quant_state.bitsandbytes__nf4")).unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replace(from, to).into_bytes();
            *spec = Spec::new(Dtype::U8, [bytes.len()]);
        }
    };
    type Spoil<'a> = &'a dyn Fn(&mut Tensors);
    let cases: [(&str, Spoil, &str); 15] = [
        ("float32", &shorten("float32.weight"), "its codes are 189 bytes, not 193"),
        ("float32", &shorten("float32.weight.absmax"), "its `absmax` is F32 [6], not 7 times F32"),
        ("float32", &shorten("float32.weight.quant_map"), "its `quant_map` is F32 [15], not 16 times F32"),
        ("nested", &shorten("nested.weight.absmax"), "its scales are 278 bytes, not 282"),
        ("nested", &shorten("nested.weight.nested_absmax"), "its `nested_absmax` is F32 [1], not 2 times F32"),
        (
            "nested",
            &|t| drop(t.remove("nested.weight.nested_quant_map")),
            "has no tensor `nested.weight.nested_quant",
        ),
        ("float32", &|t| t.get_mut("float32.weight.quant_map").unwrap().1[9] ^= 1, "is not that of NF4"),
        ("float32", &|t| drop(t.remove("float32.weight.quant_state.bitsandbytes__nf4")), "is packed, but has no"),
        ("float32", &state("float32", "\"nf4\"", "\"fp4\""), "its type is `fp4`, not `nf4`"),
        ("float32", &state("float32", "64", "65"), "it must be a power of two, 32 to 4096"),
        ("float32", &state("float32", "float32", "float8"), "it holds values of type `float8`"),
        ("float32", &state("float32", "[5, 77]", "[5]"), "its shape is [5], not that of a matrix"),
        ("float32", &state("float32", "[5, 77]", "[4294967296, 4294967296]"), "not that of a matrix"),
        ("float32", &state("float32", "\"shape\"", "\"form\""), "is not what bitsandbytes writes"),
        ("nested", &state("nested", "256", "0"), "its scales are packed in blocks of Some(0)"),
    ];
    for (case, change, expected) in cases {
        let error = message(case, change);
        assert!(error.contains(expected), "{error}");
    }
}
