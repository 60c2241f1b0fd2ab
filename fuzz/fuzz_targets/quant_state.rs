//! The JSON beside a matrix in 4 bits, and its other parts: whatever it says, an error, or a matrix of that shape.
//!
//! The input is one line of six numbers and types, the sizes of the parts, and then the JSON.
#![no_main]

use std::collections::BTreeMap;

use cmx::weights::{Checkpoint, ShardWriter, Spec};
use libfuzzer_sys::fuzz_target;
use safetensors::Dtype;

const MAP: [f32; 16] = [
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0, 0.0795803, 0.1609302,
    0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
];

fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let state = bytes.get(split + 1..).unwrap_or_default();
    let sizes = String::from_utf8_lossy(&bytes[..split]);
    let mut parts = BTreeMap::from([("w.quant_state.bitsandbytes__nf4", Spec::new(Dtype::U8, [state.len()]))]);
    let names = ["w", "w.absmax", "w.quant_map", "w.nested_absmax", "w.nested_quant_map"];
    for (name, size) in names.into_iter().zip(sizes.split_whitespace()) {
        // `12u` are twelve bytes, `12` twelve floats; `-` is no such part.
        let (digits, dtype) = size.strip_suffix('u').map_or((size, Dtype::F32), |digits| (digits, Dtype::U8));
        if let Ok(count) = digits.parse::<u16>() {
            parts.insert(name, Spec::new(dtype, [usize::from(count)]));
        }
    }
    let specs = parts.iter().map(|(name, spec)| ((*name).to_owned(), spec.clone())).collect();
    let path = cmx_fuzz::file("model.safetensors", b"");
    std::fs::remove_file(&path).unwrap();
    let mut writer = ShardWriter::create(&path, &specs).unwrap();
    for (name, spec) in &parts {
        writer.begin(name).unwrap();
        let content = match *name {
            "w.quant_map" if spec.bytes() == 64 => MAP.iter().flat_map(|value| value.to_le_bytes()).collect(),
            name if name.ends_with("nf4") => state.to_vec(),
            _ => (0..spec.bytes()).map(|i| (i * 37 % 61) as u8).collect(),
        };
        writer.write(&content).unwrap();
    }
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(path.parent().unwrap()).unwrap();
    let whole = checkpoint.unpacked_specs();
    if let Ok(Some(matrix)) = checkpoint.packed("w") {
        let (rows, columns) = matrix.shape();
        assert_eq!(matrix.unpack_all().len(), rows * columns);
        let whole = whole.unwrap();
        assert_eq!(whole.keys().collect::<Vec<_>>(), ["w"]);
        assert_eq!(whole["w"], Spec::new(matrix.float().dtype(), [rows, columns]));
        let mut part = vec![0.0; rows * columns - rows * columns / 3];
        matrix.unpack(rows * columns / 3..rows * columns, &mut part);
    }
    std::fs::remove_file(path).unwrap();
});
