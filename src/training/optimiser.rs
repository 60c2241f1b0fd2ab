//! AdamW with moments that can be saved, and clipping by the global norm.

use rayon::prelude::*;

use crate::error::Result;
use crate::model::ops::{self, View};
use crate::model::{Gradients, Parameter};

/// Values that one task takes, and whose squares are summed before the parts are.
const CHUNK: usize = 16 * 1024;

/// The constants of AdamW (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled; of the parameters that [`decays`] names.
    pub weight_decay: f64,
}

/// Whether weight decay applies to the parameter of that name: to all but norms (Mixtral has no biases), as in
/// transformers' Trainer. So to adapters, and to embedding and output, too.
pub fn decays(name: &str) -> bool {
    !name.ends_with("norm.weight")
}

/// The optimiser's state: two moments per trained parameter.
pub struct AdamW {
    adam: Adam,
    pub(super) first: Vec<Vec<f32>>,
    pub(super) second: Vec<Vec<f32>>,
}

impl AdamW {
    pub fn new(adam: Adam, parameters: &[&Parameter]) -> Self {
        let zeros = || parameters.iter().map(|parameter| vec![0f32; parameter.value.elem_count()]).collect();
        Self { adam, first: zeros(), second: zeros() }
    }

    /// Changes the parameters by their gradients times `scale`. `rate` is the learning rate of the parameter of that
    /// name; `done` steps were made before this one.
    ///
    /// As torch: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p·(1 − rate·decay) − rate/(1−β₁ᵗ) · m/(√(v/(1−β₂ᵗ)) + ε).
    pub fn step(
        &mut self,
        parameters: &[&Parameter],
        gradients: &mut Gradients,
        scale: f32,
        rate: impl Fn(&str) -> f64,
        done: u64,
    ) -> Result<()> {
        let Adam { beta1, beta2, epsilon, weight_decay } = self.adam;
        let time = (done + 1) as f64;
        let root = (1.0 - beta2.powf(time)).sqrt() as f32;
        let (b1, b2, epsilon) = (beta1 as f32, beta2 as f32, epsilon as f32);
        let (new1, new2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        for (index, parameter) in parameters.iter().enumerate() {
            let rate = rate(&parameter.name);
            let step = (rate / (1.0 - beta1.powf(time))) as f32;
            let keep = if decays(&parameter.name) { (1.0 - rate * weight_decay) as f32 } else { 1.0 };
            let (first, second) = (&mut self.first[index], &mut self.second[index]);
            let gradient = View::of(gradients.get(index)?)?;
            ops::modify(&parameter.value, |values| {
                values
                    .par_chunks_mut(CHUNK)
                    .zip(first.par_chunks_mut(CHUNK))
                    .zip(second.par_chunks_mut(CHUNK))
                    .zip(gradient.par_chunks(CHUNK))
                    .for_each(|(((p, m), v), g)| {
                        ops::vectorised(|| {
                            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                                let g = g * scale;
                                *m = b1 * *m + new1 * g;
                                *v = b2 * *v + new2 * g * g;
                                *p = *p * keep - step * *m / (v.sqrt() / root + epsilon);
                            }
                        });
                    });
            })?;
        }
        Ok(())
    }
}

/// √Σ‖g‖² over all gradients.
pub fn global_norm(gradients: &mut Gradients) -> Result<f64> {
    let mut total = 0f64;
    for index in 0..gradients.len() {
        let gradient = View::of(gradients.get(index)?)?;
        let parts: Vec<f64> = gradient.par_chunks(CHUNK).map(|part| f64::from(ops::square_sum(part))).collect();
        total += parts.iter().sum::<f64>();
    }
    Ok(total.sqrt())
}

/// What gradients are multiplied by so that their norm is at most `bound` (0: no bound), as torch's
/// `clip_grad_norm_`.
pub fn clipping(norm: f64, bound: f64) -> f32 {
    if bound <= 0.0 { 1.0 } else { (bound / (norm + 1e-6)).min(1.0) as f32 }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What `tests/golden/make_schedules.py` wrote.
    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/schedules.json")).unwrap()
    }

    /// Three steps of torch.optim.AdamW with groups of parameters that have rates and decays of their own.
    #[test]
    fn as_torch() {
        let golden = &golden()["adam"];
        let numbers = |value: &Value| serde_json::from_value::<Vec<f32>>(value.clone()).unwrap();
        let parameters: Vec<Parameter> = (0..3)
            .map(|at| {
                let start = ops::tensor(numbers(&golden["start"][at]), 2).unwrap();
                Parameter::frozen(golden["names"][at].as_str().unwrap(), start)
            })
            .collect();
        let parameters: Vec<&Parameter> = parameters.iter().collect();
        let adam = Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.5 };
        let mut optimiser = AdamW::new(adam, &parameters);
        let mut gradients = Gradients::of(&parameters).unwrap();
        for (done, step) in (0..).zip(golden["gradients"].as_array().unwrap()) {
            gradients.clear();
            for at in 0..3 {
                ops::modify(gradients.get(at).unwrap(), |g| g.copy_from_slice(&numbers(&step[at]))).unwrap();
            }
            let rate = |name: &str| if name.contains("embed") { 0.02 } else { 0.1 };
            optimiser.step(&parameters, &mut gradients, 1.0, rate, done).unwrap();
        }
        for (at, parameter) in parameters.iter().enumerate() {
            let ours = parameter.value.to_vec1::<f32>().unwrap();
            for (ours, torch) in ours.iter().zip(numbers(&golden["end"][at])) {
                assert!((ours - torch).abs() < 1e-6, "{}: {ours} {torch}", parameter.name);
            }
        }
    }

    /// The groups that transformers' Trainer makes of a Mixtral, trained whole or through adapters.
    #[test]
    fn decays_what_the_trainer_decays() {
        for method in ["full", "lora"] {
            let golden = golden()["decayed"][method].as_object().unwrap().clone();
            assert!(golden.len() >= 9);
            for (name, expected) in golden {
                assert_eq!(decays(&name), expected, "{name}");
            }
        }
    }

    #[test]
    fn clips_only_what_is_too_long() {
        assert_eq!(clipping(0.5, 1.0), 1.0);
        assert_eq!(clipping(4.0, 0.0), 1.0);
        assert!((clipping(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
