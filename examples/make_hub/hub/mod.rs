//! The small hub folder of the examples: two corpora, held-out texts, questions and dialogues about one invented valley.

mod dialogues;
mod grammar;
mod questions;
mod random;
mod shards;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use grammar::Grammar;
use parquet::basic::Compression;
use random::Random;
use world::{Language, World};

pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// One text, and the kind of text it is.
pub struct Document {
    pub topic: String,
    pub text: String,
}

/// About so many bytes of text has each corpus.
const CORPUS_BYTES: usize = 700_000;
const HELD_OUT_DOCUMENTS: usize = 60;
/// The shortest document, in characters.
const SHORTEST: usize = 100;
/// So many questions serve as examples; the rest are the test.
const EXAMPLES: usize = 5;
const DIALOGUES: usize = 600;

const WORLD: &str = include_str!("../text/world.txt");
const QUESTIONS: &str = include_str!("../text/questions.txt");
const CARDS: [(&str, &str); 6] = [
    ("valley-en", include_str!("../cards/valley-en.md")),
    ("valley-zh", include_str!("../cards/valley-zh.md")),
    ("valley-held-out", include_str!("../cards/valley-held-out.md")),
    ("valley-questions-en", include_str!("../cards/valley-questions-en.md")),
    ("valley-questions-zh", include_str!("../cards/valley-questions-zh.md")),
    ("valley-dialogues-zh", include_str!("../cards/valley-dialogues-zh.md")),
];

/// Every file of the hub folder by its path in it.
pub fn files() -> Result<BTreeMap<String, Vec<u8>>> {
    let world = World::parse(WORLD)?;
    let mut files = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| files.insert(format!("datasets/cmx/{name}"), bytes);

    let grammar = Grammar::parse(include_str!("../text/english.txt"), Language::English)?;
    let essays = essays(include_str!("../text/english-essays.txt"), "essay");
    let (english, held_out) = corpus(&grammar, &world, essays, &mut Random::new(1))?;
    put("valley-held-out/en.jsonl", shards::jsonl(&held_out, 0));
    let half = english.len() / 2;
    let (first, second) = english.split_at(half);
    put("valley-en/data/train-00000-of-00002.parquet", shards::parquet(first, 0, Compression::SNAPPY)?);
    put("valley-en/data/train-00001-of-00002.parquet", shards::parquet(second, half as i32, shards::zstd()?)?);

    let grammar = Grammar::parse(include_str!("../text/chinese.txt"), Language::Chinese)?;
    let essays = self::essays(include_str!("../text/chinese-essays.txt"), "随笔");
    let (chinese, held_out) = corpus(&grammar, &world, essays, &mut Random::new(2))?;
    put("valley-held-out/zh.jsonl", shards::jsonl(&held_out, 0));
    let month = chinese.len().div_ceil(4);
    for (index, documents) in chinese.chunks(month).enumerate() {
        let name = format!("valley-zh/data/2023-{:02}.jsonl", index + 1);
        put(&name, shards::jsonl(documents, (index * month) as i32));
    }

    let questions = questions::ask(QUESTIONS, &world, &mut Random::new(3))?;
    let (test, examples) = questions.split_at(questions.len() - EXAMPLES);
    for language in [Language::English, Language::Chinese] {
        let folder = format!("valley-questions-{}", language.code());
        put(&format!("{folder}/dev.jsonl"), questions::jsonl(examples, &world, language)?);
        put(&format!("{folder}/test.jsonl"), questions::jsonl(test, &world, language)?);
    }
    let dialogues = include_str!("../text/dialogues.txt");
    put("valley-dialogues-zh/train.jsonl", dialogues::jsonl(dialogues, &world, DIALOGUES, &mut Random::new(4))?);
    for (name, card) in CARDS {
        put(&format!("{name}/README.md"), card.as_bytes().to_vec());
    }
    Ok(files)
}

/// The documents of a corpus, among them the essays, and the held-out ones; all of them different.
fn corpus(
    grammar: &Grammar,
    world: &World,
    essays: Vec<Document>,
    random: &mut Random,
) -> Result<(Vec<Document>, Vec<Document>)> {
    let kinds = kinds(grammar)?;
    let mut seen = BTreeSet::new();
    let mut tell = || loop {
        let kind = kinds[random.below(kinds.len())];
        let text = grammar.tell(kind, world, random)?;
        if text.chars().count() >= SHORTEST && seen.insert(text.clone()) {
            return Result::Ok(Document { topic: kind.to_owned(), text });
        }
    };
    let held_out = (0..HELD_OUT_DOCUMENTS).map(|_| tell()).collect::<Result<Vec<_>>>()?;
    let mut documents = essays;
    let mut bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    while bytes < CORPUS_BYTES {
        let document = tell()?;
        bytes += document.text.len();
        documents.push(document);
    }
    random.shuffle(&mut documents);
    Ok((documents, held_out))
}

/// The kinds of documents, each as often as its weight in the rule `documents`.
fn kinds(grammar: &Grammar) -> Result<Vec<&str>> {
    let mut kinds = Vec::new();
    for entry in grammar.alternatives("documents")? {
        let (weight, kind) = entry.split_once(' ').ok_or_else(|| format!("not a weight and a kind: {entry}"))?;
        kinds.extend(std::iter::repeat_n(kind, weight.parse()?));
    }
    Ok(kinds)
}

/// The essays of a file, with a line `---` between them.
fn essays(text: &str, topic: &str) -> Vec<Document> {
    text.split("\n---\n").map(|essay| Document { topic: topic.to_owned(), text: essay.trim().to_owned() }).collect()
}
