//! What no run can carry out is refused with the plan, at the user's own line, before anything runs.

mod support;

use support::Project;

/// A project with one stage; `parameters` are the lines of its table.
fn project(kind: &str, parameters: &str) -> Project {
    let registry = "[books]\nroot = \"books\"\nsplits = [\"train\", \"dev\"]\n";
    Project::new()
        .file("datasets.toml", registry)
        .file("text.txt", "春天来了\n")
        .file("base.model", "")
        .file("books/a.jsonl", "{\"text\": \"春天来了\"}\n")
        .file("books/books-train.jsonl", "")
        .file("books/books-dev.jsonl", "")
        .file("model/config.json", "{}")
        .file("p.toml", &format!("name = \"p\"\n[stage.it]\nuse = \"{kind}\"\n{parameters}\n"))
}

/// `cmx check` and `cmx plan` refuse it with exit code 2; the message, the line shown, and what is marked in it.
fn refused(kind: &str, parameters: &str, message: &str, line: &str) {
    let project = project(kind, parameters);
    for verb in ["check", "plan"] {
        let ran = project.cmx(&[verb, "p.toml"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{kind}: {parameters}: {}", ran.stderr);
        let words = |text: &str| text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words(&ran.stderr).contains(&words(message)), "{kind}: {message}: {}", ran.stderr);
        let number =
            project.read("p.toml").lines().position(|own| own == line).expect("a line of the manifest") + 1;
        assert!(ran.stderr.contains(&format!("p.toml:{number}:")), "{kind}: {line}: {}", ran.stderr);
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
    assert!(!project.path().join("cache").exists(), "nothing has run");
}

const SEARCH: &str = "base = \"base.model\"\ntrain = [\"text.txt\"]\nscore = [\"text.txt\"]\n";

#[test]
fn of_a_vocabulary_search() {
    for (parameter, message) in [
        ("sizes = []", "`sizes`: a list of sizes must not be empty"),
        ("sizes = \"9000..=8000 by 100\"", "`sizes`: `9000..=8000 by 100` holds no size"),
        (
            "sizes = [5000]",
            "a vocabulary of 5000 pieces has no room for 7434 single characters and 259 special pieces",
        ),
        ("single_characters = []", "`single_characters` must name at least one number"),
        ("single_characters = [4451, 0]", "`single_characters` must name numbers of at least 1"),
        ("size = 4000", "a vocabulary of 4000 pieces has no room for 7434 single characters"),
        ("add = 0", "`add` must be at least 1"),
        ("lines = 0", "`lines` must be at least 1"),
        ("alphabet = 0", "`alphabet` must be at least 1"),
        ("scripts = [\"Chinese\"]", "`scripts`: \"Chinese\" is no script"),
        ("scripts = [\"Latin\"]", "`scripts`: Latin is the script of English too"),
    ] {
        refused("vocab-search", &format!("{SEARCH}{parameter}"), &format!("stage `it`: {message}"), parameter);
    }
    let both = format!("{SEARCH}size = 20000\nadd = 9000");
    refused("vocab-search", &both, "`size` and `add` both say how large the vocabulary is to be", "add = 9000");
    let nothing = SEARCH.replace("score = [\"text.txt\"]", "score = []");
    refused("vocab-search", &nothing, "`score` must name at least one corpus", "score = []");
}

#[test]
fn of_an_allocation() {
    let language = |name: &str, more: &str| {
        format!("[stage.it.languages.{name}]\ntrain = [\"text.txt\"]\nscore = [\"text.txt\"]\n{more}\n")
    };
    let with = |zh: &str, ja: &str| {
        format!("base = \"base.model\"\nadd = 9000\n{}{}", language("zh", zh), language("ja", ja))
    };
    for (parameter, message) in [
        ("share = -1", "`languages.zh.share` must be above 0"),
        ("single_characters = 0", "`languages.zh.single_characters` must be at least 1"),
        ("single_characters = 70000", "leaves no room in the largest of `sizes`, 50000 pieces"),
        ("scripts = [\"Latin\"]", "`languages.zh.scripts`: Latin is the script of English too"),
        ("scripts = [\"Inherited\"]", "`languages.zh.scripts`: \"Inherited\" is no script"),
    ] {
        let ja = if parameter.starts_with("share") { "share = 1" } else { "" };
        refused("vocab-allocate", &with(parameter, ja), message, parameter);
    }
    refused("vocab-allocate", &with("share = 2", ""), "language `ja` has no `share`", "[stage.it.languages.ja]");
    let alone = format!("base = \"base.model\"\nadd = 9000\n{}", language("zh", ""));
    refused("vocab-allocate", &alone, "`languages` must be at least two", "[stage.it.languages.zh]");
    let ran = project("vocab-allocate", &with("share = 2", "share = 1")).cmx(&["check", "p.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn of_the_other_kinds() {
    let train = "model = \"model\"\nmix = [\"1:books\"]\n";
    let registered = |parameters: &str| {
        let project = project("train", &format!("{train}{parameters}"));
        project.write(
            "datasets.toml",
            "[books]\nroot = \"books\"\nsplits = [\"train\"]\nencoded = \"encoded-{split}\"\n",
        );
        project.write("books/encoded-train/state.json", "{}");
        project
    };
    for (parameters, message, place) in [
        ("lora.rank = 0", "`lora.rank` is 0; it must be at least 1", "p.toml:6:13"),
        ("warmup_ratio = 1.5", "`warmup_ratio` is 1.5; it must be between 0 and 1", "p.toml:6:16"),
        ("beta1 = 1", "`beta1` is 1; it must be at least 0 and below 1", "p.toml:6:9"),
        ("learning_rate = -1e-5", "`learning_rate` is -0.00001; it must be at least 0", "p.toml:6:17"),
        ("method = \"full\"\nquantization = \"nf4\"", "weights packed to NF4 cannot be trained", "p.toml:7:16"),
    ] {
        let ran = registered(parameters).cmx(&["check", "p.toml"]);
        assert_eq!(ran.code, 2, "{parameters}: {}", ran.stderr);
        assert!(ran.stderr.contains(message) && ran.stderr.contains(place), "{parameters}: {}", ran.stderr);
    }
    let ran = registered("lora.rank = 8").cmx(&["check", "p.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    for (kind, parameters, message, line) in [
        (
            "train-tokenizer",
            "train = [\"text.txt\"]\nvocab_size = 200",
            "`vocab_size` must be above 259",
            "vocab_size = 200",
        ),
        (
            "train-tokenizer",
            "train = [\"text.txt\"]\nvocab_size = 900\ncharacter_coverage = 2.0",
            "`character_coverage` is a share of the text",
            "character_coverage = 2.0",
        ),
        (
            "new-model",
            "tokenizer = \"base.model\"\nnum_key_value_heads = 0",
            "`num_key_value_heads` is 0; it must be at least 1",
            "num_key_value_heads = 0",
        ),
        (
            "encode",
            "dataset = \"books\"\ntokenizer = \"base.model\"\nsequence_length = 0",
            "`sequence_length` is 0: a block must hold a token",
            "sequence_length = 0",
        ),
        (
            "eval",
            "model = \"model\"\ntexts = [\"text.txt\"]\nbatch_tokens = 0",
            "`batch_tokens` is 0: nothing could be computed",
            "batch_tokens = 0",
        ),
        ("eval", "model = \"model\"", "neither `tasks` nor `texts` are given", "[stage.it]"),
        (
            "download",
            "repo = \"a/b\"\nurls = [\"https://example.org/x\"]",
            "more than one thing says what to download",
            "[stage.it]",
        ),
        (
            "download",
            "urls = [\"https://example.org/x\"]\nrevision = \"v1\"",
            "`revision` means a repository's files, not those at `urls`",
            "revision = \"v1\"",
        ),
        (
            "parquet2jsonl",
            "dataset = \"books\"\ncolumns = []",
            "`columns` is empty: nothing would be written",
            "columns = []",
        ),
        (
            "compare",
            "results = [\"model\"]\nlabels = [\"a\", \"b\"]",
            "there are 2 `labels` for 1 `results`",
            "labels = [\"a\", \"b\"]",
        ),
    ] {
        refused(kind, parameters, message, line);
    }
}
