//! State dicts that `torch.save` wrote (`pytorch_model.bin`): a zip archive of a pickle and of the tensors' values, which
//! are not compressed and so can be mapped.

mod pickle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::Spec;
use crate::guard::guarded;
use pickle::{Machine, Tensor};

/// The longest pickle that is read: that of several hundred thousand tensors.
const MAX_PICKLE: usize = 64 << 20;

/// How a file of torch begins: an archive, or since before torch 1.6 a bare pickle of protocol 2.
pub(super) const ARCHIVE: &[u8] = b"PK\x03\x04";
pub(super) const BARE: &[u8] = b"\x80\x02";

/// The tensors of a state dict by name, and where in the file their values lie: row-major, little-endian. The error says
/// what is wrong with the file.
pub(super) fn tensors(file: &[u8]) -> Result<BTreeMap<String, (Spec, Range<usize>)>, String> {
    let entries = entries(file)?;
    let mut pickles = entries.iter().filter_map(|(name, range)| Some((name.strip_suffix("data.pkl")?, range)));
    let (root, pickle) = match (pickles.next(), pickles.next()) {
        (Some((root, range)), None) => (root, &file[range.clone()]),
        (None, _) => return Err("it holds no `data.pkl`".to_owned()),
        (Some(_), Some(_)) => return Err("it holds more than one `data.pkl`".to_owned()),
    };
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && file[order.clone()] != *b"little"
    {
        return Err("its values are not little-endian".to_owned());
    }
    if pickle.len() > MAX_PICKLE {
        return Err(format!("its pickle has {} bytes, more than {MAX_PICKLE}", pickle.len()));
    }
    let (machine, described) = Machine::run(pickle)?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in described {
        let wrong = |why: String| format!("`{name}` in it {why}");
        let (spec, within) = place(&machine, &tensor).map_err(wrong)?;
        let key = tensor.storage.key;
        let storage = entries
            .get(&format!("{root}data/{key}"))
            .filter(|storage| within.end <= storage.len())
            .ok_or_else(|| wrong(format!("lies in the storage `{key}`, which is missing or too short")))?;
        let range = storage.start + within.start..storage.start + within.end;
        if tensors.insert(name.to_owned(), (spec, range)).is_some() {
            return Err(wrong("comes twice".to_owned()));
        }
    }
    Ok(tensors)
}

/// The entries of the archive, and where in the file they lie.
fn entries(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let read = || -> Result<BTreeMap<String, Range<usize>>, String> {
        let damaged = |error: zip::result::ZipError| format!("its archive is damaged: {error}");
        let mut archive = ZipArchive::new(Cursor::new(file)).map_err(damaged)?;
        let mut entries = BTreeMap::new();
        for number in 0..archive.len() {
            let entry = archive.by_index_raw(number).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                return Err(format!("`{name}` in it is compressed or encrypted, as torch never writes it"));
            }
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let size = usize::try_from(entry.size()).ok();
            let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
            let range = range.filter(|range| range.end <= file.len()).ok_or("its archive is damaged")?;
            if entries.insert(name.clone(), range).is_some() {
                return Err(format!("it holds `{name}` twice"));
            }
        }
        Ok(entries)
    };
    guarded(read).map_err(|gave_up| format!("its archive is damaged: {gave_up}"))?
}

/// Type and shape of a tensor, and the bytes of its storage that hold it.
fn place(machine: &Machine, tensor: &Tensor) -> Result<(Spec, Range<usize>), String> {
    let (shape, strides) = machine.layout(tensor)?;
    let storage = tensor.storage;
    let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let elements = elements.ok_or_else(|| format!("has the shape {shape:?}, which is too large"))?;
    // Row-major: each stride is the product of the sizes behind it. A size of 1 is never stepped over.
    let mut stride = 1;
    let row_major = shape.len() == strides.len()
        && shape.iter().zip(&strides).rev().all(|(size, found)| {
            let fits = *size == 1 || *found == stride;
            stride = stride.saturating_mul(*size);
            fits
        });
    if elements > 0 && !row_major {
        return Err(format!(
            "is stored out of order (shape {shape:?}, strides {strides:?}); save it `.contiguous()`"
        ));
    }
    let start = usize::try_from(tensor.offset).map_err(|_| format!("begins at {}", tensor.offset))?;
    let end = start.checked_add(elements).filter(|end| i64::try_from(*end).is_ok_and(|end| end <= storage.count));
    let size = storage.dtype.bitsize() / 8;
    let range = end.and_then(|end| Some(start.checked_mul(size)?..end.checked_mul(size)?));
    let range = range.ok_or_else(|| format!("goes beyond its storage of {} values", storage.count))?;
    Ok((Spec::new(storage.dtype, shape), range))
}
