//! Matrix products by the `gemm` crate, the one candle uses, with a destination that can be added to.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{View, modify};
use crate::error::{Error, Result};

/// A matrix inside a slice: element (i, j) is at `i · row_stride + j · column_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values that begin every `stride` values.
    pub fn rows(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// One more than the largest offset that is read.
    fn extent(&self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1,
        }
    }

    /// `destination` ← `alpha` · self · `right` (+ `destination` if `add`). The destination has rows that begin every
    /// `stride` values. How many threads share the work does not change the bits: `gemm` cuts the inner dimension by
    /// the shape and the processor's caches alone.
    ///
    /// # Panics
    /// If the shapes do not fit each other or their slices.
    pub fn multiply(
        self,
        right: Matrix,
        alpha: f32,
        destination: &mut [f32],
        stride: usize,
        add: bool,
        parallelism: Parallelism,
    ) {
        let (m, n, k) = (self.rows, right.columns, self.columns);
        if m == 0 || n == 0 {
            return;
        }
        assert_eq!(k, right.rows, "the inner dimensions differ");
        assert!(self.extent() <= self.values.len() && right.extent() <= right.values.len());
        assert!(stride >= n && (m - 1) * stride + n <= destination.len());
        // SAFETY: the assertions above keep every address that `gemm` forms, for m × k, k × n and m × n elements with
        // these strides, inside the three slices; the destination is borrowed mutably, so nothing overlaps it; and
        // its rows do not overlap each other (stride ≥ n).
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                destination.as_mut_ptr(),
                1,
                stride as isize,
                add,
                self.values.as_ptr(),
                self.column_stride as isize,
                self.row_stride as isize,
                right.values.as_ptr(),
                right.column_stride as isize,
                right.row_stride as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

thread_local! {
    /// How many threads a product called on this thread takes; `None`: all.
    static SHARE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Runs a task whose products take `threads` threads each: for tasks that run beside each other and would only get into
/// each other's way. The bits are the same.
pub fn on_threads<R>(threads: usize, task: impl FnOnce() -> R) -> R {
    struct Restore(Option<usize>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SHARE.set(self.0);
        }
    }
    let _restore = Restore(SHARE.replace(Some(threads)));
    task()
}

/// The threads of the current rayon pool, or this task's share of them.
fn threads() -> usize {
    let all = rayon::current_num_threads();
    SHARE.get().map_or(all, |share| share.clamp(1, all))
}

fn parallelism() -> Parallelism {
    match threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    }
}

/// A contiguous tensor [rows, columns], or the transpose of one, as a slice and a description.
struct Operand<'a> {
    view: View<'a>,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Operand<'a> {
    fn of(tensor: &'a Tensor, transposed: bool) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        Ok(Self { view: View::of(tensor)?, rows, columns, transposed })
    }

    fn matrix(&self) -> Matrix<'_> {
        let matrix = Matrix::rows(&self.view, self.rows, self.columns, self.columns);
        if self.transposed { matrix.transposed() } else { matrix }
    }
}

/// The product of `left` and `right` [m, n]; each is a contiguous matrix, taken transposed where its flag says so.
pub fn product((left, lt): (&Tensor, bool), (right, rt): (&Tensor, bool)) -> Result<Tensor> {
    let (left, right) = (Operand::of(left, lt)?, Operand::of(right, rt)?);
    let (left, right) = (left.matrix(), right.matrix());
    fit(left, right)?;
    let (m, n) = (left.rows, right.columns);
    let mut values = vec![0f32; m * n];
    left.multiply(right, 1.0, &mut values, n, false, parallelism());
    super::tensor(values, (m, n))
}

/// `destination` ← `alpha` · left · right (+ `destination` if `add`), in place.
pub fn add_product(
    destination: &Tensor,
    alpha: f32,
    add: bool,
    (left, lt): (&Tensor, bool),
    (right, rt): (&Tensor, bool),
) -> Result<()> {
    struct Multiply<'a> {
        left: Matrix<'a>,
        right: Matrix<'a>,
        alpha: f32,
        add: bool,
    }
    impl InplaceOp1 for Multiply<'_> {
        fn name(&self) -> &'static str {
            "add-product"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            match (storage, layout.contiguous_offsets()) {
                (CpuStorage::F32(values), Some((start, end))) => {
                    let n = self.right.columns;
                    self.left.multiply(self.right, self.alpha, &mut values[start..end], n, self.add, parallelism());
                    Ok(())
                }
                _ => candle_core::bail!("only a contiguous float32 tensor can be added to"),
            }
        }
    }
    let (left, right) = (Operand::of(left, lt)?, Operand::of(right, rt)?);
    let (left, right) = (left.matrix(), right.matrix());
    fit(left, right)?;
    if destination.dims2()? != (left.rows, right.columns) {
        return Err(Error::new("the destination of a matrix product has another shape"));
    }
    Ok(destination.inplace_op1(&Multiply { left, right, alpha, add })?)
}

/// A frozen matrix [out, in] that is not held as float32: widened panel by panel, while the processor's caches hold it.
pub trait Panels: Sync {
    /// (out, in)
    fn shape(&self) -> (usize, usize);

    /// Puts the values from `start` on, row after row, into a slice.
    fn widen_into(&self, start: usize, values: &mut [f32]);

    /// `y` [n, out] ← x·Wᵀ, for x [n, in].
    fn multiply_into(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let (out, input) = self.shape();
        let x = Operand::of(x, false)?;
        let (rows, columns) = y.dims2()?;
        if (x.rows, x.columns, columns) != (rows, input, out) {
            return Err(Error::new(format!(
                "[{}, {}] by [{out}, {input}] into [{rows}, {columns}]",
                x.rows, x.columns
            )));
        }
        let x = x.matrix();
        modify(y, |y| {
            self.each_panel(&mut |start, panel| {
                let panel = Matrix::rows(panel, panel.len() / input, input, input);
                x.multiply(panel.transposed(), 1.0, &mut y[start..], out, false, parallelism());
            });
        })
    }

    /// `dx` [n, in] ← dy·W (+ `dx` if `add`), for dy [n, out].
    fn multiply_back_into(&self, dy: &Tensor, dx: &Tensor, add: bool) -> Result<()> {
        let (out, input) = self.shape();
        let (rows, columns) = dy.dims2()?;
        if (columns, dx.dims2()?) != (out, (rows, input)) {
            return Err(Error::new(format!("[{rows}, {columns}] by [{out}, {input}] into {:?}", dx.dims())));
        }
        let dy = View::of(dy)?;
        modify(dx, |dx| {
            self.each_panel(&mut |start, panel| {
                let height = panel.len() / input;
                let dy = Matrix { values: &dy[start..], rows, columns: height, row_stride: out, column_stride: 1 };
                let panel = Matrix::rows(panel, height, input, input);
                dy.multiply(panel, 1.0, dx, input, add || start > 0, parallelism());
            });
        })
    }

    /// Calls `each` with the first row's number and the values of every panel, in order.
    fn each_panel(&self, each: &mut dyn FnMut(usize, &[f32])) {
        /// Values of a panel, 256 KB; but at least so many rows that a product is worth calling.
        const PANEL: usize = 1 << 16;
        const ROWS: usize = 128;
        /// Values that one task widens.
        const CHUNK: usize = 16 * 1024;
        let (out, input) = self.shape();
        let height = (PANEL / input.max(1)).max(ROWS).min(out);
        let mut panel = vec![0f32; height * input];
        for start in (0..out).step_by(height.max(1)) {
            let panel = &mut panel[..height.min(out - start) * input];
            if threads() == 1 {
                self.widen_into(start * input, panel);
            } else {
                panel.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, part)| {
                    self.widen_into(start * input + chunk * CHUNK, part);
                });
            }
            each(start, panel);
        }
    }
}

impl Panels for super::Half {
    fn shape(&self) -> (usize, usize) {
        self.shape().dims2().unwrap_or_default()
    }

    fn widen_into(&self, start: usize, values: &mut [f32]) {
        Self::widen_into(self, start, values);
    }
}

fn fit(left: Matrix, right: Matrix) -> Result<()> {
    if left.columns == right.rows {
        return Ok(());
    }
    Err(Error::new(format!(
        "a [{}, {}] matrix cannot be multiplied by a [{}, {}] one",
        left.rows, left.columns, right.rows, right.columns
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::Half;
    use crate::model::ops::check::numbers;

    #[test]
    fn products_of_all_orientations_and_thread_counts() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (64, 48, 33), (1, 300, 2000), (130, 257, 1100), (512, 384, 128)] {
            let a = numbers((m, k), 1);
            let b = numbers((k, n), 2);
            let at = a.t().unwrap().contiguous().unwrap();
            let bt = b.t().unwrap().contiguous().unwrap();
            let exact = a.matmul(&b).unwrap();
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut all = vec![];
                    for product in [
                        product((&a, false), (&b, false)).unwrap(),
                        product((&at, true), (&b, false)).unwrap(),
                        product((&a, false), (&bt, true)).unwrap(),
                        product((&at, true), (&bt, true)).unwrap(),
                    ] {
                        let difference = (&product - &exact).unwrap().abs().unwrap().max_all().unwrap();
                        assert!(difference.to_scalar::<f32>().unwrap() < 1e-4 * (k as f32).sqrt());
                        add_product(&product, 0.5, true, (&a, false), (&b, false)).unwrap();
                        all.push(product.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                    }
                    all
                })
            };
            let one = run(1);
            for threads in 2..6 {
                assert_eq!(one, run(threads), "{m}×{k}×{n} on {threads} threads");
            }
        }
    }

    /// More than one panel, and a last one that is not whole.
    #[test]
    fn panels_give_the_product_on_any_threads() {
        let (x, dy) = (numbers((9, 300), 1), numbers((9, 700), 2));
        let weight = Half::of(&numbers((700, 300), 3)).unwrap();
        let wide = weight.widen().unwrap();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (y, dx) = (numbers((9, 700), 4), numbers((9, 300), 5));
                let before = dx.copy().unwrap();
                weight.multiply_into(&x, &y).unwrap();
                weight.multiply_back_into(&dy, &dx, true).unwrap();
                let exact = [x.matmul(&wide.t().unwrap()).unwrap(), (dy.matmul(&wide).unwrap() + before).unwrap()];
                for (ours, exact) in [&y, &dx].into_iter().zip(exact) {
                    let difference = (ours - exact).unwrap().abs().unwrap().max_all().unwrap();
                    assert!(difference.to_scalar::<f32>().unwrap() < 1e-4);
                }
                [y, dx].map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            })
        };
        let one = run(1);
        assert_eq!(one, run(3));
        assert_eq!(one, on_threads(1, || run(3)));
        assert!(weight.multiply_into(&dy, &dy).is_err() && weight.multiply_back_into(&x, &x, false).is_err());
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        assert!(product((&numbers((2, 3), 1), false), (&numbers((2, 3), 1), false)).is_err());
        assert!(
            add_product(&numbers((2, 2), 1), 1.0, true, (&numbers((2, 3), 1), false), (&numbers((3, 3), 1), false))
                .is_err()
        );
    }
}
