//! State dicts of torch: `pytorch_model.bin`. Whatever the bytes, nothing is run that a pickle names, and there is an error, or
//! tensors that lie in the file and are as long as their shapes say.
#![no_main]

use cmx::weights::Checkpoint;
use libfuzzer_sys::fuzz_target;

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

/// Opens the file as a model; every tensor is a part of `storages`.
fn check(file: &[u8], storages: &[u8]) {
    let path = cmx_fuzz::file("pytorch_model.bin", file);
    if let Ok(checkpoint) = Checkpoint::open(path.parent().unwrap()) {
        for name in checkpoint.names() {
            let (spec, bytes) = (checkpoint.spec(name).unwrap(), checkpoint.bytes(name).unwrap());
            assert_eq!(bytes.len(), spec.bytes(), "{name}");
            assert!(bytes.is_empty() || storages.windows(bytes.len()).any(|window| window == bytes), "{name}");
        }
        let _ = checkpoint.unpacked_specs();
    }
    std::fs::remove_file(path).unwrap();
}

fuzz_target!(|bytes: &[u8]| {
    // As the whole file, and as the pickle of one that is sound but for it.
    check(bytes, bytes);
    let values: Vec<u8> = (0..64).collect();
    check(&archive(&[("a/data.pkl", bytes), ("a/byteorder", b"little"), ("a/data/0", &values)]), &values);
});
