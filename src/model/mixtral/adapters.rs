//! Going on with an adapter that is there: PEFT's, or our own.

use candle_core::{DType, Device};

use super::Mixtral;
use crate::error::{Error, Result};
use crate::model::linear::Lora;
use crate::model::ops::Stream;
use crate::model::parameter::Parameter;
use crate::weights::adapter::{Adapter, PREFIX};

impl Mixtral {
    /// Gives the model the adapter's matrices, and its weights in the place of those that it trained whole; then these are
    /// trained, and nothing else, as `PeftModel.from_pretrained(…, is_trainable=True)` does. `seed` is that of the masks
    /// of its dropout. A tensor that fits nothing here is an error.
    pub fn continue_adapter(&mut self, adapter: &Adapter, seed: u64) -> Result<()> {
        let wrong = |name: &str, why: String| {
            Error::invalid(format!(
                "the adapter {} does not fit the model: `{name}` {why}",
                adapter.folder().display()
            ))
            .hint("give the model that the adapter was trained on")
        };
        let load = |name: &str, shape: [Option<usize>; 2]| {
            let value = adapter.tensor(name, &Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
            let dims = value.dims().to_vec();
            let fits =
                dims.len() == 2 && dims.iter().zip(shape).all(|(found, size)| size.is_none_or(|s| s == *found));
            if fits { Ok(value) } else { Err(wrong(name, format!("has the shape {dims:?}"))) }
        };
        let mut used = std::collections::BTreeSet::new();
        for linear in self.linears_mut() {
            let module = linear.weight.module().to_owned();
            let [a_name, b_name] = ["A", "B"].map(|part| format!("{PREFIX}{module}.lora_{part}.weight"));
            if !adapter.contains(&a_name) || module == "lm_head" {
                continue;
            }
            let (out, input) = linear.weight.shape()?;
            let a = load(&a_name, [None, Some(input)])?;
            let rank = a.dim(0)?;
            let b = load(&b_name, [Some(out), Some(rank)])?;
            linear.lora = Some(Lora {
                a: Parameter::frozen(format!("{module}.lora_A.weight"), a),
                b: Parameter::frozen(format!("{module}.lora_B.weight"), b),
                scale: adapter.config.scale(&module, rank)? as f32,
                dropout: adapter.config.lora_dropout as f32,
                stream: Stream::new(seed).named("dropout").named(&module),
            });
            used.extend([a_name, b_name]);
        }
        let mut failure = None;
        self.visit_mut(&mut |parameter| {
            let name = format!("{PREFIX}{}", parameter.name);
            if failure.is_some() || !adapter.contains(&name) || used.contains(&name) {
                return;
            }
            let value = adapter
                .tensor(&name, &Device::Cpu)
                .and_then(|value| Ok(value.to_dtype(DType::F32)?.contiguous()?));
            match value {
                Ok(value) if value.dims() == parameter.value.dims() => parameter.value = value,
                Ok(value) => failure = Some(wrong(&name, format!("has the shape {:?}", value.dims()))),
                Err(error) => failure = Some(error),
            }
            used.insert(name);
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if let Some(name) = adapter.names().into_iter().find(|name| !used.contains(*name)) {
            return Err(wrong(name, "belongs to no weight that can be trained".to_owned()));
        }
        self.train_only(|name| used.contains(&format!("{PREFIX}{name}")));
        Ok(())
    }
}
