//! What the tests of the operations share: deterministic numbers, and the comparison with finite differences.

use candle_core::{Device, Shape, Tensor};

use super::{Stream, tensor, uniform};

/// Reproducible values in [−1, 1).
pub fn numbers(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    tensor(uniform(Stream::new(seed), shape.elem_count(), 1.0), shape).unwrap()
}

pub fn zeros(shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    tensor(vec![0.0; shape.elem_count()], shape).unwrap()
}

/// Σ a·b, in float64.
pub fn inner(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    flat(a).iter().zip(flat(b)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum()
}

/// Asserts that `analytic` is the derivative of `value` at x, element by element, against central differences.
pub fn gradient(name: &str, x: &Tensor, analytic: &Tensor, value: impl Fn(&Tensor) -> f64) {
    assert_eq!(x.dims(), analytic.dims(), "the gradient of {name} has another shape");
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let analytic = analytic.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let step = 4e-3;
    // Large tensors are sampled.
    for i in (0..values.len()).step_by(1 + values.len() / 400) {
        let at = |delta: f32| {
            let mut moved = values.clone();
            moved[i] += delta;
            value(&Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap())
        };
        let numeric = (at(step) - at(-step)) / (2.0 * f64::from(step));
        let difference = (numeric - f64::from(analytic[i])).abs();
        assert!(
            difference <= 2e-3 * (1.0 + numeric.abs()),
            "d/d{name}[{i}]: {} by hand, {numeric} by differences",
            analytic[i]
        );
    }
}
