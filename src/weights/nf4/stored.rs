//! Packed matrices in a checkpoint, as bitsandbytes lays them out.
//!
//! | tensor                                  | type and shape                       |                                   |
//! |-----------------------------------------|--------------------------------------|-----------------------------------|
//! | `NAME`                                  | U8 [⌈values / 2⌉, 1]                 | the codes                         |
//! | `NAME.absmax`                           | F32 [blocks]; nested U8              | the scales                        |
//! | `NAME.quant_map`                        | F32 [16]                             | the codebook                      |
//! | `NAME.nested_absmax`                    | F32 [⌈blocks / 256⌉]                 | nested only                       |
//! | `NAME.nested_quant_map`                 | F32 [256]                            | nested only                       |
//! | `NAME.quant_state.bitsandbytes__nf4`    | U8 [bytes]                           | JSON: block size, type, shape, …  |

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde::Deserialize;

use super::codebook::CODEBOOK;
use super::scales::{self, Nested, Scales};
use super::{Matrix, Packing};
use crate::error::{Context, Error, Result};
use crate::weights::float::python_float;
use crate::weights::{Checkpoint, Float, ShardWriter, Spec};

const STATE: &str = "quant_state.bitsandbytes__nf4";

/// The longest text of a finite number in a state: sign, 17 digits, point, exponent.
const NUMBER: usize = 24;

/// The tensors of one packed matrix, known before it is packed.
pub struct Stored {
    name: String,
    shape: (usize, usize),
    float: Float,
    packing: Packing,
}

/// `quant_state.bitsandbytes__nf4`.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

impl Stored {
    /// The tensors of the matrix called `name`, which is whole as `spec` says. `None` if that is no matrix of floats.
    pub fn new(name: &str, spec: &Spec, packing: Packing) -> Option<Self> {
        let &[rows, columns] = spec.shape.as_slice() else { return None };
        Some(Self { name: name.to_owned(), shape: (rows, columns), float: Float::of(spec.dtype)?, packing })
    }

    /// Types and shapes, by name.
    pub fn specs(&self) -> BTreeMap<String, Spec> {
        let values = self.shape.0 * self.shape.1;
        let blocks = values.div_ceil(self.packing.block);
        let mut specs = BTreeMap::from([
            (self.name.clone(), Spec::new(Dtype::U8, [values.div_ceil(2), 1])),
            (self.part("quant_map"), Spec::new(Dtype::F32, [CODEBOOK.len()])),
            (self.part(STATE), Spec::new(Dtype::U8, [self.state(None).len()])),
        ]);
        let absmax = if self.packing.double {
            specs.insert(self.part("nested_absmax"), Spec::new(Dtype::F32, [blocks.div_ceil(Nested::BLOCK)]));
            specs.insert(self.part("nested_quant_map"), Spec::new(Dtype::F32, [scales::MAP.len()]));
            Dtype::U8
        } else {
            Dtype::F32
        };
        specs.insert(self.part("absmax"), Spec::new(absmax, [blocks]));
        specs
    }

    /// Packs and writes the matrix; `bytes` are its values as stored.
    pub fn write(&self, bytes: &[u8], writer: &mut ShardWriter) -> Result<()> {
        let matrix = Matrix::pack_stored(self.shape, self.float, self.packing, bytes)
            .context(|| format!("cannot pack `{}`", self.name))?;
        let mut put = |name: &str, bytes: &[u8]| {
            writer.begin(name)?;
            writer.write(bytes)
        };
        let floats = |values: &[f32]| Float::F32.narrow(values);
        put(&self.name, &matrix.codes)?;
        put(&self.part("quant_map"), &floats(&CODEBOOK))?;
        match &matrix.scales {
            Scales::Plain(scales) => {
                put(&self.part("absmax"), &floats(scales))?;
                put(&self.part(STATE), self.state(None).as_bytes())
            }
            Scales::Nested(nested) => {
                put(&self.part("absmax"), &nested.codes)?;
                put(&self.part("nested_absmax"), &floats(&nested.absmax))?;
                put(&self.part("nested_quant_map"), &floats(&nested.map))?;
                put(&self.part(STATE), self.state(Some(nested.offset)).as_bytes())
            }
        }
    }

    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// The JSON, spaced as Python writes it. Where it holds the offset of double quantisation, which is only known when
    /// the matrix is packed, spaces at its end make up for the digits that the number does not have.
    fn state(&self, offset: Option<f32>) -> String {
        let (block, (rows, columns), dtype) = (self.packing.block, self.shape, self.float.name());
        let plain = format!(
            r#"{{"quant_type": "nf4", "blocksize": {block}, "dtype": "{dtype}", "shape": [{rows}, {columns}]"#
        );
        if !self.packing.double {
            return plain + "}";
        }
        let offset = python_float(offset.unwrap_or(0.0).into());
        let nested = Nested::BLOCK;
        let text = format!(
            r#"{plain}, "nested_blocksize": {nested}, "nested_dtype": "float32", "nested_offset": {offset}}}"#
        );
        let length = text.len() - offset.len() + NUMBER;
        format!("{text:length$}")
    }
}

/// How a matrix is packed, its shape, and the type of its values.
type Packed = (State, (usize, usize), Float);

impl Checkpoint {
    /// Types and shapes of all tensors by name; of those that are stored packed, as they are when unpacked.
    pub fn unpacked_specs(&self) -> Result<BTreeMap<String, Spec>> {
        let mut specs: BTreeMap<String, Spec> = BTreeMap::new();
        let mut packed = String::new();
        for name in self.names() {
            // In name order, the parts of a packed matrix follow it.
            if !packed.is_empty() && name.starts_with(&packed) {
                continue;
            }
            let spec = match self.state(name)? {
                Some((_, shape, float)) => {
                    packed = format!("{name}.");
                    Spec::new(float.dtype(), [shape.0, shape.1])
                }
                None => self.spec(name)?.clone(),
            };
            specs.insert(name.to_owned(), spec);
        }
        Ok(specs)
    }

    /// How the matrix of that name is packed; `None` if it is stored whole.
    fn state(&self, name: &str) -> Result<Option<Packed>> {
        let part = |part: &str| format!("{name}.{part}");
        if !self.contains(&part(STATE)) {
            for other in ["quant_state.bitsandbytes__fp4", "absmax", "quant_map"] {
                if self.contains(&part(other)) {
                    return Err(Error::invalid(format!(
                        "`{name}` of {} is packed, but has no `{STATE}`",
                        self.folder().display()
                    ))
                    .hint("of bitsandbytes' 4-bit types only NF4 is known here"));
                }
            }
            return Ok(None);
        }
        let state = State::parse(self.bytes(&part(STATE))?).map_err(|why| self.unreadable(name, why))?;
        let (shape, float) = state.check().map_err(|why| self.unreadable(name, why))?;
        Ok(Some((state, shape, float)))
    }

    fn unreadable(&self, name: &str, why: String) -> Error {
        Error::invalid(format!("`{name}` of {} is packed in a way that cannot be read", self.folder().display()))
            .caused_by(Error::new(why))
    }

    /// The matrix of that name if it is stored packed, `None` if it is stored whole. Parts that are missing or do not fit
    /// each other, and other ways of packing, are errors.
    pub fn packed(&self, name: &str) -> Result<Option<Matrix>> {
        let Some((state, shape, float)) = self.state(name)? else { return Ok(None) };
        let part = |part: &str| format!("{name}.{part}");
        let wrong = |why: String| self.unreadable(name, why);
        let values = shape.0 * shape.1;
        let blocks = values.div_ceil(state.blocksize);
        let floats = |part: &str, count: usize| -> Result<Vec<f32>> {
            let name = format!("{name}.{part}");
            let spec = self.spec(&name)?;
            if spec.dtype != Dtype::F32 || spec.elements() != count {
                let (dtype, shape) = (spec.dtype, &spec.shape);
                return Err(wrong(format!("its `{part}` is {dtype} {shape:?}, not {count} times F32")));
            }
            Ok(Float::F32.widen(self.bytes(&name)?))
        };
        // The codes may be stored under any type (`bnb_4bit_quant_storage`): their bytes are what counts.
        let bytes = |name: &str, what: &str, count: usize| -> Result<Vec<u8>> {
            let bytes = self.bytes(name)?;
            if bytes.len() != count {
                return Err(wrong(format!("its {what} are {} bytes, not {count}", bytes.len())));
            }
            Ok(bytes.to_vec())
        };
        if floats("quant_map", CODEBOOK.len())? != CODEBOOK {
            return Err(wrong("its `quant_map` is not that of NF4".to_owned()));
        }
        let scales = match state.nested().map_err(wrong)? {
            None => Scales::Plain(floats("absmax", blocks)?),
            Some((block, offset)) => Scales::Nested(Nested {
                codes: bytes(&part("absmax"), "scales", blocks)?,
                absmax: floats("nested_absmax", blocks.div_ceil(block))?,
                block,
                map: floats("nested_quant_map", 256)?,
                offset,
            }),
        };
        let codes = bytes(name, "codes", values.div_ceil(2))?;
        Ok(Some(Matrix { shape, float, block: state.blocksize, codes, scales }))
    }
}

impl State {
    fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text)
            .map_err(|error| format!("its `{STATE}` is not what bitsandbytes writes: {error}"))
    }

    /// Shape and type of the matrix.
    fn check(&self) -> Result<((usize, usize), Float), String> {
        if self.quant_type != "nf4" {
            return Err(format!("its type is `{}`, not `nf4`", self.quant_type));
        }
        Packing::new(self.blocksize, false).map_err(|error| error.one_line())?;
        let float = Float::named(&self.dtype).ok_or_else(|| format!("it holds values of type `{}`", self.dtype))?;
        match *self.shape.as_slice() {
            [rows, columns] if rows.checked_mul(columns).is_some() => Ok(((rows, columns), float)),
            _ => Err(format!("its shape is {:?}, not that of a matrix", self.shape)),
        }
    }

    /// Block size and offset of double quantisation.
    fn nested(&self) -> Result<Option<(usize, f32)>, String> {
        match (self.nested_blocksize, &self.nested_dtype, self.nested_offset) {
            (None, None, None) => Ok(None),
            (Some(block @ 1..), Some(dtype), Some(offset)) if dtype == "float32" => {
                Ok(Some((block, offset as f32)))
            }
            (block, dtype, offset) => Err(format!(
                "its scales are packed in blocks of {block:?}, of type {dtype:?}, with the offset {offset:?}"
            )),
        }
    }
}
