//! The layer against finite differences: held in float32, in bfloat16 and in 4 bits, plain and with an adapter whose input is dropped.

use super::*;
use crate::model::Nf4;
use crate::model::ops::Half;
use crate::model::ops::check::{gradient, inner, numbers};

const PASS: fn() -> Pass = || Pass::new(3, 5);

/// What a layer is made of: W [6, 70], and A [3, 70] and B [6, 3] of the adapter.
#[derive(Clone)]
struct Parts {
    weight: Tensor,
    a: Tensor,
    b: Tensor,
}

fn parts() -> Parts {
    Parts { weight: numbers((6, 70), 1), a: numbers((3, 70), 2), b: numbers((6, 3), 3) }
}

fn trained(name: &str, value: &Tensor, index: usize) -> Parameter {
    Parameter { name: name.to_owned(), value: value.clone(), index: Some(index) }
}

fn layer(parts: &Parts, storage: Storage, adapted: bool) -> Linear {
    let mut linear = Linear::new(match storage {
        Storage::Float32 => Weight::Dense(trained("w", &parts.weight, 0)),
        Storage::Bfloat16 => Weight::Frozen("w".into(), Box::new(Half::of(&parts.weight).unwrap())),
        Storage::Nf4 => Weight::Frozen("w".into(), Box::new(Nf4::quantise(&parts.weight).unwrap())),
    });
    linear.lora = adapted.then(|| Lora {
        a: trained("a", &parts.a, 1),
        b: trained("b", &parts.b, 2),
        scale: 0.7,
        dropout: 0.3,
        stream: Stream::new(11),
    });
    linear
}

#[test]
fn gradients() {
    let (parts, x, dy) = (parts(), numbers((5, 70), 4), numbers((5, 6), 5));
    let storages = [Storage::Float32, Storage::Bfloat16, Storage::Nf4];
    for (storage, adapted) in storages.into_iter().flat_map(|storage| [(storage, false), (storage, true)]) {
        let linear = layer(&parts, storage, adapted);
        let (_, between) = linear.forward(&x, Some(PASS())).unwrap();
        let all = [("w", &parts.weight), ("a", &parts.a), ("b", &parts.b)];
        let buffers: Vec<Parameter> = all.iter().enumerate().map(|(i, (name, v))| trained(name, v, i)).collect();
        let mut gradients = Gradients::of(&buffers.iter().collect::<Vec<_>>()).unwrap();
        let dx = ops::zeros((5, 70)).unwrap();
        linear.backward((&x, between.as_ref()), &dy, Some(PASS()), &gradients, &dx, false).unwrap();

        let value = |parts: &Parts, x: &Tensor| {
            inner(&layer(parts, storage, adapted).forward(x, Some(PASS())).unwrap().0, &dy)
        };
        gradient("x", &x, &dx, |x| value(&parts, x));
        let zero = |tensor: &Tensor| inner(tensor, tensor) == 0.0;
        if storage != Storage::Float32 {
            assert!(zero(gradients.get(0).unwrap()), "such weights are frozen");
        } else {
            let with = |weight: &Tensor| value(&Parts { weight: weight.clone(), ..parts.clone() }, &x);
            gradient("weight", &parts.weight, gradients.get(0).unwrap(), with);
        }
        if adapted {
            let with = |a: &Tensor| value(&Parts { a: a.clone(), ..parts.clone() }, &x);
            gradient("a", &parts.a, gradients.get(1).unwrap(), with);
            let with = |b: &Tensor| value(&Parts { b: b.clone(), ..parts.clone() }, &x);
            gradient("b", &parts.b, gradients.get(2).unwrap(), with);
        } else {
            assert!(zero(gradients.get(1).unwrap()) && zero(gradients.get(2).unwrap()));
        }
    }
}

#[test]
fn a_frozen_layer_passes_the_gradient_on_and_keeps_none() {
    let (parts, x, dy) = (parts(), numbers((5, 70), 4), numbers((5, 6), 5));
    let mut linear = layer(&parts, Storage::Float32, false);
    linear.visit_mut(&mut |parameter| parameter.index = None);
    let gradients = Gradients::of(&[]).unwrap();
    let dx = ops::zeros((5, 70)).unwrap();
    linear.backward((&x, None), &dy, None, &gradients, &dx, false).unwrap();
    gradient("x", &x, &dx, |x| inner(&linear.forward(x, None).unwrap().0, &dy));
}
