//! How many tokens a tokenizer needs for a text, and of what sorts they are.

use rayon::prelude::*;

use super::Tokenizer;
use crate::error::Result;

/// The size of some text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub documents: u64,
    /// In UTF-8.
    pub bytes: u64,
    /// Code points.
    pub characters: u64,
}

/// The tokens of some text, without those that begin or end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub tokens: u64,
    /// Those that [stand for bytes](Tokenizer::is_bytes).
    pub bytes: u64,
    /// Those that stand for what the vocabulary does not have.
    pub unknown: u64,
}

impl Size {
    pub fn of(text: &str) -> Self {
        Self { documents: 1, bytes: text.len() as u64, characters: text.chars().count() as u64 }
    }

    pub fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.characters += other.characters;
    }
}

impl Tokens {
    fn of(tokenizer: &Tokenizer, ids: &[u32]) -> Self {
        let unknown = tokenizer.unk();
        let count = |is: &dyn Fn(u32) -> bool| ids.iter().filter(|id| is(**id)).count() as u64;
        Self {
            tokens: ids.len() as u64,
            bytes: count(&|id| tokenizer.is_bytes(id)),
            unknown: count(&|id| Some(id) == unknown),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.unknown += other.unknown;
    }
}

/// The tokens of all `texts` together, by tokenizer. The error is that of the first text that has one.
pub fn count(tokenizers: &[Tokenizer], texts: &[String]) -> Result<Vec<Tokens>> {
    let of_one = |text: &String| -> Result<Vec<Tokens>> {
        let counted = tokenizers.iter().map(|tokenizer| Ok(Tokens::of(tokenizer, &tokenizer.encode(text)?)));
        counted.collect()
    };
    let counted: Vec<Result<Vec<Tokens>>> = texts.par_iter().map(of_one).collect();
    let mut all = vec![Tokens::default(); tokenizers.len()];
    for of_text in counted {
        all.iter_mut().zip(of_text?).for_each(|(all, own)| all.add(own));
    }
    Ok(all)
}
