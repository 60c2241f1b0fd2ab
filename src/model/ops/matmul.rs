//! Matrix products by the `gemm` crate, the one candle uses, with a destination that can be added to.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use gemm::Parallelism;

use super::View;
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

/// All threads of the current rayon pool.
pub(super) fn all_threads() -> Parallelism {
    match rayon::current_num_threads() {
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
    left.multiply(right, 1.0, &mut values, n, false, all_threads());
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
                    self.left.multiply(self.right, self.alpha, &mut values[start..end], n, self.add, all_threads());
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

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        assert!(product((&numbers((2, 3), 1), false), (&numbers((2, 3), 1), false)).is_err());
        assert!(
            add_product(&numbers((2, 2), 1), 1.0, true, (&numbers((2, 3), 1), false), (&numbers((3, 3), 1), false))
                .is_err()
        );
    }
}
