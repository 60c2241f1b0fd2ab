//! Causal attention with grouped queries, by blocks of query rows: never more than one block's scores in memory.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::matmul::Matrix;
use super::{View, dot, exp, maximum, sum, tensor, vectorised};
use crate::error::Result;

/// Query rows whose scores exist at one time.
const BLOCK: usize = 64;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub sequences: usize,
    /// Query positions per sequence: the last ones of the `keys` positions.
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    /// Divides `heads`; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Values of one head.
    pub width: usize,
    /// A query sees this many positions, itself the last; all before it when `None`.
    pub window: Option<usize>,
}

/// The result of a forward pass, kept for the backward pass.
pub struct Attention {
    /// [sequences · queries, heads · width]
    pub output: Tensor,
    /// ln Σ exp(score) of each query and head, [sequences · queries, heads].
    pub log_sums: Vec<f32>,
}

impl Shape {
    /// The keys that query `row` (counted from the first query) of a sequence sees. `documents` has the first key of each
    /// query's document.
    fn visible(&self, documents: Option<&[u32]>, row: usize) -> std::ops::Range<usize> {
        let end = self.keys - self.queries + row + 1;
        let window = self.window.map_or(0, |window| end.saturating_sub(window));
        window.max(documents.map_or(0, |documents| documents[row] as usize))..end
    }

    /// The keys that any query of `rows` sees. No later query sees more of the beginning.
    fn visible_to(&self, documents: Option<&[u32]>, rows: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.visible(documents, rows.start).start..self.visible(documents, rows.end - 1).end
    }

    /// The part of a batch's `documents` that belongs to a sequence.
    fn of_sequence<'a>(&self, documents: Option<&'a [u32]>, sequence: usize) -> Option<&'a [u32]> {
        documents.map(|documents| &documents[sequence * self.queries..][..self.queries])
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn query_width(&self) -> usize {
        self.heads * self.width
    }

    fn key_width(&self) -> usize {
        self.kv_heads * self.width
    }
}

impl Attention {
    /// softmax(q·kᵀ/√width)·v over the visible keys. q is [sequences · queries, heads · width], k and v are
    /// [sequences · keys, kv_heads · width]. `documents` [sequences · queries] has for every query the first key of its
    /// document, before which it sees nothing, not falling within a sequence; `None`: 0.
    pub fn forward(shape: Shape, documents: Option<&[u32]>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let (q, k, v) = (View::of(q)?, View::of(k)?, View::of(v)?);
        let (wide, narrow, width) = (shape.query_width(), shape.key_width(), shape.width);
        let mut output = vec![0f32; q.len()];
        let mut log_sums = vec![0f32; shape.sequences * shape.queries * shape.heads];
        let one_sequence = output
            .chunks_mut(shape.queries * wide)
            .zip(log_sums.chunks_mut(shape.queries * shape.heads))
            .enumerate()
            .flat_map(|(sequence, (output, sums))| {
                let blocks = output.chunks_mut(BLOCK * wide).zip(sums.chunks_mut(BLOCK * shape.heads));
                blocks.enumerate().map(move |(block, parts)| (sequence, block * BLOCK, parts))
            });
        let blocks: Vec<_> = one_sequence.collect();
        blocks.into_par_iter().for_each_init(Vec::new, |scores, (sequence, first, (output, sums))| {
            let rows = first..first + output.len() / wide;
            let documents = shape.of_sequence(documents, sequence);
            let seen = shape.visible_to(documents, &rows);
            scores.clear();
            scores.resize(rows.len() * seen.len(), 0f32);
            for head in 0..shape.heads {
                let at = (sequence * shape.queries + first) * wide + head * width;
                let q = Matrix::rows(&q[at..], rows.len(), width, wide);
                let at =
                    (sequence * shape.keys + seen.start) * narrow + head / (shape.heads / shape.kv_heads) * width;
                let k = Matrix::rows(&k[at..], seen.len(), width, narrow);
                let v = Matrix::rows(&v[at..], seen.len(), width, narrow);
                q.multiply(k.transposed(), shape.scale(), scores, seen.len(), false, Parallelism::None);
                for (row, scores) in rows.clone().zip(scores.chunks_exact_mut(seen.len())) {
                    let visible = shape.visible(documents, row);
                    let (start, end) = (visible.start - seen.start, visible.end - seen.start);
                    scores[..start].fill(0.0);
                    scores[end..].fill(0.0);
                    sums[(row - first) * shape.heads + head] = vectorised(|| softmax(&mut scores[start..end]));
                }
                Matrix::rows(scores, rows.len(), seen.len(), seen.len()).multiply(
                    v,
                    1.0,
                    &mut output[head * width..],
                    wide,
                    false,
                    Parallelism::None,
                );
            }
        });
        Ok(Self { output: tensor(output, (shape.sequences * shape.queries, wide))?, log_sums })
    }

    /// (dq, dk, dv) of `dy`, the gradient of the output.
    ///
    /// With P = softmax(S) recomputed from the kept sums, dP = dY·Vᵀ, and D = Σ P·dP of a row: dV = Pᵀ·dY,
    /// dS = P∘(dP − D)/√width, dQ = dS·K, dK = dSᵀ·Q. Where a query sees one key, dS is 0 to the bit. One task owns a
    /// key head and the query heads it serves, so nothing is shared.
    pub fn backward(
        &self,
        shape: Shape,
        documents: Option<&[u32]>,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (qs, ks, vs, dys) = (View::of(q)?, View::of(k)?, View::of(v)?, View::of(dy)?);
        let group = shape.heads / shape.kv_heads;
        let (wide, narrow, width) = (shape.query_width(), shape.key_width(), shape.width);
        let owned = group * width;
        let parts: Vec<[Vec<f32>; 3]> = (0..shape.sequences * shape.kv_heads)
            .into_par_iter()
            .map(|task| {
                let (sequence, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
                let mut dq = vec![0f32; shape.queries * owned];
                let mut dk = vec![0f32; shape.keys * width];
                let mut dv = vec![0f32; shape.keys * width];
                let (mut p, mut ds) = (Vec::new(), Vec::new());
                let documents = shape.of_sequence(documents, sequence);
                for first in (0..shape.queries).step_by(BLOCK) {
                    let rows = first..(first + BLOCK).min(shape.queries);
                    let seen = shape.visible_to(documents, &rows);
                    let (height, length) = (rows.len(), seen.len());
                    p.clear();
                    p.resize(height * length, 0f32);
                    ds.clear();
                    ds.resize(height * length, 0f32);
                    let at = (sequence * shape.keys + seen.start) * narrow + kv_head * width;
                    let k = Matrix::rows(&ks[at..], length, width, narrow);
                    let v = Matrix::rows(&vs[at..], length, width, narrow);
                    let (dk, dv) = (&mut dk[seen.start * width..], &mut dv[seen.start * width..]);
                    for member in 0..group {
                        let head = kv_head * group + member;
                        let at = (sequence * shape.queries + first) * wide + head * width;
                        let q = Matrix::rows(&qs[at..], height, width, wide);
                        let dy = Matrix::rows(&dys[at..], height, width, wide);
                        q.multiply(k.transposed(), shape.scale(), &mut p, length, false, Parallelism::None);
                        dy.multiply(v.transposed(), 1.0, &mut ds, length, false, Parallelism::None);
                        let pairs = p.chunks_exact_mut(length).zip(ds.chunks_exact_mut(length));
                        for (row, (p, ds)) in rows.clone().zip(pairs) {
                            let visible = shape.visible(documents, row);
                            let (start, end) = (visible.start - seen.start, visible.end - seen.start);
                            for values in [&mut *p, &mut *ds] {
                                values[..start].fill(0.0);
                                values[end..].fill(0.0);
                            }
                            let log_sum = self.log_sums[(sequence * shape.queries + row) * shape.heads + head];
                            vectorised(|| {
                                let (p, ds) = (&mut p[start..end], &mut ds[start..end]);
                                for p in p.iter_mut() {
                                    *p = exp(*p - log_sum);
                                }
                                let along = dot(p, ds);
                                for (p, ds) in p.iter().zip(ds) {
                                    *ds = p * (*ds - along);
                                }
                            });
                        }
                        let p = Matrix::rows(&p, height, length, length);
                        let ds = Matrix::rows(&ds, height, length, length);
                        let dq = &mut dq[first * owned + member * width..];
                        p.transposed().multiply(dy, 1.0, dv, width, true, Parallelism::None);
                        ds.multiply(k, shape.scale(), dq, owned, false, Parallelism::None);
                        ds.transposed().multiply(q, shape.scale(), dk, width, true, Parallelism::None);
                    }
                }
                [dq, dk, dv]
            })
            .collect();
        // From one buffer per key head to rows of all heads.
        let assemble = |part: usize, rows: usize, width: usize| {
            let row = shape.kv_heads * width;
            let mut values = vec![0f32; shape.sequences * rows * row];
            values.par_chunks_mut(row).enumerate().for_each(|(index, values)| {
                let (sequence, position) = (index / rows, index % rows);
                for (kv_head, values) in values.chunks_exact_mut(width).enumerate() {
                    let from = &parts[sequence * shape.kv_heads + kv_head][part];
                    values.copy_from_slice(&from[position * width..][..width]);
                }
            });
            tensor(values, (shape.sequences * rows, row))
        };
        Ok((assemble(0, shape.queries, owned)?, assemble(1, shape.keys, width)?, assemble(2, shape.keys, width)?))
    }
}

/// Turns scores into probabilities in place; returns ln Σ exp(score).
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let largest = maximum(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    let total = sum(scores.len(), |i| scores[i]);
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
    largest + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers};

    /// Attention as its definition states it, one query at a time, in float64.
    fn plain(shape: Shape, documents: Option<&[u32]>, q: &Tensor, k: &Tensor, v: &Tensor) -> Vec<f64> {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (q, k, v) = (flat(q), flat(k), flat(v));
        let (wide, narrow, width) = (shape.query_width(), shape.key_width(), shape.width);
        let mut y = vec![0f64; q.len()];
        for sequence in 0..shape.sequences {
            let documents = shape.of_sequence(documents, sequence);
            for row in 0..shape.queries {
                for head in 0..shape.heads {
                    let at = (sequence * shape.queries + row) * wide + head * width;
                    let key = |j: usize| {
                        (sequence * shape.keys + j) * narrow + head / (shape.heads / shape.kv_heads) * width
                    };
                    let weights: Vec<f64> = shape
                        .visible(documents, row)
                        .map(|j| {
                            let score: f64 =
                                (0..width).map(|i| f64::from(q[at + i]) * f64::from(k[key(j) + i])).sum();
                            (score / (width as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for (j, weight) in shape.visible(documents, row).zip(weights) {
                        for i in 0..width {
                            y[at + i] += weight / total * f64::from(v[key(j) + i]);
                        }
                    }
                }
            }
        }
        y
    }

    fn shapes() -> [Shape; 4] {
        let shape = Shape { sequences: 2, queries: 9, keys: 9, heads: 4, kv_heads: 2, width: 6, window: None };
        [
            shape,
            Shape { window: Some(3), ..shape },
            Shape { queries: 2, keys: 7, ..shape },
            Shape { sequences: 1, queries: 150, keys: 150, heads: 2, kv_heads: 1, width: 4, window: Some(70) },
        ]
    }

    fn inputs(shape: Shape) -> (Tensor, Tensor, Tensor, Tensor) {
        let (rows, columns) = (shape.sequences * shape.queries, shape.query_width());
        let (key_rows, key_columns) = (shape.sequences * shape.keys, shape.key_width());
        let q = (numbers((rows, columns), 1) * 2.0).unwrap();
        (q, numbers((key_rows, key_columns), 2), numbers((key_rows, key_columns), 3), numbers((rows, columns), 4))
    }

    /// No documents, and documents of a few lengths, other ones in every sequence.
    fn documents(shape: Shape) -> [Option<Vec<u32>>; 2] {
        let start = |at: usize| {
            let (sequence, key) = (at / shape.queries, shape.keys - shape.queries + at % shape.queries);
            let length = if shape.keys > 100 { 40 } else { [3, 5][sequence % 2] };
            (key / length * length) as u32
        };
        [None, Some((0..shape.sequences * shape.queries).map(start).collect())]
    }

    #[test]
    fn equals_its_definition() {
        for shape in shapes() {
            let (q, k, v, _) = inputs(shape);
            for documents in documents(shape) {
                let documents = documents.as_deref();
                let y = Attention::forward(shape, documents, &q, &k, &v).unwrap().output;
                let exact = plain(shape, documents, &q, &k, &v);
                for (a, b) in y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().zip(exact) {
                    assert!((f64::from(*a) - b).abs() < 2e-6, "{shape:?} {documents:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn gradients() {
        for shape in shapes() {
            let (q, k, v, dy) = inputs(shape);
            for documents in documents(shape) {
                let documents = documents.as_deref();
                let run =
                    |q: &Tensor, k: &Tensor, v: &Tensor| Attention::forward(shape, documents, q, k, v).unwrap();
                let (dq, dk, dv) = run(&q, &k, &v).backward(shape, documents, &q, &k, &v, &dy).unwrap();
                gradient("q", &q, &dq, |q| inner(&run(q, &k, &v).output, &dy));
                gradient("k", &k, &dk, |k| inner(&run(&q, k, &v).output, &dy));
                gradient("v", &v, &dv, |v| inner(&run(&q, &k, v).output, &dy));
            }
        }
    }
}
