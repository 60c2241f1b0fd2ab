//! `train-tokenizer`, `vocab-search` and `vocab-allocate`: a base from English text, extended by Chinese pieces and by
//! those of other languages; ids of the base stay.

mod workshop;

use std::io::Write;
use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::error::ExitCode;
use cmx::tokenizer::{SentencePiece, Tokenizer};
use serde_json::{Value, json};
use workshop::{Workshop, shared};

const CHINESE: &str = "examples/hub/datasets/cmx/valley-zh/data/2023-0";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn corpus(paths: &[PathBuf]) -> Value {
    json!({"from": "the corpus", "files": paths})
}

fn input(path: &Path) -> Value {
    json!({"from": "the base", "path": path})
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    documents(paths).map(|document| document.unwrap().text).collect()
}

fn english() -> PathBuf {
    root("examples/hub/datasets/cmx/valley-held-out/en.jsonl")
}

fn months(which: std::ops::RangeInclusive<u8>) -> Vec<PathBuf> {
    which.map(|month| root(&format!("{CHINESE}{month}.jsonl"))).collect()
}

/// Parameters of a search on the Chinese example, with `base`; `over` goes over them.
fn search(base: &Path, over: Value) -> Value {
    let mut parameters = json!({
        "base": input(base),
        "train": [corpus(&months(1..=3))],
        "score": [corpus(&months(4..=4))],
        "single_characters": [500, 800],
        "sizes": "1000..=2000 by 250",
        "byte_fallback": false,
    });
    for (name, value) in over.as_object().unwrap() {
        parameters[name] = value.clone();
    }
    parameters
}

/// A tokenizer trained on the English example, as the file of its model.
fn base(workshop: &Workshop) -> PathBuf {
    workshop.run("train-tokenizer", json!({"train": [corpus(&[english()])], "vocab_size": 700})).unwrap();
    workshop.write("base/tokenizer.model", &workshop.outputs()["tokenizer.model"])
}

fn search_json(workshop: &Workshop) -> Value {
    serde_json::from_slice(&workshop.outputs()["search.json"]).unwrap()
}

#[test]
fn a_base_is_trained_and_extended() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let before = Tokenizer::open(&base).unwrap();
    assert_eq!(before.vocab_size(), 700);
    assert_eq!((before.unk(), before.bos(), before.eos()), (Some(0), Some(1), Some(2)));
    let ids = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap();
    assert!(texts(&[english()]).iter().all(|text| before.decode(&ids(&before, text)).unwrap() == *text));

    workshop.run("vocab-search", search(&base, json!({}))).unwrap();
    let files: Vec<_> = workshop.outputs().into_keys().collect();
    assert_eq!(
        files,
        [
            "alp-the-corpus.png",
            "alp-the-corpus.svg",
            "search.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer.vocab",
            "tokenizer_config.json",
            "trained.model",
            "trained.vocab",
        ]
    );
    let after = Tokenizer::open(&workshop.output()).unwrap();
    let added = search_json(&workshop)["choice"]["added"].as_u64().unwrap() as usize;
    assert_eq!(after.vocab_size(), 700 + added);
    for id in 0..700 {
        assert_eq!(before.piece(id), after.piece(id));
    }
    let mut smaller = 0;
    for text in texts(&months(4..=4)) {
        let (old, new) = (ids(&before, &text), ids(&after, &text));
        assert_eq!(after.decode(&new).unwrap(), text);
        smaller += usize::from(new.len() < old.len());
    }
    assert_eq!(smaller, texts(&months(4..=4)).len());
    assert!(texts(&[english()]).iter().all(|text| ids(&before, text) == ids(&after, text)));

    let fast = Tokenizer::open(&workshop.output().join("tokenizer.json")).unwrap();
    for text in texts(&months(4..=4)).iter().chain(&texts(&[english()])) {
        assert_eq!(ids(&fast, text), ids(&after, text));
    }
    let metrics = workshop.metrics();
    assert!(metrics["cut_percent"].as_f64().unwrap() > 70.0, "{metrics:?}");
    assert_eq!(metrics["pieces_added"], added);
    assert!(workshop.said().contains("fewer tokens"));
}

#[test]
fn the_choice_follows_what_was_asked_for() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    workshop.run("vocab-search", search(&base, json!({"add": 1111}))).unwrap();
    assert_eq!(search_json(&workshop)["choice"]["added"], 1111);
    assert_eq!(Tokenizer::open(&workshop.output()).unwrap().vocab_size(), 700 + 1111);

    workshop.run("vocab-search", search(&base, json!({"size": 1600}))).unwrap();
    let search_json = search_json(&workshop);
    assert_eq!(search_json["choice"]["size"], 1600);
    let points = search_json["curves"][0]["points"].as_array().unwrap();
    let sizes: Vec<u64> = points.iter().map(|point| point["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [1000, 1250, 1500, 1600, 1750, 2000]);
    let tokens: Vec<u64> = points.iter().map(|point| point["tokens"][0].as_u64().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a > b), "{tokens:?}");

    workshop
        .run("vocab-search", search(&base, json!({"single_characters": [500, 3_900], "sizes": [4000]})))
        .unwrap();
    assert!(workshop.said().contains("single characters, not 3900: all of them are taken"));
}

#[test]
fn scores_and_recipe_as_published() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let published = json!({"add": 1500, "scores": "zero", "recipe": "as-published"});
    workshop.run("vocab-search", search(&base, published)).unwrap();
    let model = SentencePiece::open(&workshop.output().join("tokenizer.model")).unwrap();
    let new = &model.model().pieces[700..];
    assert_eq!(new.len(), 1500);
    assert!(new.iter().all(|piece| piece.score() == 0.0));
    assert!(new.iter().any(|piece| piece.text() == "”" || piece.text() == "“"));
}

#[test]
fn threads_do_not_change_a_byte() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let outputs = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| workshop.run("vocab-search", search(&base, json!({})))).unwrap();
        workshop.outputs()
    };
    assert!(outputs(1) == outputs(3));
}

#[test]
fn bad_input_is_told_before_the_work() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let fails = |over: Value, message: &str| {
        let error = workshop.run("vocab-search", search(&base, over)).unwrap_err();
        assert!(error.one_line().contains(message), "{error:?}");
        assert_eq!(error.code(), ExitCode::Invalid, "{error:?}");
    };
    fails(json!({"score": [corpus(&[english()])]}), "`score`: the corpus holds no Han character");
    fails(json!({"train": [corpus(&[english()])]}), "`train`: the documents hold no Han character");
    fails(
        json!({"single_characters": [800], "sizes": [700, 900]}),
        "a vocabulary of 700 pieces has no room for 800 single characters and 3 special pieces",
    );
    fails(json!({"size": 10, "add": 20}), "`size` and `add` both say how large the vocabulary is to be");
    fails(json!({"add": 20}), "new pieces, not the 20 asked for");
    fails(json!({"single_characters": []}), "`single_characters` must name at least one number");
    fails(json!({"single_characters": [0]}), "`single_characters` must name numbers of at least 1");
    fails(json!({"sizes": []}), "`sizes`: a list of sizes must not be empty");
    fails(json!({"lines": 0}), "`lines` must be at least 1");
    fails(json!({"score": []}), "`score` must name at least one corpus");
    fails(json!({"alphabet": 999}), "no room for 999 single characters");
    fails(json!({"size": 700}), "a vocabulary of 700 pieces has no room for 800 single characters");
    fails(json!({"scripts": ["Chinese"]}), "`scripts`: \"Chinese\" is no script");
    fails(json!({"scripts": ["Latin"]}), "`scripts`: Latin is the script of English too");
    fails(json!({"add": 5_000_000}), "not the 5000000 asked for");
    let blank = corpus(&[workshop.write("blank.jsonl", "{\"text\": \" \\n \"}\n")]);
    fails(json!({"score": [blank]}), "`score`: the corpus holds no text");

    let small = workshop.write("small.jsonl", "{\"text\": \"山谷里的春天来了\"}\n");
    let tiny = corpus(&[small]);
    fails(
        json!({"train": [tiny]}),
        "`train`: the text gives a vocabulary of 20 pieces at most, not the 2000 asked for",
    );
    let repeated = "{\"text\": \"山谷里的春天来了\"}\n".repeat(500);
    let repeated = corpus(&[workshop.write("repeated.jsonl", repeated)]);
    fails(
        json!({"train": [repeated], "single_characters": [9]}),
        "`train`: the text gives a vocabulary of 20 pieces at most, not the 2000 asked for",
    );
    let json_base = workshop.write("only/tokenizer.json", {
        workshop.run("train-tokenizer", json!({"train": [corpus(&[english()])], "vocab_size": 700})).unwrap();
        workshop.outputs().remove("tokenizer.json").unwrap()
    });
    fails(json!({"base": input(&json_base)}), "`base`: the base is no SentencePiece BPE model");
}

#[test]
fn a_unigram_base_is_refused_with_advice() {
    let Some(unigram) = shared("tokenizers/ymcui-chinese_sp-20000.model") else { return };
    let error = Workshop::new().run("vocab-search", search(&unigram, json!({}))).unwrap_err();
    assert!(error.one_line().contains("is no SentencePiece BPE model"), "{error:?}");
    assert_eq!(error.code(), ExitCode::Invalid);
    assert!(error.advice().unwrap().contains("train a base with the stage kind `train-tokenizer`"), "{error:?}");
}

#[test]
fn a_training_that_cannot_be_is_refused() {
    let workshop = Workshop::new();
    let fails = |over: Value, message: &str| {
        let mut parameters = json!({"train": [corpus(&[english()])], "vocab_size": 700});
        parameters.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let error = workshop.run("train-tokenizer", parameters).unwrap_err();
        assert!(error.one_line().contains(message), "{error:?}");
    };
    fails(json!({"vocab_size": 300}), "a vocabulary of 300 pieces has no room for");
    fails(json!({"vocab_size": 90_000}), "pieces at most, not the 90000 asked for");
    fails(json!({"vocab_size": 259}), "`vocab_size` must be above 259, the number of special pieces");
    fails(json!({"train": []}), "`train` must name at least one corpus");
    fails(json!({"character_coverage": 1.5}), "`character_coverage` is a share of the text");
    let empty = corpus(&[workshop.write("empty.jsonl", "{\"text\": \"\"}\n")]);
    fails(json!({"train": [empty]}), "`train`: the documents hold no text to train on");
}

/// The published run cut Chinese tokens by 41.5 %; so must a vocabulary from a part of real books, on lines it has not
/// seen, against a real base.
#[test]
fn real_text_is_cut_by_more_than_the_published_share() {
    let (Some(books), Some(base)) = (shared("zh/books.jsonl"), shared("stories-moe/tokenizer.model")) else {
        return;
    };
    let workshop = Workshop::new();
    let documents = texts(&[books]);
    let (held_out, train) = documents[..600].split_at(60);
    let write = |name: &str, texts: &[String]| {
        let mut lines = Vec::new();
        for text in texts {
            writeln!(lines, "{}", json!({"text": text})).unwrap();
        }
        workshop.write(name, lines)
    };
    let (train, held_out) = (write("train.jsonl", train), write("held-out.jsonl", held_out));
    workshop
        .run(
            "vocab-search",
            json!({
                "base": input(&base),
                "train": [corpus(&[train])],
                "score": [corpus(&[held_out])],
                "single_characters": [2000, 3000],
                "sizes": "4000..=10000 by 1000",
            }),
        )
        .unwrap();
    let metrics = workshop.metrics();
    assert!(metrics["cut_percent"].as_f64().unwrap() >= 41.5, "{metrics:?}");
}

/// `spm_train` writes a model and a `.vocab` file on the same lines: the files of ours are the same, letter by letter.
#[test]
#[ignore = "needs the Python that `make parity` prepares"]
fn vocab_files_are_those_of_spm_train() {
    let Some(python) = workshop::python() else { return };
    let workshop = Workshop::new();
    let lines: Vec<String> =
        texts(&months(1..=2)).iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let text = workshop.write("lines.txt", lines.join("\n"));
    let script = "import sys, sentencepiece\n\
        sentencepiece.SentencePieceTrainer.train(input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=2400,\n\
        model_type='bpe', byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,\n\
        remove_extra_whitespaces=False, normalization_rule_name='identity', minloglevel=2)";
    let prefix = workshop.input().join("theirs");
    let ran = std::process::Command::new(python).args(["-c", script]).arg(&text).arg(&prefix).status().unwrap();
    assert!(ran.success());
    workshop.run("train-tokenizer", json!({"train": [corpus(&[text])], "vocab_size": 2400})).unwrap();
    let theirs = std::fs::read_to_string(prefix.with_extension("vocab")).unwrap();
    assert_eq!(String::from_utf8(workshop.outputs().remove("tokenizer.vocab").unwrap()).unwrap(), theirs);
}

/// A `.vocab` file has the pieces and scores of the model beside it.
fn assert_vocab_fits(workshop: &Workshop, name: &str) -> usize {
    let model = SentencePiece::open(&workshop.output().join(format!("{name}.model"))).unwrap();
    let vocab = String::from_utf8(workshop.outputs().remove(&format!("{name}.vocab")).unwrap()).unwrap();
    let lines: Vec<(&str, f32)> = vocab
        .lines()
        .map(|line| line.rsplit_once('\t').unwrap())
        .map(|(piece, score)| (piece, score.parse().unwrap()))
        .collect();
    let pieces: Vec<(&str, f32)> = model.model().pieces.iter().map(|piece| (piece.text(), piece.score())).collect();
    assert_eq!(lines, pieces, "{name}");
    pieces.len()
}

#[test]
fn the_trained_vocabulary_is_there_for_others() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    assert_eq!(assert_vocab_fits(&workshop, "tokenizer"), 700);
    workshop.run("vocab-search", search(&base, json!({"size": 1600}))).unwrap();
    assert_eq!(assert_vocab_fits(&workshop, "trained"), 1600);
    let added = search_json(&workshop)["choice"]["added"].as_u64().unwrap() as usize;
    assert_eq!(assert_vocab_fits(&workshop, "tokenizer"), 700 + added);
    let vocab = String::from_utf8(workshop.outputs().remove("trained.vocab").unwrap()).unwrap();
    assert!(vocab.starts_with("<unk>\t0\n<s>\t0\n</s>\t0\n"), "{vocab}");
    assert!(vocab.lines().nth(3).unwrap().ends_with("\t-0") && vocab.lines().nth(4).unwrap().ends_with("\t-1"));
    // Two models in the folder: the extended one is the tokenizer.
    assert_eq!(Tokenizer::open(&workshop.output()).unwrap().vocab_size(), 700 + added);
    let trained = Tokenizer::open(&workshop.output().join("trained.model")).unwrap();
    let text = &texts(&months(4..=4))[0];
    assert!(!trained.encode(text).unwrap().is_empty());
}

#[test]
fn a_curve_can_be_taken_and_the_choice_explained() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let two = json!([corpus(&months(4..=4)), {"from": "dataset:知乎/问答", "files": months(3..=3)}]);
    for (over, size, by) in [
        (json!({"score": two}), None, "the best ALP at the knee"),
        (json!({"score": two, "size": 1750}), Some(1750), "the best ALP at the size asked for, 1,750"),
        (json!({"score": two, "alphabet": 800}), None, "the 800 single characters asked for at the knee"),
        (json!({"score": two, "alphabet": 650, "size": 1750}), Some(1750), "the 650 single characters asked for"),
        (json!({"score": two, "alphabet": 800, "add": 1200}), None, "where exactly 1,200 pieces are appended"),
    ] {
        workshop.run("vocab-search", search(&base, over.clone())).unwrap();
        let search = search_json(&workshop);
        let (choice, knee) = (&search["choice"], &search["knee"]);
        let why = choice["why"].as_str().unwrap();
        assert!(why.contains(by), "{over}: {why}");
        assert!(workshop.said().contains(why), "{why}");
        if let Some(size) = size {
            assert_eq!(choice["size"], size);
        }
        if let Some(alphabet) = over.get("alphabet") {
            assert_eq!(choice["single_characters"], *alphabet);
        } else {
            let over = |curve: &Value| curve["over_choice"].as_f64().unwrap() <= 0.0;
            assert!(choice["curves"].as_array().unwrap().iter().all(over), "{choice}");
        }
        // The curve that is asked for is one of those drawn.
        let characters: Vec<&Value> =
            search["curves"].as_array().unwrap().iter().map(|curve| &curve["single_characters"]).collect();
        assert!(characters.contains(&&choice["single_characters"]));
        assert_eq!(choice["curves"].as_array().unwrap().len(), characters.len());

        // The knee is that of the values that stand beside it.
        assert!(knee["method"].as_str().unwrap().contains("kneedle"));
        let sizes: Vec<u64> = serde_json::from_value(knee["sizes"].clone()).unwrap();
        for bend in knee["corpora"].as_array().unwrap().iter().chain([&knee["combined"]]) {
            let list = |name: &str| -> Vec<f64> { serde_json::from_value(bend[name].clone()).unwrap() };
            let (values, smoothed, heights) = (list("values"), list("smoothed"), list("heights"));
            assert!(values.iter().zip(&smoothed).all(|(value, smooth)| smooth >= value));
            let highest = heights.iter().copied().fold(f64::MIN, f64::max);
            let at = heights.iter().position(|height| *height == highest).unwrap();
            assert_eq!(bend["size"], sizes[at], "{bend}");
        }
        assert_eq!(workshop.metrics()["knee"], knee["combined"]["size"]);
        if over.get("size").or(over.get("add")).is_none() {
            assert_eq!(choice["size"], knee["combined"]["size"]);
        }
    }
}

/// What a PNG holds: width, height, and its pixels' red, green and blue.
fn read_png(bytes: &[u8]) -> (usize, usize, Vec<[u8; 3]>) {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("a PNG");
    let (mut header, mut data, mut ended) = (Vec::new(), Vec::new(), false);
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let (kind, content) = (&rest[4..8], &rest[8..8 + length]);
        let sum = u32::from_be_bytes(rest[8 + length..12 + length].try_into().unwrap());
        assert_eq!(sum, crc32fast::hash(&rest[4..8 + length]));
        match kind {
            b"IHDR" => header = content.to_vec(),
            b"IDAT" => data.extend_from_slice(content),
            b"IEND" => ended = true,
            other => panic!("{other:?}"),
        }
        rest = &rest[12 + length..];
    }
    assert!(ended);
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) as usize;
    let (width, height) = (number(0), number(4));
    assert_eq!(header[8..], [8, 2, 0, 0, 0]);
    let rows = miniz_oxide::inflate::decompress_to_vec_zlib(&data).unwrap();
    assert_eq!(rows.len(), height * (1 + 3 * width));
    let pixels = rows.chunks(1 + 3 * width).flat_map(|row| {
        assert_eq!(row[0], 0);
        row[1..].chunks(3).map(|pixel| pixel.try_into().unwrap()).collect::<Vec<[u8; 3]>>()
    });
    (width, height, pixels.collect())
}

/// An SVG's texts, title and description among them, and the numbers of its polylines' points.
fn read_svg(bytes: &[u8]) -> (Vec<String>, Vec<usize>) {
    let text = std::str::from_utf8(bytes).unwrap();
    let document = roxmltree::Document::parse(text).unwrap();
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.tag_name().namespace()), ("svg", Some("http://www.w3.org/2000/svg")));
    assert_eq!(root.attribute("role"), Some("img"));
    let texts = root.descendants().filter(|node| node.is_text()).filter_map(|node| node.text());
    let lines = root.descendants().filter(|node| node.has_tag_name("polyline"));
    let points = lines.map(|line| line.attribute("points").unwrap().split(' ').count());
    (texts.map(str::to_owned).collect(), points.collect())
}

#[test]
fn curves_are_drawn() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let over = json!({
        "single_characters": [500, 600, 700, 800],
        "score": [corpus(&months(4..=4)), {"from": "dataset:知乎/<问答> & \"更多\"", "files": months(3..=3)}],
        "size": 1750,
    });
    workshop.run("vocab-search", search(&base, over)).unwrap();
    let outputs = workshop.outputs();
    let search = search_json(&workshop);
    assert_eq!(search["combined_figure"], "alp-combined");
    let figures = search["corpora"].as_array().unwrap().iter().map(|corpus| corpus["figure"].as_str().unwrap());
    let figures: Vec<&str> = figures.chain(["alp-combined"]).collect();
    assert_eq!(figures, ["alp-the-corpus", "alp-知乎-问答-更多", "alp-combined"]);
    let colors = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167]];
    for name in figures {
        let (width, height, pixels) = read_png(&outputs[&format!("{name}.png")]);
        assert_eq!((width, height), (1920, 1200));
        assert_eq!(pixels[0], [255; 3]);
        for color in colors {
            let count = pixels.iter().filter(|pixel| **pixel == color).count();
            assert!((500..40_000).contains(&count), "{name}: {count} pixels of {color:?}");
        }
        let (texts, lines) = read_svg(&outputs[&format!("{name}.svg")]);
        let has =
            |wanted: &str| assert!(texts.iter().any(|text| text.contains(wanted)), "{name}: {wanted}: {texts:?}");
        for wanted in ["ALP by vocabulary size: ", "single characters", "500", "600", "700", "800", "1,750", "knee"]
        {
            has(wanted);
        }
        if name.contains("知乎") {
            has("ALP by vocabulary size: 知乎/<问答> & \"更多\"");
        }
        // 1000 to 2000 by 250: five sizes a curve, and no other line has so many points.
        assert_eq!(lines.iter().filter(|points| **points == 5).count(), 4, "{name}");
    }
}

/// Sentences of made-up words, of which few are frequent: as many as asked for, the same every time.
fn sentences(syllables: &[&str], between: &str, end: &str, count: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % bound
    };
    let words: Vec<String> =
        (0..3000).map(|_| (0..2 + below(3)).map(|_| syllables[below(syllables.len())]).collect()).collect();
    let mut sentence = || {
        let length = 5 + below(8);
        let mut word = || {
            let most = 1 + below(words.len());
            words[below(most)].as_str()
        };
        let words: Vec<&str> = (0..length).map(|_| word()).collect();
        words.join(between) + end
    };
    (0..count).map(|_| sentence()).collect()
}

const RUSSIAN: [&str; 16] =
    ["ве", "сна", "до", "ли", "на", "ре", "ка", "го", "ра", "при", "хо", "дит", "сне", "гом", "лес", "ный"];
const JAPANESE: [&str; 12] = ["はる", "たに", "山", "川", "の", "カメラ", "した", "来", "花", "ます", "コー", "雪"];

/// Two files of documents: to train and to score on.
fn written(workshop: &Workshop, name: &str, sentences: &[String]) -> (Value, Value) {
    let write = |part: &str, sentences: &[String]| {
        let lines: String =
            sentences.chunks(4).map(|chunk| format!("{}\n", json!({"text": chunk.join("\n")}))).collect();
        corpus(&[workshop.write(&format!("{name}-{part}.jsonl"), lines)])
    };
    let (score, train) = sentences.split_at(sentences.len() / 10);
    (write("train", train), write("score", score))
}

/// Parameters of an allocation to Chinese, Russian and Japanese.
fn allocation(workshop: &Workshop, base: &Path, over: Value) -> Value {
    let (ru_train, ru_score) = written(workshop, "ru", &sentences(&RUSSIAN, " ", ".", 3000, 1));
    let (ja_train, ja_score) = written(workshop, "ja", &sentences(&JAPANESE, "", "。", 2000, 2));
    let mut parameters = json!({
        "base": input(base),
        "languages": {
            "zh": {"train": [corpus(&months(1..=3))], "score": [corpus(&months(4..=4))], "single_characters": 700},
            "ru": {"train": [ru_train], "score": [ru_score]},
            "ja": {"train": [ja_train], "score": [ja_score]},
        },
        "sizes": "100..=2500 by 100",
        "byte_fallback": false,
        "add": 2000,
    });
    for (name, value) in over.as_object().unwrap() {
        parameters[name] = value.clone();
    }
    parameters
}

fn allocation_json(workshop: &Workshop) -> Value {
    serde_json::from_slice(&workshop.outputs()["allocation.json"]).unwrap()
}

#[test]
fn a_vocabulary_is_shared_out_among_languages() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let before = Tokenizer::open(&base).unwrap();
    let files = |language: &str, part: &str| workshop.input().join(format!("{language}-{part}.jsonl"));
    for add in [1_300, 2_000, 2_001] {
        workshop.run("vocab-allocate", allocation(&workshop, &base, json!({"add": add}))).unwrap();
        let after = Tokenizer::open(&workshop.output()).unwrap();
        assert_eq!(after.vocab_size(), 700 + add);
        assert!((0..700).all(|id| before.piece(id) == after.piece(id)));
        assert_eq!(assert_vocab_fits(&workshop, "tokenizer"), 700 + add);
        let mut pieces: Vec<&str> = (0..after.vocab_size() as u32).filter_map(|id| after.piece(id)).collect();
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), 700 + add);

        // English and code are what they were, and every language is shorter than it was.
        let code = "fn main() {\n    let x = [1, 2.5e-3];\t// \"quoted\" — 100 %\n}";
        assert!(texts(&[english()]).iter().all(|text| before.encode(text).unwrap() == after.encode(text).unwrap()));
        assert_eq!(before.encode(code).unwrap(), after.encode(code).unwrap());
        for (language, files) in
            [("ru", vec![files("ru", "score")]), ("ja", vec![files("ja", "score")]), ("zh", months(4..=4))]
        {
            for text in texts(&files) {
                assert!(
                    after.encode(&text).unwrap().len() < before.encode(&text).unwrap().len(),
                    "{language}: {text}"
                );
                assert_eq!(after.decode(&after.encode(&text).unwrap()).unwrap(), text);
            }
        }

        let found = allocation_json(&workshop);
        assert_eq!(found["added"], add);
        let languages = found["languages"].as_array().unwrap();
        let names: Vec<&str> = languages.iter().map(|language| language["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["ja", "ru", "zh"]);
        assert_eq!(languages[0]["scripts"], json!(["Han", "Hiragana", "Katakana"]));
        assert_eq!(languages[1]["scripts"], json!(["Cyrillic"]));
        assert_eq!(languages[2]["scripts"], json!(["Han"]));
        let own: u64 = languages.iter().map(|language| language["pieces"].as_u64().unwrap()).sum();
        // Chinese characters of Japanese are counted once.
        assert!(own > add as u64, "{own}");
        let threshold = found["threshold"].as_f64().unwrap();
        for language in languages {
            let worths: Vec<f64> = serde_json::from_value(language["worths"].clone()).unwrap();
            let sizes: Vec<u64> = serde_json::from_value(language["sizes"].clone()).unwrap();
            let at = sizes.iter().position(|size| language["allocated"] == *size).unwrap();
            assert!(worths[..at].iter().all(|worth| *worth > threshold));
            assert!(worths[at..].iter().all(|worth| *worth <= threshold), "{language}");
            assert!(worths.is_sorted_by(|a, b| a + 1e-9 >= *b), "{worths:?}");
            // What was missing came from the next sizes.
            assert!(language["size"].as_u64() >= language["allocated"].as_u64());
            let name = format!("trained-{}", language["name"].as_str().unwrap());
            assert_eq!(assert_vocab_fits(&workshop, &name) as u64, language["size"].as_u64().unwrap());
            let figure = language["figure"].as_str().unwrap();
            let (_, lines) = read_svg(&workshop.outputs()[&format!("{figure}.svg")]);
            assert!(lines.iter().filter(|points| **points == sizes.len()).count() >= 1);
        }
        let (texts, _) = read_svg(&workshop.outputs()["allocation.svg"]);
        assert!(["ja", "ru", "zh"].iter().all(|name| texts.iter().any(|text| text == name)));
        read_png(&workshop.outputs()["allocation.png"]);
    }
}

#[test]
fn a_larger_share_gives_a_larger_vocabulary() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let pieces = |beta: f64, shares: [f64; 3]| -> [u64; 3] {
        let mut parameters = allocation(&workshop, &base, json!({"beta": beta}));
        for (name, share) in ["ja", "ru", "zh"].iter().zip(shares) {
            parameters["languages"][*name]["share"] = json!(share);
        }
        workshop.run("vocab-allocate", parameters).unwrap();
        let found = allocation_json(&workshop);
        [0, 1, 2].map(|at| found["languages"][at]["pieces"].as_u64().unwrap())
    };
    let (even, russian, raised) =
        (pieces(0.7, [1.0, 1.0, 1.0]), pieces(1.0, [1.0, 20.0, 1.0]), pieces(0.3, [1.0, 20.0, 1.0]));
    assert!(russian[1] > even[1] && russian[2] < even[2], "{even:?}, {russian:?}");
    assert!(raised[1] < russian[1], "{raised:?}, {russian:?}");
    // Without differences the shares are of no account.
    assert_eq!(pieces(0.0, [5.0, 1.0, 9.0]), even);
}

#[test]
fn an_allocation_is_the_same_on_any_number_of_threads() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let outputs = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| workshop.run("vocab-allocate", allocation(&workshop, &base, json!({})))).unwrap();
        workshop.outputs()
    };
    assert!(outputs(1) == outputs(3));
}

#[test]
fn what_cannot_be_shared_out_is_refused() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let fails = |change: &dyn Fn(&mut Value), message: &str| {
        let mut parameters = allocation(&workshop, &base, json!({}));
        change(&mut parameters);
        let error = workshop.run("vocab-allocate", parameters).unwrap_err();
        assert!(error.one_line().contains(message), "{error:?}");
        assert_eq!(error.code(), ExitCode::Invalid, "{error:?}");
    };
    let english = || json!({"train": [corpus(&[english()])], "score": [corpus(&[english()])]});
    fails(&|all| all["languages"] = json!({"zh": all["languages"]["zh"]}), "`languages` must be at least two");
    fails(&|all| all["add"] = json!(0), "`add` must be at least 1");
    fails(&|all| all["add"] = json!(200), "new pieces together, not the 200 asked for");
    fails(&|all| all["add"] = json!(50_000), "new pieces together, not the 50000 asked for");
    fails(&|all| all["beta"] = json!(-1.0), "`beta` must be at least 0");
    fails(&|all| all["languages"]["ru"]["share"] = json!(2), "language `ja` has no `share`, and others have one");
    fails(&|all| all["languages"]["ru"]["score"] = json!([]), "`languages.ru.score` must name at least one corpus");
    fails(
        &|all| all["languages"]["ru"]["scripts"] = json!(["Greek"]),
        "`languages.ru.train`: the documents hold no Greek character",
    );
    fails(
        &|all| all["languages"]["ru"]["score"] = all["languages"]["ja"]["score"].clone(),
        "`languages.ru.score`: the corpus holds no Cyrillic character",
    );
    fails(&|all| all["languages"]["en"] = english(), "`languages.en.train`: Latin is the script of English too");
    fails(
        &|all| all["languages"]["zh"]["single_characters"] = json!(2498),
        "`languages.zh.single_characters` leaves no room in the largest of `sizes`, 2500 pieces",
    );
    let by_coverage = |all: &mut Value| {
        all["sizes"] = json!([150, 400]);
        all["languages"]["zh"].as_object_mut().unwrap().remove("single_characters");
    };
    fails(&by_coverage, "single characters of `zh` and 3 special pieces");
}

/// English can be extended by a language in its own letters where that is asked for.
#[test]
fn a_latin_language_is_appended_as_published() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let syllables = ["việt", "ngữ", "đất", "nước", "sông", "núi", "xuân", "hoa", "tuyết"];
    let (train, score) = written(&workshop, "vi", &sentences(&syllables, " ", ".", 800, 3));
    let over = json!({
        "train": [train],
        "score": [score],
        "scripts": ["Latin"],
        "recipe": "as-published",
        "single_characters": [30],
        "sizes": "200..=400 by 50",
    });
    workshop.run("vocab-search", search(&base, over)).unwrap();
    let (before, after) = (Tokenizer::open(&base).unwrap(), Tokenizer::open(&workshop.output()).unwrap());
    let text = "việtngữ sôngnúi.";
    assert!(after.encode(text).unwrap().len() < before.encode(text).unwrap().len());
    assert_eq!(after.decode(&after.encode(text).unwrap()).unwrap(), text);
}
