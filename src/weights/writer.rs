//! Writing safetensors as a stream: the header is known first, then tensors pass through one after another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::Spec;
use super::checkpoint::Checkpoint;
use super::index::Index;
use crate::error::{Context, Error, Result};

/// One safetensors file in the making. Tensors come best in [`Self::order`], which is theirs in the file, but may come in
/// any; each may come in several pieces. The file is byte for byte what the safetensors library writes for the same
/// tensors.
pub struct ShardWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// What is still to come: where in the file, and how many bytes.
    pending: BTreeMap<String, (u64, usize)>,
    /// Where the next byte goes, unless another tensor begins.
    position: u64,
    /// Bytes that the tensor begun last still lacks.
    missing: usize,
}

impl ShardWriter {
    /// Creates the file and writes its header.
    pub fn create(path: &Path, tensors: &BTreeMap<String, Spec>) -> Result<Self> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0;
        let mut pending = BTreeMap::new();
        for name in Self::order(tensors) {
            let spec = &tensors[name];
            let end = offset + spec.bytes();
            let info = json!({ "dtype": spec.dtype, "shape": spec.shape, "data_offsets": [offset, end] });
            header.insert(name.to_owned(), info);
            pending.insert(name.to_owned(), (offset as u64, spec.bytes()));
            offset = end;
        }
        let mut header = Value::from(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        pending.values_mut().for_each(|(start, _)| *start += 8 + header.len() as u64);
        let file = File::create_new(path).context(|| format!("cannot create {}", path.display()))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer = Self { path: path.to_owned(), file, pending, position: 0, missing: 0 };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// The order of tensors in a file: wider types first (so that every tensor is aligned), then by name.
    pub fn order(tensors: &BTreeMap<String, Spec>) -> Vec<&str> {
        let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        names.sort_by(|a, b| tensors[*b].dtype.cmp(&tensors[*a].dtype));
        names
    }

    /// Starts a tensor of the header that has not come yet.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.complete()?;
        let Some((start, bytes)) = self.pending.remove(name) else {
            return Err(self.misuse(&format!("`{name}` is not in its header, or came twice")));
        };
        if start != self.position {
            self.file.seek(SeekFrom::Start(start)).context(|| format!("cannot write {}", self.path.display()))?;
            self.position = start;
        }
        self.missing = bytes;
        Ok(())
    }

    /// Bytes of the tensor begun last.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.missing.checked_sub(bytes.len()) {
            Some(missing) => self.missing = missing,
            None => return Err(self.misuse("a tensor has more bytes than its shape")),
        }
        self.put(bytes)
    }

    /// Checks that everything announced has come.
    pub fn finish(mut self) -> Result<()> {
        self.complete()?;
        if let Some(name) = self.pending.keys().next() {
            return Err(self.misuse(&format!("`{name}` is missing")));
        }
        self.file.flush().context(|| format!("cannot write {}", self.path.display()))
    }

    fn complete(&self) -> Result<()> {
        if self.missing > 0 {
            return Err(self.misuse(&format!("a tensor lacks {} bytes", self.missing)));
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        self.file.write_all(bytes).context(|| format!("cannot write {}", self.path.display()))
    }

    fn misuse(&self, why: &str) -> Error {
        Error::new(format!("cannot write {}: {why}", self.path.display()))
    }
}

/// How the tensors of a model are cut into files: greedily, in name order, as transformers does. The parts of a packed
/// matrix (`NAME`, `NAME.absmax`, …) stay together: whoever reads the matrix looks for them in the same file.
pub struct Layout {
    /// File name and tensors of each shard.
    pub files: Vec<(String, BTreeMap<String, Spec>)>,
}

impl Layout {
    /// A shard holds at most `max_shard_bytes`, or one tensor or packed matrix that is larger.
    pub fn new(tensors: BTreeMap<String, Spec>, max_shard_bytes: u64) -> Self {
        let mut shards: Vec<BTreeMap<String, Spec>> = vec![BTreeMap::new()];
        let mut size = 0;
        for group in groups(tensors) {
            let bytes: u64 = group.iter().map(|(_, spec)| spec.bytes() as u64).sum();
            if size > 0 && size + bytes > max_shard_bytes {
                shards.push(BTreeMap::new());
                size = 0;
            }
            size += bytes;
            if let Some(shard) = shards.last_mut() {
                shard.extend(group);
            }
        }
        let count = shards.len();
        let name = |i: usize| match count {
            1 => Checkpoint::SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        Self { files: shards.into_iter().enumerate().map(|(i, shard)| (name(i), shard)).collect() }
    }

    /// Writes every file, and the index if there is more than one; `fill` gives the tensors of a file to its writer.
    pub fn write_files(
        &self,
        folder: &Path,
        mut fill: impl FnMut(&BTreeMap<String, Spec>, &mut ShardWriter) -> Result<()>,
    ) -> Result<()> {
        let mut index = Index::default();
        let (mut bytes, mut elements) = (0, 0);
        for (file, tensors) in &self.files {
            let mut writer = ShardWriter::create(&folder.join(file), tensors)?;
            fill(tensors, &mut writer)?;
            writer.finish()?;
            for (name, spec) in tensors {
                index.weight_map.insert(name.to_owned(), file.clone());
                bytes += spec.bytes() as u64;
                elements += spec.elements() as u64;
            }
        }
        if self.files.len() > 1 {
            index.write(folder, bytes, elements)?;
        }
        Ok(())
    }

    /// The same, tensor by tensor; `write` gives the bytes of the tensor it is asked for, which is begun already.
    pub fn write(
        &self,
        folder: &Path,
        mut write: impl FnMut(&str, &Spec, &mut ShardWriter) -> Result<()>,
    ) -> Result<()> {
        self.write_files(folder, |tensors, writer| {
            ShardWriter::order(tensors).into_iter().try_for_each(|name| {
                writer.begin(name)?;
                write(name, &tensors[name], writer)
            })
        })
    }
}

/// Tensors in runs that stay together: one, and those whose names go on with a point where its name ends.
fn groups(tensors: BTreeMap<String, Spec>) -> Vec<Vec<(String, Spec)>> {
    let mut groups: Vec<Vec<(String, Spec)>> = Vec::new();
    for (name, spec) in tensors {
        match groups.last_mut() {
            Some(group) if name.strip_prefix(&group[0].0).is_some_and(|rest| rest.starts_with('.')) => {
                group.push((name, spec));
            }
            _ => groups.push(vec![(name, spec)]),
        }
    }
    groups
}

/// Writes tensors as `model-0000i-of-0000n.safetensors` with an index, or as one `model.safetensors`, in name order.
pub fn save(folder: &Path, tensors: &BTreeMap<String, Tensor>, max_shard_bytes: u64) -> Result<()> {
    let specs = tensors.iter().map(|(name, tensor)| (name.clone(), spec_of(tensor))).collect();
    Layout::new(specs, max_shard_bytes).write(folder, |name, _, writer| writer.write(&bytes_of(&tensors[name])?))
}

/// Writes tensors into one file.
pub(super) fn save_file(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let specs: BTreeMap<_, _> = tensors.iter().map(|(name, tensor)| (name.clone(), spec_of(tensor))).collect();
    let mut writer = ShardWriter::create(path, &specs)?;
    for name in ShardWriter::order(&specs) {
        writer.begin(name)?;
        writer.write(&bytes_of(&tensors[name])?)?;
    }
    writer.finish()
}

fn spec_of(tensor: &Tensor) -> Spec {
    Spec::new(Dtype::from(tensor.dtype()), tensor.dims())
}

/// The values of a tensor: row-major, little-endian.
pub fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    macro_rules! little_endian {
        ($type:ty) => {
            flat.to_vec1::<$type>()?.into_iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match tensor.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::F32 => little_endian!(f32),
        DType::BF16 => little_endian!(half::bf16),
        DType::F16 => little_endian!(half::f16),
        DType::F64 => little_endian!(f64),
        DType::U32 => little_endian!(u32),
        DType::I64 => little_endian!(i64),
        dtype => return Err(Error::new(format!("tensors of type {dtype:?} are not written"))),
    })
}
