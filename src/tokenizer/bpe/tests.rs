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
