//! Gathering rows by index, and adding rows back to where they came from.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, modify, tensor};
use crate::error::{Error, Result};

/// Rows that one task gathers, or of the table that one task adds to.
const ROWS: usize = 256;

/// `table` [n, width] → [indices, width].
pub fn gather_rows(table: &Tensor, indices: &[u32]) -> Result<Tensor> {
    let (count, width) = table.dims2()?;
    if let Some(index) = indices.iter().find(|&&index| index as usize >= count) {
        return Err(Error::invalid(format!("token {index} is beyond the {count} rows of the embedding"))
            .hint("the data was encoded with another tokenizer than this model's"));
    }
    let from = View::of(table)?;
    let mut rows = vec![0f32; indices.len() * width];
    rows.par_chunks_mut(ROWS * width).zip(indices.par_chunks(ROWS)).for_each(|(rows, indices)| {
        for (row, &index) in rows.chunks_exact_mut(width).zip(indices) {
            row.copy_from_slice(&from[index as usize * width..][..width]);
        }
    });
    tensor(rows, (indices.len(), width))
}

/// `table`[indices[i]] += rows[i] for all i, in order; in place.
pub fn add_rows(table: &Tensor, indices: &[u32], rows: &Tensor) -> Result<()> {
    let (_, width) = table.dims2()?;
    let rows = View::of(rows)?;
    modify(table, |table| {
        // Every task looks at all indices and serves its own part of the table: no two write the same row.
        table.par_chunks_mut(ROWS * width).enumerate().for_each(|(chunk, table)| {
            for (row, &index) in rows.chunks_exact(width).zip(indices) {
                if index as usize / ROWS == chunk {
                    let target = &mut table[index as usize % ROWS * width..][..width];
                    for (target, value) in target.iter_mut().zip(row) {
                        *target += value;
                    }
                }
            }
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers, zeros};

    #[test]
    fn gradients() {
        let (table, dy) = (numbers((600, 3), 1), numbers((5, 3), 2));
        let indices = [599, 0, 300, 0, 255];
        let dtable = zeros((600, 3));
        add_rows(&dtable, &indices, &dy).unwrap();
        gradient("table", &table, &dtable, |table| inner(&gather_rows(table, &indices).unwrap(), &dy));
        assert!(gather_rows(&table, &[600]).is_err());
    }
}
