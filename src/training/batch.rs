//! Token blocks → what the model computes on: no padding, and no prediction across the border of two documents.
//!
//! Blocks without padding are the sequences of a batch. Where one ends in padding, all of them stand behind one another
//! in a single sequence, each a document of its own at least, so that nothing is spent on padding: a token sees of its
//! own document what it would see in a block of its own, and losses and gradients are those of the padded batch.

use crate::corpus::{Block, IGNORED};
use crate::error::{Error, Result};
use crate::model::Batch;

/// The batch of some blocks, in their order; a token for which `ignored` is the id is not predicted.
pub fn batch(blocks: &[Block], ignored: Option<u32>) -> Result<Batch> {
    let longest = blocks.iter().map(|block| block.ids.len()).max().unwrap_or(0);
    if longest == 0 {
        return Err(Error::invalid("the token blocks of a batch hold nothing but padding"));
    }
    let in_one = blocks.iter().any(|block| block.ids.len() < longest);
    let says_borders = in_one || blocks.iter().any(|block| block.documents.is_some());
    let mut batch = Batch {
        ids: Vec::new(),
        labels: Vec::new(),
        length: longest,
        documents: says_borders.then(Vec::new),
        // What others pad the shorter blocks to.
        longest,
    };
    for Block { ids, labels, documents, .. } in blocks {
        let first = if in_one { batch.ids.len() as u32 } else { 0 };
        let start = |at: usize| documents.as_ref().map_or(0, |documents| documents[at]);
        batch.labels.extend((1..=ids.len()).map(|next| {
            let known = next < ids.len() && start(next) < next as u32;
            let label = if known { labels[next] } else { IGNORED };
            if ignored.is_some_and(|id| label == i64::from(id)) { IGNORED } else { label }
        }));
        if let Some(all) = &mut batch.documents {
            all.extend((0..ids.len()).map(|at| first + start(at)));
        }
        batch.ids.extend_from_slice(ids);
    }
    if in_one {
        batch.length = batch.ids.len();
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::corpus::{BlockWriter, Blocks, Layout, Packer, Packing, Recipe, Rules};
    use crate::model::fixture::{formula, tiny_config, write_model};
    use crate::model::{Gradients, Loss, Mixtral, Objective, Pass};

    fn model(sliding_window: &serde_json::Value) -> Mixtral {
        let folder = tempfile::tempdir().unwrap();
        let mut config = tiny_config();
        config["sliding_window"] = sliding_window.clone();
        write_model(folder.path(), &config);
        let mut model = Mixtral::open(folder.path(), &Device::Cpu).unwrap();
        model.train_only(|_| true);
        model
    }

    /// The loss, and the gradient of its mean for every weight.
    fn learn(model: &Mixtral, batches: &[Batch]) -> (Loss, Vec<Vec<f32>>) {
        let count: usize = batches.iter().map(Batch::predictions).sum();
        let mut gradients = Gradients::of(&model.trained()).unwrap();
        let mut loss = Loss::default();
        for batch in batches {
            let pass = Pass::new(1, 1);
            let trained = model
                .train(batch, Objective::cross_entropy(1.0 / count as f32), pass, 0.0, false, &gradients)
                .unwrap();
            assert_eq!(trained.predictions, model.loss(batch).unwrap());
            loss += trained.predictions;
        }
        let values =
            (0..gradients.len()).map(|at| gradients.get(at).unwrap().flatten_all().unwrap().to_vec1().unwrap());
        (loss, values.collect())
    }

    fn block(ids: &[u32], documents: Option<&[u32]>, length: usize) -> Block {
        let labels = ids.iter().map(|&id| if id < 10 { IGNORED } else { id.into() }).collect();
        Block { ids: ids.to_vec(), labels, documents: documents.map(<[u32]>::to_vec), length }
    }

    #[test]
    fn blocks_without_padding_are_sequences() {
        let blocks = [block(&[11, 12, 2, 13], None, 4), block(&[21, 22, 23, 24], None, 4)];
        let made = batch(&blocks, Some(23)).unwrap();
        assert_eq!((made.length, made.longest, &made.documents), (4, 4, &None));
        assert_eq!(made.ids, [11, 12, 2, 13, 21, 22, 23, 24]);
        assert_eq!(made.labels, [12, -100, 13, -100, 22, -100, 24, -100]);
        // Where one says where its documents begin, the other is a document.
        let blocks = [block(&[11, 12, 13, 14], Some(&[0, 0, 2, 2]), 4), blocks[1].clone()];
        let made = batch(&blocks, None).unwrap();
        assert_eq!(made.documents.as_deref(), Some(&[0, 0, 2, 2, 0, 0, 0, 0][..]));
        assert_eq!(made.labels, [12, -100, 14, -100, 22, 23, 24, -100]);
    }

    #[test]
    fn padding_is_left_away() {
        let blocks = [block(&[11, 12], None, 6), block(&[], None, 6), block(&[21, 22, 23], Some(&[0, 1, 1]), 6)];
        let made = batch(&blocks, None).unwrap();
        assert_eq!((made.length, made.longest), (5, 3));
        assert_eq!(made.ids, [11, 12, 21, 22, 23]);
        assert_eq!(made.documents.as_deref(), Some(&[0, 0, 2, 3, 3][..]));
        assert_eq!(made.labels, [12, -100, -100, 23, -100]);
        assert!(batch(&[block(&[], None, 6)], None).is_err());
    }

    /// As `tests/golden/make_masked_loss.py` had it computed, on padded batches.
    #[test]
    fn loss_and_gradients_are_those_of_transformers_on_the_padded_batch() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/masked_loss.json")).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let rows: Vec<Vec<u32>> = serde_json::from_value(case["rows"].clone()).unwrap();
            let masks: Vec<Vec<u32>> = serde_json::from_value(case["masks"].clone()).unwrap();
            let labels: Vec<Vec<i64>> = serde_json::from_value(case["labels"].clone()).unwrap();
            let blocks: Vec<Block> = rows
                .iter()
                .zip(&masks)
                .zip(&labels)
                .map(|((ids, mask), labels)| {
                    let filled = mask.iter().filter(|&&mask| mask == 1).count();
                    let (ids, labels) = (ids[..filled].to_vec(), labels[..filled].to_vec());
                    Block { ids, labels, documents: None, length: mask.len() }
                })
                .collect();
            let batch = batch(&blocks, None).unwrap();
            // What NEFTune's noise is scaled by: the length that transformers padded to.
            assert_eq!(batch.longest, rows[0].len());
            let model = model(&case["sliding_window"]);
            let (loss, gradients) = learn(&model, &[batch]);
            assert!((loss.mean() - case["loss"].as_f64().unwrap()).abs() < 1e-5, "{}", loss.mean());
            for (parameter, gradient) in model.trained().iter().zip(&gradients) {
                let name = &parameter.name;
                let probe = formula(gradient.len(), 1000);
                let dot = |other: &[f32]| {
                    gradient.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                };
                let (square, along) = (&case["gradients"][name][0], &case["gradients"][name][1]);
                let (square, along) = (square.as_f64().unwrap(), along.as_f64().unwrap());
                assert!((dot(gradient) - square).abs() <= 1e-4 * square + 1e-12, "{name}");
                assert!((dot(&probe) - along).abs() <= 1e-3 * square.sqrt() + 1e-9, "{name}");
            }
        }
    }

    /// The blocks of documents laid out in one way.
    fn laid_out(documents: &[(Vec<u32>, Vec<bool>)], packing: Packing, length: usize) -> Vec<Block> {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("blocks");
        let layout = Layout { padded: true, labels: true, document_ids: true, ..Layout::compact(40, length) };
        let writer = BlockWriter::create(&folder, &layout).unwrap();
        let rules = Rules { recipe: Recipe::Clean, packing, length, bos: None, eos: None, pad: 2 };
        let mut packer = Packer::new(writer, rules);
        for (ids, counted) in documents {
            packer.push(ids, Some(counted)).unwrap();
        }
        let (shards, dropped) = packer.finish().unwrap();
        assert_eq!(dropped, 0);
        shards.publish(&layout, &folder, &folder).unwrap();
        let blocks = Blocks::open(&folder).unwrap();
        (0..blocks.len()).map(|row| blocks.block(row).unwrap()).collect()
    }

    #[test]
    fn documents_alone_padded_and_packed_have_one_loss_and_one_gradient() {
        let documents: Vec<(Vec<u32>, Vec<bool>)> = (0..17)
            .map(|number| {
                let length = 3 + number * 5 % 8;
                let ids = (0..length).map(|at| (number * 13 + at * at * 7 + at) as u32 % 40).collect();
                (ids, (0..length).map(|at| at > number % 3).collect())
            })
            .collect();
        for window in [serde_json::Value::Null, 4.into()] {
            let model = model(&window);
            let run = |packing: Packing, length: usize, together: usize| {
                let blocks = laid_out(&documents, packing, length);
                let batches: Vec<Batch> =
                    blocks.chunks(together).map(|blocks| batch(blocks, None).unwrap()).collect();
                (blocks.len(), learn(&model, &batches))
            };
            let (count, (alone, gradients)) = run(Packing::None, 10, 1);
            assert_eq!(count, documents.len());
            for (packing, length, together) in [
                (Packing::None, 10, 5),
                (Packing::None, 64, 17),
                (Packing::Whole, 24, 1),
                (Packing::Whole, 24, 4),
                (Packing::Whole, 200, 2),
            ] {
                let (count, (loss, packed)) = run(packing, length, together);
                assert!(packing == Packing::None || count < documents.len() / 2);
                assert_eq!(loss.count, alone.count);
                assert!(
                    (loss.sum - alone.sum).abs() < 1e-5 * alone.sum,
                    "{packing:?} {length}: {loss:?} {alone:?}"
                );
                for (ours, theirs) in packed.iter().flatten().zip(gradients.iter().flatten()) {
                    assert!((ours - theirs).abs() < 1e-5 + 1e-4 * theirs.abs(), "{ours} {theirs}");
                }
            }
        }
    }
}
