//! The text of a training as words and their counts: lines, normalised and cut before every space.

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;
use rayon::prelude::*;

use super::super::normalizer::SPACE;
use super::super::proto::Piece;
use super::super::user_defined::UserDefined;
use super::{Alphabet, Rules};

/// Stands where a line has the text of a special piece, and behind every word; it is never counted and never part of a
/// piece. (SentencePiece took the tab for this up to 0.2.1, and so left tabs out of all pieces; this follows 0.2.3,
/// where they are ordinary.)
pub(super) const BOUNDARY: char = '\0';

/// SentencePiece's mark for unknown characters; lines that have it are passed over.
const RESERVED: char = '\u{2585}';

/// Lines that a thread takes at once.
const BATCH: usize = 4096;
/// Into so many parts the words are shared out by their hash, so that threads seldom meet.
const SHARDS: usize = 64;
/// Stretches are of about so many bytes.
const STRETCH: usize = 1 << 20;

/// The distinct words of all lines taken, with their counts. Memory: their text and one byte for each; while they are
/// counted twice the text and about 70 bytes for each.
pub struct Words {
    rules: Rules,
    /// Every word with a [`BOUNDARY`] behind it, the most frequent first, then by text, in stretches of words of one
    /// count.
    stretches: Vec<(String, u64)>,
    /// All characters but U+0000, most frequent first, then by code.
    characters: Vec<(char, u64)>,
    /// Whether a word holds a [`BOUNDARY`] itself.
    parted: bool,
    lines: u64,
    too_long: u64,
}

impl Words {
    /// The words of `lines` (without their line feeds); a line is passed over if it is empty or too long or holds
    /// U+2585. Uses the threads of Rayon's current pool; their number changes nothing.
    pub fn of<S: AsRef<str> + Sync>(rules: Rules, lines: &[S]) -> Self {
        let meta = rules.meta_pieces();
        let special = UserDefined::new((0..).zip(&meta).map(|(id, piece)| (Piece::text(piece), id)));
        let shards: Vec<Mutex<Shard>> = (0..SHARDS).map(|_| Mutex::default()).collect();
        let tallies = lines.par_chunks(BATCH).map_init(Cutter::default, |cutter, lines| {
            let mut tally = (0, 0);
            for line in lines.iter().map(AsRef::as_ref) {
                if line.is_empty() || line.contains(RESERVED) {
                    continue;
                }
                if line.len() > rules.max_sentence_length {
                    tally.1 += 1;
                    continue;
                }
                tally.0 += 1;
                cutter.cut(line, &rules, &special);
            }
            cutter.hand_over(&shards);
            tally
        });
        let (lines, too_long) = tallies.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let (stretches, parted) = in_order(shards);
        let characters = characters(&stretches);
        Self { rules, stretches, characters, parted, lines, too_long }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The lines that were taken.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The lines that were passed over because of their length.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// How many characters there are.
    pub(super) fn characters(&self) -> usize {
        self.characters.len()
    }

    /// Whether a special piece or U+0000 stands inside a word.
    pub(super) fn is_parted(&self) -> bool {
        self.parted
    }

    /// All words in order, each with a [`BOUNDARY`] behind it, in stretches of words of one count.
    pub(super) fn stretches(&self) -> &[(String, u64)] {
        &self.stretches
    }

    /// The single characters that become pieces, most frequent first, with their counts.
    pub fn alphabet(&self, alphabet: Alphabet) -> Vec<(char, u64)> {
        let number = match alphabet {
            Alphabet::Characters(number) => number.min(self.characters.len()),
            Alphabet::Coverage(coverage) => {
                let all: u64 = self.characters.iter().map(|(_, count)| count).sum();
                let mut covered = 0;
                // SentencePiece compares in single precision.
                let enough = |covered: u64| (covered as f64 / all as f64) as f32 >= coverage;
                let kept = self.characters.iter().position(|(_, count)| {
                    let stop = enough(covered);
                    covered += count;
                    stop
                });
                kept.unwrap_or(self.characters.len())
            }
        };
        self.characters[..number].to_vec()
    }
}

/// A thread's lines as words, before they are counted.
#[derive(Default)]
struct Cutter {
    hasher: foldhash::fast::FixedState,
    normalized: String,
    text: String,
    /// By shard: the hash of a word, and where it stands in `text`.
    words: Vec<Vec<(u32, Range<u32>)>>,
}

impl Cutter {
    fn cut(&mut self, line: &str, rules: &Rules, special: &UserDefined) {
        rules.normalizer.normalize(line, &UserDefined::default(), &mut self.normalized);
        if self.normalized.contains('<') {
            self.normalized = hide_special(&self.normalized, special);
        }
        self.words.resize_with(SHARDS, Vec::new);
        let mut start = self.text.len() as u32;
        self.text.push_str(&self.normalized);
        for word in split_at_spaces(&self.normalized, rules.allow_whitespace_only_pieces) {
            let hash = self.hasher.hash_one(word);
            let end = start + word.len() as u32;
            self.words[hash as usize % SHARDS].push(((hash >> 32) as u32, start..end));
            start = end;
        }
    }

    /// Counts the words in their shards, and begins anew.
    fn hand_over(&mut self, shards: &[Mutex<Shard>]) {
        for (words, shard) in self.words.iter_mut().zip(shards) {
            if !words.is_empty() {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                for (hash, word) in words.drain(..) {
                    shard.add(hash, &self.text[word.start as usize..word.end as usize]);
                }
            }
        }
        self.text.clear();
    }
}

/// The words of some hashes.
#[derive(Default)]
struct Shard {
    text: String,
    words: Vec<Word>,
    /// Hash and index of a word.
    table: HashTable<(u32, u32)>,
}

struct Word {
    start: usize,
    length: u32,
    count: u64,
}

impl Shard {
    fn add(&mut self, hash: u32, text: &str) {
        let spread = |hash: u32| u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let same =
            |&(other, index): &(u32, u32)| other == hash && self.text_of(&self.words[index as usize]) == text;
        match self.table.find(spread(hash), same) {
            Some(&(_, index)) => self.words[index as usize].count += 1,
            None => {
                let word = Word { start: self.text.len(), length: text.len() as u32, count: 1 };
                self.table.insert_unique(spread(hash), (hash, self.words.len() as u32), |(hash, _)| spread(*hash));
                self.words.push(word);
                self.text.push_str(text);
            }
        }
    }

    fn text_of(&self, word: &Word) -> &str {
        &self.text[word.start..][..word.length as usize]
    }
}

/// `stretches` and `parted` of [`Words`].
fn in_order(shards: Vec<Mutex<Shard>>) -> (Vec<(String, u64)>, bool) {
    let shards: Vec<Shard> = shards
        .into_iter()
        .map(|shard| {
            let mut shard = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
            shard.table = HashTable::new();
            shard
        })
        .collect();
    let text_of = |word: &Ordered| {
        let shard = &shards[word.shard as usize];
        shard.text_of(&shard.words[word.index as usize])
    };
    let ordered = |(number, shard)| {
        let shard: &Shard = shard;
        (0..).zip(&shard.words).map(move |(index, word)| {
            let bytes = shard.text_of(word).as_bytes();
            let mut first = [0; 16];
            let length = bytes.len().min(first.len());
            first[..length].copy_from_slice(&bytes[..length]);
            let first = u128::from_be_bytes(first);
            Ordered { count: word.count, first, shard: number as u32, index, length: word.length }
        })
    };
    let mut words: Vec<Ordered> = shards.par_iter().enumerate().map(ordered).flatten_iter().collect();
    words.par_sort_unstable_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| a.first.cmp(&b.first)).then_with(|| text_of(a).cmp(text_of(b)))
    });
    let mut long = 0;
    let stretches: Vec<&[Ordered]> = words
        .chunk_by(|a, b| {
            long = if long > STRETCH { 0 } else { long + a.length as usize };
            a.count == b.count && long <= STRETCH
        })
        .collect();
    let text = |words: &&[Ordered]| {
        let mut text = String::with_capacity(words.iter().map(|word| word.length as usize + 1).sum());
        let mut parted = false;
        for word in words.iter().map(text_of) {
            parted |= word.contains(BOUNDARY);
            text.push_str(word);
            text.push(BOUNDARY);
        }
        (text, words[0].count, parted)
    };
    let stretches: Vec<(String, u64, bool)> = stretches.par_iter().map(text).collect();
    let parted = stretches.iter().any(|(.., parted)| *parted);
    (stretches.into_iter().map(|(text, count, _)| (text, count)).collect(), parted)
}

/// A word of a shard, on its way to its place.
struct Ordered {
    count: u64,
    /// Its first bytes, which decide most comparisons without a look at the text.
    first: u128,
    shard: u32,
    index: u32,
    length: u32,
}

fn characters(stretches: &[(String, u64)]) -> Vec<(char, u64)> {
    let all = char::MAX as usize + 1;
    let share = stretches.len().div_ceil(rayon::current_num_threads()).max(1);
    let tallies: Vec<Vec<u64>> = stretches
        .par_chunks(share)
        .map(|stretches| {
            let mut tally = vec![0; all];
            for (text, count) in stretches {
                text.chars().for_each(|c| tally[c as usize] += count);
            }
            tally
        })
        .collect();
    let count = |c: char| tallies.iter().map(|tally| tally[c as usize]).sum::<u64>();
    let counts = (BOUNDARY..=char::MAX).skip(1).map(|c| (c, count(c)));
    let mut characters: Vec<(char, u64)> = counts.filter(|(_, count)| *count > 0).collect();
    characters.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    characters
}

fn hide_special(text: &str, special: &UserDefined) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match special.longest_prefix(rest.as_bytes()) {
            Some((length, _)) => {
                out.push(BOUNDARY);
                length
            }
            None => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out
}

/// Cuts before every space; with `runs` only before the first of several.
fn split_at_spaces(text: &str, runs: bool) -> impl Iterator<Item = &str> {
    let spaces = text.match_indices(SPACE).map(|(at, _)| at);
    let begins = move |at: &usize| *at > 0 && !(runs && text[..*at].ends_with(SPACE));
    let mut start = 0;
    let words = spaces.filter(begins).chain([text.len()]).map(move |end| {
        let word = &text[start..end];
        start = end;
        word
    });
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_their_space() {
        let split = |text, runs| split_at_spaces(text, runs).collect::<Vec<_>>();
        assert_eq!(split("▁a▁▁b▁", false), ["▁a", "▁", "▁b", "▁"]);
        assert_eq!(split("▁▁a▁▁b▁▁▁", true), ["▁▁a", "▁▁b", "▁▁▁"]);
        assert_eq!(split("a▁b", false), ["a", "▁b"]);
        assert_eq!(split("", false), [""; 0]);
    }

    #[test]
    fn special_pieces_part_words_and_long_lines_are_left_out() {
        let rules = Rules { max_sentence_length: 12, ..Rules::SENTENCEPIECE };
        let words = Words::of(rules, &["a<s>b", "", "▅", "thirteen byte"]);
        assert_eq!(words.stretches(), [("▁a\0b\0".to_owned(), 1)]);
        assert_eq!((words.lines(), words.too_long()), (1, 1));
        assert_eq!(words.alphabet(Alphabet::Characters(9)), [('a', 1), ('b', 1), ('▁', 1)]);
    }

    #[test]
    fn words_stand_by_count_and_text_on_any_number_of_threads() {
        let lines: Vec<String> =
            (0..20_000).map(|n| format!("{} the {} 山{}", n % 700, n % 7, "谷".repeat(n % 90))).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Words::of(Rules::SENTENCEPIECE, &lines))
        };
        let words = on(1);
        let mut expected: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
        for word in lines.iter().flat_map(|line| line.split(' ')) {
            *expected.entry(format!("▁{word}")).or_default() += 1;
        }
        let mut expected: Vec<_> =
            expected.into_iter().map(|(word, count)| (std::cmp::Reverse(count), word)).collect();
        expected.sort();
        let found = words.stretches().iter().flat_map(|(text, count)| {
            text.split_terminator(BOUNDARY).map(move |word| (std::cmp::Reverse(*count), word.to_owned()))
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let others = on(3);
        assert!(words.stretches == others.stretches);
        assert_eq!(words.characters, others.characters);
    }
}
