//! `export`: a model packed to 4 bits, as a folder that transformers loads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::model::Config;
use crate::weights::Checkpoint;
use crate::weights::expansion::EMBEDDING;
use crate::weights::nf4::{Compute, Packing, quantization_config};
use crate::weights::quantisation::{Quantisation, WHOLE};
use crate::weights::rewrite::{Companions, Sharing, share_companions};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The model to pack.
    model: Input,
    /// Values that share one scale: a power of two from 32 to 4096.
    block_size: usize,
    /// Whether the scales are packed as well, to 8 bits.
    double_quant: bool,
    /// What transformers computes in when it has loaded the folder.
    compute_dtype: Compute,
}

impl Stage for Export {
    const KIND: &'static str = "export";
    const REVISION: u32 = 1;

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::model(inputs.model(&self.model).map(|config| Config { packed: true, ..config })))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let packing = Packing::new(self.block_size, self.double_quant)?;
        let config = Config::open(self.model.path())?;
        let base = Checkpoint::open(self.model.path())?;
        let (found, said) = (base.shape(EMBEDDING)?, [config.vocab_size, config.hidden_size]);
        if found != said {
            return Err(Error::invalid(format!(
                "`{EMBEDDING}` of {} has the shape {found:?}; config.json says {said:?}",
                base.folder().display()
            ))
            .hint("give the folder as it was written: its config.json belongs to another model, or was edited"));
        }
        let quantisation = Quantisation::new(&base, packing)?;
        let before = base.bytes_in_all();
        let progress = work.progress("packing", Some(before), Unit::Bytes);
        quantisation.write(work.output(), &mut |bytes| {
            progress.add(bytes);
            work.check()
        })?;
        progress.finish();

        let config = quantization_config(packing, self.compute_dtype, &[WHOLE]);
        let sharing = Sharing::of(&self.model.from);
        share_companions(base.folder(), work.output(), sharing, Companions::ExceptConfig)?;
        let path = base.folder().join("config.json");
        let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        let mut whole: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(format!("{} is not valid JSON", path.display())).caused_by(error))?;
        whole["quantization_config"] = config;
        let path = work.output().join("config.json");
        std::fs::write(&path, format!("{whole:#}\n")).context(|| format!("cannot write {}", path.display()))?;

        work.metric("matrices_packed", quantisation.count());
        work.metric("bytes_before", before);
        work.metric("bytes", Checkpoint::open(work.output())?.bytes_in_all());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use candle_core::{Device, Tensor};
    use serde_json::json;

    use super::*;
    use crate::model::fixture::{tiny_config, write_model};
    use crate::model::{Mixtral, Storage};

    fn export(model: &Path, output: &Path, block_size: usize, double_quant: bool) -> Result<()> {
        std::fs::create_dir(output).unwrap();
        let mut work = Work::new(output.into(), output.join("none"), 2, Box::new(std::io::sink()), Arc::default());
        let parameters = json!({
            "model": input("@model", model), "block_size": block_size, "double_quant": double_quant,
            "compute_dtype": "float16"
        });
        crate::stages::kind("export").unwrap().run(parameters, &mut work)
    }

    fn input(from: &str, path: &Path) -> Value {
        json!({ "from": from, "path": path })
    }

    fn logits(model: &Mixtral) -> Vec<f32> {
        let ids = Tensor::new(&[[1u32, 5, 9, 13, 2, 7, 39]], &Device::Cpu).unwrap();
        model.forward(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_folder_opens_as_the_model_packed_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("model")).unwrap();
        write_model(&path("model"), &tiny_config());
        std::fs::write(path("model/tokenizer_config.json"), "{}").unwrap();
        export(&path("model"), &path("plain"), 64, false).unwrap();
        let nf4 = |module: &str| if module == "lm_head" { Storage::Float32 } else { Storage::Nf4 };
        let packed = Mixtral::open_as(&path("model"), &Device::Cpu, nf4).unwrap();
        let opened = Mixtral::open(&path("plain"), &Device::Cpu).unwrap();
        assert!(opened.is_packed());
        assert_eq!(logits(&opened), logits(&packed));
        // Packing what is packed changes nothing.
        assert_eq!(logits(&Mixtral::open_as(&path("plain"), &Device::Cpu, nf4).unwrap()), logits(&packed));

        export(&path("model"), &path("double"), 64, true).unwrap();
        let double = logits(&Mixtral::open(&path("double"), &Device::Cpu).unwrap());
        assert_ne!(double, logits(&packed));
        let largest = logits(&packed).iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (a, b) in double.iter().zip(logits(&packed)) {
            assert!((a - b).abs() < 0.05 * largest, "{a} {b}");
        }

        let mut names: Vec<_> =
            std::fs::read_dir(path("plain")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer_config.json"]);
        let config: Value = serde_json::from_slice(&std::fs::read(path("double/config.json")).unwrap()).unwrap();
        assert_eq!(config["vocab_size"], tiny_config()["vocab_size"]);
        let quantisation = &config["quantization_config"];
        assert_eq!(quantisation["bnb_4bit_use_double_quant"], true);
        assert_eq!(quantisation["bnb_4bit_compute_dtype"], "float16");
        assert_eq!(quantisation["llm_int8_skip_modules"], json!(["lm_head"]));

        // All linear layers but the output: 4 + 1 + 4 × 3 in each of 3 layers.
        let checkpoint = Checkpoint::open(&path("double")).unwrap();
        let packed = checkpoint.names().into_iter().filter(|name| checkpoint.packed(name).unwrap().is_some());
        assert_eq!(packed.count(), 3 * 17);
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("model")).unwrap();
        write_model(&path("model"), &tiny_config());
        let error = export(&path("model"), &path("48"), 48, false).unwrap_err();
        assert_eq!(error.message(), "a block of 48 values; it must be a power of two, 32 to 4096");
        export(&path("model"), &path("plain"), 32, false).unwrap();
        let error = export(&path("plain"), &path("again"), 32, false).unwrap_err();
        assert!(error.one_line().ends_with("plain is quantised already"), "{error:?}");
        let mut config = tiny_config();
        config["architectures"] = json!(["LlamaForCausalLM"]);
        std::fs::write(path("model/config.json"), config.to_string()).unwrap();
        let error = export(&path("model"), &path("llama"), 64, false).unwrap_err();
        assert!(error.one_line().contains("only MixtralForCausalLM is known here"), "{error:?}");
    }
}
