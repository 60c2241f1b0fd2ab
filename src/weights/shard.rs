//! One file of tensors, memory-mapped and checked whole before anything is read from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::torch;
use crate::error::{Context, Error, Result};

/// A safetensors file (the length of its header in 8 bytes, little-endian, the header as JSON, the tensors), or a state
/// dict that `torch.save` wrote. Which of them says the file, not its name.
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Stored>,
    is_safetensors: bool,
}

/// What a tensor is, without its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Spec {
    pub fn new(dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in a file.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bitsize() / 8
    }
}

/// A tensor and where in the file it lies.
struct Stored {
    spec: Spec,
    range: Range<usize>,
}

impl Shard {
    /// The safetensors crate's own bound on a header.
    const MAX_HEADER: u64 = 100_000_000;

    /// Maps `path` and checks that the header is sound and describes exactly the bytes that follow it; of a state dict,
    /// that every tensor lies within its storage and every storage within the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata().context(|| format!("cannot read {}", path.display()))?.len();
        if length < 8 {
            return Err(truncated(path, format!("{length} bytes are too few for a header")));
        }
        // SAFETY: the map is only read. Files of the store are never written again, and a user who shortens a model
        // while a stage reads it gets a signal in the worker process, which the runner reports as a failed stage.
        let map = unsafe { Mmap::map(&file) }.context(|| format!("cannot map {}", path.display()))?;
        if map.starts_with(torch::ARCHIVE) {
            let tensors = torch::tensors(&map).map_err(|why| {
                Error::invalid(format!("{} is no state dict of torch that can be read", path.display()))
                    .hint("load it with torch, as far as you trust it, and save its tensors with `safetensors.torch.save_file`")
                    .caused_by(Error::new(why))
            })?;
            let tensors = tensors.into_iter().map(|(name, (spec, range))| (name, Stored { spec, range })).collect();
            return Ok(Self { path: path.to_owned(), map, tensors, is_safetensors: false });
        }
        if map.starts_with(torch::BARE) {
            return Err(Error::invalid(format!("{} is a pickle of torch before 1.6", path.display()))
                .hint("load it with a newer torch and save it again, best as safetensors"));
        }
        let header = u64::from_le_bytes(std::array::from_fn(|i| map[i]));
        if header > Self::MAX_HEADER || header > length - 8 {
            return Err(truncated(
                path,
                format!("its header claims {header} bytes, and the whole file has {length}"),
            ));
        }
        let start = 8 + header as usize;
        let metadata: Metadata = serde_json::from_slice(&map[8..start]).map_err(|error| {
            Error::invalid(format!("the header of {} is damaged", path.display()))
                .hint("get the file again, and compare its digest with the original's")
                .caused_by(error)
        })?;
        let (described, present) = (metadata.data_len() as u64, length - start as u64);
        if described != present {
            return Err(truncated(
                path,
                format!("its header describes {described} bytes of tensors, {present} follow"),
            ));
        }
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                (name, Stored { spec: Spec::new(info.dtype, info.shape.clone()), range })
            })
            .collect();
        Ok(Self { path: path.to_owned(), map, tensors, is_safetensors: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file can stay as it is where safetensors are wanted.
    pub(super) fn is_safetensors(&self) -> bool {
        self.is_safetensors
    }

    /// In name order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn spec(&self, name: &str) -> Option<&Spec> {
        self.tensors.get(name).map(|stored| &stored.spec)
    }

    /// Where in the file the tensor lies.
    pub(super) fn range(&self, name: &str) -> Option<Range<usize>> {
        self.tensors.get(name).map(|stored| stored.range.clone())
    }

    /// Row-major, little-endian; as long as [`Spec::bytes`] says.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|stored| &self.map[stored.range.clone()])
    }

    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// Hands out a range in pieces of at most 16 MiB (a multiple of any value's size), whose memory is given back when
    /// they are done with.
    pub(super) fn stream(&self, range: Range<usize>, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 16 << 20;
        for start in range.clone().step_by(PIECE) {
            let piece = start..(start + PIECE).min(range.end);
            each(self.slice(piece.clone()))?;
            self.release(piece);
        }
        Ok(())
    }

    /// [`Self::release`] of a tensor.
    pub fn release_tensor(&self, name: &str) {
        if let Some(stored) = self.tensors.get(name) {
            self.release(stored.range.clone());
        }
    }

    /// Takes pages that were read out of this process's memory; they come back from the file when they are read
    /// again. Without it, whoever walks through a model has all of it resident at the end.
    #[cfg(unix)]
    pub(super) fn release(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        // SAFETY: the map is shared, read-only and backed by a file, so that dropping its pages changes no byte that
        // can be seen through it: the kernel reads the same ones again. A refusal only costs memory.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }

    #[cfg(not(unix))]
    pub(super) fn release(&self, _: Range<usize>) {}
}

fn truncated(path: &Path, why: String) -> Error {
    Error::invalid(format!("{} is truncated or no safetensors file: {why}", path.display()))
        .hint("get the file again, and compare its size with the original's")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Shard> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, bytes).unwrap();
        Shard::open(&path)
    }

    const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    #[test]
    fn reads_what_a_sound_file_holds() {
        let shard = open(&file(HEADER, &[1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
        assert_eq!(shard.names().collect::<Vec<_>>(), ["w"]);
        assert_eq!(shard.spec("w").unwrap(), &Spec::new(Dtype::F32, [2]));
        assert_eq!(shard.bytes("w").unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn refuses_damaged_files_and_names_them() {
        let shape = r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#;
        let overflow = r#"{"w":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}}"#;
        let beyond = r#"{"w":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}"#;
        let hole = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
        let overlap = r#"{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        let backwards = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#;
        let negative = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}"#;
        let unknown = r#"{"w":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}"#;
        let twice = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
        let mut latin = HEADER.replace('w', "é").into_bytes();
        latin.retain(|byte| *byte != 0xc3);
        let latin = [&(latin.len() as u64).to_le_bytes()[..], &latin, &[0; 8]].concat();
        let mut huge = file(HEADER, &[0; 8]);
        huge[..8].copy_from_slice(&(Shard::MAX_HEADER + 1).to_le_bytes());
        let cases: [(&[u8], &str); 18] = [
            (&[], "0 bytes are too few"),
            (&[1, 2, 3], "3 bytes are too few"),
            (&[255; 16], "its header claims 18446744073709551615 bytes"),
            (&file(HEADER, &[0; 8])[..40], "and the whole file has 40"),
            (&file(HEADER, &[0; 7]), "its header describes 8 bytes of tensors, 7 follow"),
            (&file(HEADER, &[0; 9]), "its header describes 8 bytes of tensors, 9 follow"),
            (&file(shape, &[0; 8]), "is damaged"),
            (&file(overflow, &[0; 16]), "is damaged"),
            (&file(beyond, &[0; 16]), "describes 1152921504606846976 bytes"),
            (&file(hole, &[0; 16]), "is damaged"),
            (&file(overlap, &[0; 12]), "is damaged"),
            (&file(backwards, &[0; 8]), "is damaged"),
            (&file(negative, &[0; 8]), "is damaged: invalid value: integer `-8`"),
            (&file(unknown, &[0; 16]), "is damaged: unknown variant `F128`"),
            // The last of two counts, and leaves a hole.
            (&file(twice, &[0; 16]), "is damaged"),
            (&file("[1, 2]", &[]), "is damaged"),
            (&latin, "is damaged"),
            (&huge, "its header claims 100000001 bytes"),
        ];
        for (bytes, message) in cases {
            let error = open(bytes).err().unwrap();
            assert!(error.advice().is_some_and(|hint| hint.starts_with("get the file again")), "{error:?}");
            let error = error.one_line();
            assert!(error.contains("a.safetensors") && error.contains(message), "{error}");
        }
    }
}
