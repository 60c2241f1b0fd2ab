//! A model's linear layers packed to 4 bits, tensor by tensor.

use std::collections::BTreeMap;
use std::path::Path;

use super::expansion::{EMBEDDING, OUTPUT};
use super::nf4::{Packing, Stored};
use super::{Checkpoint, Layout, MAX_SHARD_BYTES, Spec, rewrite};
use crate::error::{Error, Result};

/// The module that stays whole among the linear layers, as in transformers.
pub const WHOLE: &str = "lm_head";

/// Whether a tensor of a Mixtral is the matrix of a linear layer that is packed: each but the output, the router's
/// gate included. The embedding is no linear layer.
pub fn is_packed(name: &str, spec: &Spec) -> bool {
    spec.shape.len() == 2 && name.ends_with(".weight") && ![EMBEDDING, OUTPUT].contains(&name)
}

/// A model, and how its matrices are packed.
pub struct Quantisation<'a> {
    base: &'a Checkpoint,
    packed: BTreeMap<&'a str, Stored>,
}

impl<'a> Quantisation<'a> {
    /// A model that is packed already, or has no linear layer, is an error, and so are matrices of other types than
    /// float32, bfloat16 and float16.
    pub fn new(base: &'a Checkpoint, packing: Packing) -> Result<Self> {
        let mut packed = BTreeMap::new();
        for name in base.names() {
            let spec = base.spec(name)?;
            if base.packed(name)?.is_some() {
                return Err(Error::invalid(format!("{} is quantised already", base.folder().display()))
                    .hint("give the model that it was made of"));
            }
            if is_packed(name, spec) {
                let stored = Stored::new(name, spec, packing).ok_or_else(|| {
                    Error::invalid(format!("`{name}` is stored as {}, not F32, BF16 or F16", spec.dtype))
                })?;
                packed.insert(name, stored);
            }
        }
        if packed.is_empty() {
            return Err(Error::invalid(format!("{} has no linear layer to pack", base.folder().display())));
        }
        Ok(Self { base, packed })
    }

    /// How many matrices are packed.
    pub fn count(&self) -> usize {
        self.packed.len()
    }

    /// Writes the model's tensors into `output`, those that are not packed bit by bit. `tick` is told the bytes of the
    /// model dealt with, and may stop the work. Memory is bounded by the largest matrix.
    pub fn write(&self, output: &Path, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut specs = BTreeMap::new();
        for name in self.base.names() {
            match self.packed.get(name) {
                Some(stored) => specs.extend(stored.specs()),
                None => drop(specs.insert(name.to_owned(), self.base.spec(name)?.clone())),
            }
        }
        Layout::new(specs, MAX_SHARD_BYTES).write_files(output, |tensors, writer| {
            // The parts of a matrix come when it is packed.
            for name in tensors.keys().filter(|name| self.base.contains(name)) {
                if let Some(stored) = self.packed.get(name.as_str()) {
                    let bytes = self.base.bytes(name)?;
                    stored.write(bytes, writer)?;
                    self.base.release(name);
                    tick(bytes.len() as u64)?;
                } else {
                    writer.begin(name)?;
                    rewrite::copy(self.base, name, writer, tick)?;
                }
            }
            Ok(())
        })
    }
}
