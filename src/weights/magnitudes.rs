//! How large the numbers of a matrix are, cell by cell: a matrix of any size in few numbers.

use std::ops::Range;

use rayon::prelude::*;

use super::{Checkpoint, Float};
use crate::error::{Error, Result};

/// Mean magnitudes of rows of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Magnitudes {
    /// The mean |w| of each cell, row by row.
    pub cells: Vec<f32>,
    /// Cells in a row.
    pub columns: usize,
    /// The mean |w| of all.
    pub mean: f64,
}

impl Magnitudes {
    /// Of the rows `rows` of the matrix `name`, in at most `cells` (rows, columns) cells of nearly the same size. Reads each
    /// value once, in the order of the file, and keeps none.
    pub fn of(base: &Checkpoint, name: &str, rows: Range<usize>, cells: (usize, usize)) -> Result<Self> {
        let spec = base.spec(name)?;
        let (&[count, width], Some(float)) = (&spec.shape[..], Float::of(spec.dtype)) else {
            return Err(Error::invalid(format!(
                "`{name}` is {:?} of {}, not a matrix of F32, BF16 or F16",
                spec.shape, spec.dtype
            )));
        };
        if rows.is_empty() || rows.end > count || width == 0 || cells.0 == 0 || cells.1 == 0 {
            return Err(Error::new(format!("rows {rows:?} of `{name}` {:?} in {cells:?} cells", spec.shape)));
        }
        let bytes = base.bytes(name)?;
        let length = width * float.bytes();
        let (grid_rows, columns) = (cells.0.min(rows.len()), cells.1.min(width));
        let bound = |all: usize, parts: usize, at: usize| all * at / parts;
        // A row of cells is one task: what it sums does not depend on how many threads there are.
        let sums = |at: usize| {
            let mut sums = vec![0f64; columns];
            let mut values = vec![0f32; width];
            let first = rows.start + bound(rows.len(), grid_rows, at);
            let last = rows.start + bound(rows.len(), grid_rows, at + 1);
            for row in first..last {
                float.widen_into(&bytes[row * length..(row + 1) * length], &mut values);
                for (column, sum) in sums.iter_mut().enumerate() {
                    let part = &values[bound(width, columns, column)..bound(width, columns, column + 1)];
                    *sum += f64::from(part.iter().map(|value| value.abs()).sum::<f32>());
                }
            }
            (sums, last - first)
        };
        let sums: Vec<(Vec<f64>, usize)> = (0..grid_rows).into_par_iter().map(sums).collect();
        let all: f64 = sums.iter().flat_map(|(sums, _)| sums).sum();
        let mut cells = Vec::with_capacity(grid_rows * columns);
        for (sums, rows) in sums {
            for (column, sum) in sums.into_iter().enumerate() {
                let width = bound(width, columns, column + 1) - bound(width, columns, column);
                cells.push((sum / (rows * width) as f64) as f32);
            }
        }
        base.release(name);
        Ok(Self { cells, columns, mean: all / (rows.len() * width) as f64 })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::weights::save;

    fn matrix(values: &[f32], shape: (usize, usize)) -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        save(folder.path(), &[("w".to_owned(), tensor)].into(), 1 << 30).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        (folder, checkpoint)
    }

    #[test]
    fn a_cell_is_the_mean_of_what_lies_in_it() {
        let values: Vec<f32> = (0..15).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
        let (_folder, base) = matrix(&values, (5, 3));
        let found = Magnitudes::of(&base, "w", 1..5, (2, 2)).unwrap();
        // Rows 1 and 2, 3 and 4; column 0, columns 1 and 2.
        assert_eq!(found.cells, [4.5, 6.0, 10.5, 12.0]);
        assert_eq!((found.columns, found.mean), (2, 8.5));
        // More cells than values: one each.
        let found = Magnitudes::of(&base, "w", 0..2, (9, 9)).unwrap();
        assert_eq!((found.cells, found.columns), ((0..6).map(|i| i as f32).collect(), 3));
        assert!(Magnitudes::of(&base, "w", 4..6, (2, 2)).is_err());
        assert!(Magnitudes::of(&base, "w", 2..2, (2, 2)).is_err());
    }
}
