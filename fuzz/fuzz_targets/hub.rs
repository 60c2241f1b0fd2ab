//! What hubs and object stores answer (JSON, XML, a header) and the names in it: read, or refused.
#![no_main]

use std::path::{Component, Path};

use cmx::fuzzing::{check_file, of_url};
use cmx::hub::{Checksum, api, s3, shown};
use libfuzzer_sys::fuzz_target;

fn assert_hash(hash: &str, length: usize) {
    assert_eq!(hash.len(), length);
    assert!(hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
}

/// A name that is accepted stays below the folder it is put in.
fn assert_below(name: &str) {
    let components: Vec<Component> = Path::new(name).components().collect();
    assert!(components.iter().all(|part| matches!(part, Component::Normal(_))), "{name:?}");
    assert_eq!(components.len(), name.split('/').count(), "{name:?}");
    assert!(!name.contains('\0'), "{name:?}");
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(commit) = api::parse_revision(bytes) {
        assert_hash(&commit, if commit.len() > 40 { 64 } else { 40 });
    }
    for file in api::parse_tree(bytes).into_iter().flatten() {
        match &file.checksum {
            Checksum::Sha256(hash) => assert_hash(hash, 64),
            Checksum::GitBlob(hash) => assert_hash(hash, 40),
        }
        if check_file(&file.path).is_ok() {
            assert_below(&file.path);
        }
    }
    for object in s3::parse_listing(bytes).into_iter().flat_map(|page| page.objects) {
        assert!(object.etag.is_none_or(|etag| etag.bytes().all(|byte| byte.is_ascii_graphic())));
    }
    let _ = s3::error_code(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(next) = api::next_page(text) {
        assert!(text.contains(next));
    }
    if check_file(text).is_ok() {
        assert_below(text);
    }
    if let Ok(name) = of_url(text) {
        assert_below(&name);
        assert!(!name.contains('/'));
    }
    if let Ok((bucket, key)) = s3::parse_url(text) {
        assert!(text.strip_prefix("s3://").is_some_and(|rest| rest == format!("{bucket}/{key}")));
    }
    assert!(!shown(text).contains('?'));
});
