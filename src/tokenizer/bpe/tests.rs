//! The encoder beside a plain one, which looks through the whole text for every merge, on random vocabularies.

use std::collections::HashMap;

use super::*;
use crate::tokenizer::normalizer::SPACE;
use crate::tokenizer::proto::byte_piece;

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const CHARACTERS: [char; 12] = ['a', 'b', 'c', '.', '\0', 'é', SPACE, '中', '国', '人', '\u{FE0F}', '😀'];
/// In no piece.
const FOREIGN_ONES: [char; 4] = ['z', 'ß', '外', '🎈'];

/// Pieces that are unions of others, many of them with equal scores; of the characters some are no pieces.
fn model(random: &mut Random) -> ModelProto {
    let mut texts: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    for _ in 0..10 + random.below(120) {
        let union = random.pick(&texts) + &random.pick(&texts);
        if union.chars().count() <= 9 && !texts.contains(&union) {
            texts.push(union);
        }
    }
    let mut pieces = vec![Piece::new("<unk>", 0.0, PieceKind::Unknown)];
    pieces.extend((0..=255).map(|byte| Piece::new(byte_piece(byte), 0.0, PieceKind::Byte)));
    for text in texts {
        if text.chars().count() > 1 || random.below(4) > 0 {
            let kind = if random.below(40) == 0 { PieceKind::UserDefined } else { PieceKind::Normal };
            pieces.push(Piece::new(text, -(random.below(30) as f32), kind));
        }
    }
    ModelProto { pieces, ..ModelProto::default() }
}

fn text(random: &mut Random, model: &ModelProto, spaces: bool) -> String {
    let mut text = String::new();
    for _ in 0..random.below(40) {
        match random.below(8) {
            0 => text.push(random.pick(&FOREIGN_ONES)),
            1 if spaces => text.push_str(&" ".repeat(1 + random.below(3))),
            2 => text.push_str(&random.pick(&CHARACTERS).to_string().repeat(1 + random.below(50))),
            3 => text.push(random.pick(&CHARACTERS)),
            _ => text.push_str(model.pieces[257 + random.below(model.pieces.len() - 257)].text()),
        }
    }
    text
}

/// By the rules as they are written: of all neighbours whose union is a piece the one of best score, the leftmost.
fn plain(model: &ModelProto, text: &str) -> Vec<u32> {
    let pieces: HashMap<&str, (u32, f32, PieceKind)> = (0..)
        .zip(&model.pieces)
        .skip(257)
        .map(|(id, piece)| (piece.text(), (id, piece.score(), piece.kind())))
        .collect();
    let own: Vec<&str> =
        pieces.iter().filter(|(_, (.., kind))| *kind == PieceKind::UserDefined).map(|(text, _)| *text).collect();
    // Segments, and whether they take part in merges.
    let mut segments: Vec<(String, bool)> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let found = own.iter().filter(|piece| rest.starts_with(**piece)).map(|piece| piece.len()).max();
        let (segment, after) = rest.split_at(found.unwrap_or(c.len_utf8()));
        segments.push((segment.to_owned(), found.is_none()));
        rest = after;
    }
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..segments.len() {
            let [(left, first), (right, second)] = &segments[at - 1..=at] else { continue };
            if let (true, Some((_, score, _))) = (*first && *second, pieces.get(&*format!("{left}{right}")))
                && best.is_none_or(|(known, _)| *score > known)
            {
                best = Some((*score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let (right, _) = segments.remove(at);
        segments[at - 1].0.push_str(&right);
    }
    let ids = |(segment, _): &(String, bool)| match pieces.get(&**segment) {
        Some((id, ..)) => vec![*id],
        None => segment.bytes().map(|byte| 1 + u32::from(byte)).collect(),
    };
    segments.iter().flat_map(ids).collect()
}

#[test]
fn the_ids_are_those_of_the_plain_rules() {
    let mut random = Random(20_261_125);
    let mut scratch = Scratch::default();
    for number in 0..60 {
        let model = model(&mut random);
        let reads_spaces = model
            .pieces
            .iter()
            .all(|piece| piece.kind() != PieceKind::UserDefined || !piece.text().contains(SPACE));
        let bpe = Bpe::new(&model, true, reads_spaces.then_some((' ', SPACE)));
        for _ in 0..150 {
            let text = text(&mut random, &model, reads_spaces);
            let expected = plain(&model, &text.replace(' ', "▁"));
            // What is in the cache must be what was found without it.
            for attempt in ["first", "second"] {
                let mut ids = Vec::new();
                let middle = text.char_indices().nth(3).map_or(0, |(at, _)| at);
                bpe.encode(&[&text[..middle], &text[middle..]], &mut scratch, &mut ids);
                assert_eq!(ids, expected, "vocabulary {number}, {attempt} time, {text:?}");
            }
        }
    }
}

#[test]
fn a_cache_holds_the_ids_of_one_vocabulary() {
    let mut random = Random(7);
    let mut scratch = Scratch::default();
    let models = [model(&mut random), model(&mut random)];
    let bpes = [0, 1].map(|at: usize| Bpe::new(&models[at], true, None));
    for _ in 0..200 {
        let text = text(&mut random, &models[0], false);
        for (model, bpe) in models.iter().zip(&bpes) {
            let mut ids = Vec::new();
            bpe.encode(&[&text], &mut scratch, &mut ids);
            assert_eq!(ids, plain(model, &text), "{text:?}");
        }
    }
}

/// BPE-dropout as `SampleEncode` of SentencePiece is written: an agenda of unions, best score first, ties to the left;
/// of one that is still possible when its turn comes a draw decides, and what is dropped is gone.
fn plain_sample(model: &ModelProto, text: &str, drops: &mut dyn FnMut() -> bool) -> Vec<u32> {
    let pieces: HashMap<&str, (u32, f32)> =
        (0..).zip(&model.pieces).skip(257).map(|(id, piece)| (piece.text(), (id, piece.score()))).collect();
    // Of each character its symbol, if it was not merged into another one, and what follows that.
    let mut symbols: Vec<Option<String>> = text.chars().map(|c| Some(c.to_string())).collect();
    // Score, place, the place to its right, and length of what the two make.
    let mut agenda: Vec<(f32, usize, usize, usize)> = Vec::new();
    let union = |symbols: &[Option<String>], left: usize, right: usize| {
        let both = [symbols[left].as_deref()?, symbols[right].as_deref()?].concat();
        pieces.get(&*both).map(|(_, score)| (*score, left, right, both.len()))
    };
    let next = |symbols: &[Option<String>], at: usize| (at + 1..symbols.len()).find(|&at| symbols[at].is_some());
    let before = |symbols: &[Option<String>], at: usize| (0..at).rev().find(|&at| symbols[at].is_some());
    for right in 1..symbols.len() {
        agenda.extend(union(&symbols, right - 1, right));
    }
    while let Some(best) = (0..agenda.len()).min_by(|&a, &b| {
        let key = |at: usize| (-agenda[at].0, agenda[at].1);
        key(a).partial_cmp(&key(b)).unwrap()
    }) {
        let (_, left, right, length) = agenda.swap_remove(best);
        let lengths = [left, right].map(|at| symbols[at].as_ref().map(String::len));
        if !matches!(lengths, [Some(l), Some(r)] if l + r == length) || drops() {
            continue;
        }
        let right_text = symbols[right].take().unwrap();
        symbols[left].as_mut().unwrap().push_str(&right_text);
        if let Some(previous) = before(&symbols, left) {
            agenda.extend(union(&symbols, previous, left));
        }
        if let Some(following) = next(&symbols, left) {
            agenda.extend(union(&symbols, left, following));
        }
    }
    let ids = |segment: &String| match pieces.get(&**segment) {
        Some((id, _)) => vec![*id],
        None => segment.bytes().map(|byte| 1 + u32::from(byte)).collect(),
    };
    symbols.iter().flatten().flat_map(ids).collect()
}

#[test]
fn dropout_has_the_distribution_of_the_plain_rules() {
    const DRAWS: usize = 4000;
    let mut random = Random(20_261_128);
    let (mut scratch, mut texts, mut segmentations) = (Scratch::default(), 0, 0);
    while texts < 60 {
        let model = model(&mut random);
        if model.pieces.iter().any(|piece| piece.kind() == PieceKind::UserDefined) {
            continue;
        }
        let bpe = Bpe::new(&model, true, None);
        let text: String = text(&mut random, &model, false).chars().take(9).collect();
        let rate = [0.1, 0.3, 0.7][texts % 3];
        texts += 1;
        let mut counts: HashMap<Vec<u32>, [f64; 2]> = HashMap::new();
        for _ in 0..DRAWS {
            let mut drops = || (random.below(1 << 20) as f64) < rate * f64::from(1 << 20);
            let mut ours = Vec::new();
            bpe.sample(&[&text], &mut drops, &mut scratch, &mut ours);
            counts.entry(ours).or_default()[0] += 1.0;
            counts.entry(plain_sample(&model, &text, &mut drops)).or_default()[1] += 1.0;
        }
        segmentations += counts.len();
        // Pearson's test of two samples of one size; what is rare is counted together.
        let (common, rare): (Vec<_>, Vec<_>) = counts.into_values().partition(|[a, b]| a + b >= 20.0);
        let rare = rare.into_iter().fold([0.0; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
        let cells: Vec<_> = common.into_iter().chain([rare]).filter(|[a, b]| a + b > 0.0).collect();
        let statistic: f64 = cells.iter().map(|[a, b]| (a - b).powi(2) / (a + b)).sum();
        let freedom = (cells.len() - 1) as f64;
        // Five standard deviations.
        assert!(statistic <= freedom + 5.0 * (2.0 * freedom).sqrt(), "{text:?}, {rate}: {statistic} of {freedom}");
    }
    assert!(segmentations > 500, "{segmentations}");
}

#[test]
fn dropping_nothing_is_encoding_and_dropping_all_is_spelling() {
    let mut random = Random(11);
    let mut scratch = Scratch::default();
    for _ in 0..40 {
        let model = model(&mut random);
        let bpe = Bpe::new(&model, true, None);
        for _ in 0..20 {
            let text = text(&mut random, &model, false);
            let (mut sampled, mut encoded) = (Vec::new(), Vec::new());
            bpe.sample(&[&text], &mut || false, &mut scratch, &mut sampled);
            bpe.encode(&[&text], &mut scratch, &mut encoded);
            assert_eq!(sampled, encoded, "{text:?}");
            sampled.clear();
            bpe.sample(&[&text], &mut || true, &mut scratch, &mut sampled);
            let is_merged = |id: u32| {
                let piece = &model.pieces[id as usize];
                piece.kind() == PieceKind::Normal && piece.text().chars().count() > 1
            };
            assert!(!sampled.iter().any(|&id| is_merged(id)), "{text:?}");
        }
    }
}
