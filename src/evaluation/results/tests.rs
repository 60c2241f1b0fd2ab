//! The files of results: figures, order, and rounding.

use super::*;
use crate::evaluation::answers::Answer;
use crate::evaluation::tasks::Item;

/// A subject of which the first `correct` of `items` are answered rightly.
fn subject(name: &str, group: Option<Group>, normalised: bool, correct: usize, items: usize) -> SubjectResult {
    let item = Item { context: String::new(), continuations: Vec::new(), characters: vec![1; 4], target: 1 };
    let answer = |number| Answer {
        log_likelihoods: vec![-1.0, -0.123456789],
        prediction: usize::from(number < correct),
        prediction_normalised: 1,
        target: 1,
    };
    SubjectResult {
        subject: Subject {
            name: name.to_owned(),
            alias: name.replace("mmlu_", ""),
            group,
            description: "About it.\n\n".to_owned(),
            version: 0.0,
            normalised,
            items: vec![item; items],
        },
        answers: Answers((0..items).map(answer).collect()),
    }
}

fn evaluation() -> Evaluation {
    let group = |name, alias| Some(Group { name, alias, parent: Some("mmlu") });
    let mmlu = vec![
        subject("mmlu_anatomy", group("mmlu_stem", "stem"), false, 1, 4),
        subject("mmlu_law", group("mmlu_humanities", "humanities"), false, 3, 4),
        subject("mmlu_logic", group("mmlu_humanities", "humanities"), false, 0, 2),
    ];
    let text = TextScore {
        documents: 2,
        tokens: 100,
        characters: 80,
        bytes: 200,
        negative_log_likelihood: 400.0 * std::f64::consts::LN_2,
        digest: "d".to_owned(),
    };
    Evaluation {
        model: "@merge".to_owned(),
        shots: 5,
        limit: None,
        windows: Some(Windows { length: 64, stride: 32 }),
        tasks: vec![
            TaskResult { name: "MMLU".to_owned(), subjects: mmlu },
            TaskResult { name: "quiz".to_owned(), subjects: vec![subject("quiz", None, true, 2, 4)] },
        ],
        texts: vec![TextResult { name: "books/dev".to_owned(), score: text }],
    }
}

#[test]
fn results_have_the_shape_of_the_harness() {
    let json = evaluation().to_json();
    let names: Vec<&str> = json["results"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["mmlu", "mmlu_humanities", "mmlu_law", "mmlu_logic", "mmlu_stem", "mmlu_anatomy", "quiz"];
    assert_eq!(names, expected);
    assert_eq!(json["results"]["mmlu"]["acc,none"], json!(0.4));
    assert_eq!(json["results"]["mmlu_law"]["alias"], "  - law");
    assert_eq!(json["results"]["mmlu_humanities"]["alias"], " - humanities");
    assert_eq!(json["results"]["mmlu_law"].as_object().unwrap().len(), 3);
    assert_eq!(json["results"]["quiz"]["acc_norm,none"], json!(1.0));
    assert_eq!(json["groups"].as_object().unwrap().len(), 3);
    assert_eq!(json["versions"]["mmlu"], "N/A");
    assert_eq!(json["n-shot"]["mmlu_stem"], json!(5));
    assert_eq!(json["tasks"][0]["correct"], json!(4));
    assert_eq!(json["tasks"][1]["normalised_correct"], json!(4));
    assert_eq!(json["texts"][0]["bits_per_byte"], json!(2.0));
    assert_eq!(json["texts"][0]["tokens_per_character"], json!(1.25));
}

#[test]
fn every_item_has_its_line() {
    let samples = evaluation().samples();
    assert_eq!(samples.lines().count(), 14);
    let first = samples.lines().next().unwrap();
    let expected = r#"{"task":"mmlu_anatomy","doc_id":0,"log_likelihoods":[-1.0,-0.123457],"target":1,"prediction":1,"acc":1}"#;
    assert_eq!(first, expected);
}

#[test]
fn the_note_is_short_and_aligned() {
    let expected = "\
text        documents  characters  tokens  tokens/char   loss  bits/byte
books/dev           2          80     100        1.250  2.773      2.000

task   items  accuracy       ±  normalised
MMLU      10    40.0 %  16.3 %
quiz       4    50.0 %  28.9 %     100.0 %
";
    assert_eq!(evaluation().note(), expected);
    let markdown = evaluation().to_markdown();
    assert!(markdown.contains("|   - law | 4 | 75.0 % | 25.0 % |  |"), "{markdown}");
    assert!(markdown.contains("windows of 64 tokens, stride 32"));
}
