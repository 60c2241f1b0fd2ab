//! What `cmx plan` and `cmx tokens` say of a mix before the training is what the training reads, block by block.

mod support;

use serde_json::{Value, json};
use support::{Project, small_quickstart};

fn mix(project: &Project, command: &str) -> Value {
    let ran = project.cmx(&[command, "p.toml", "--json"]).success();
    let told: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    told["mixes"].as_array().expect("mixes").iter().find(|mix| mix["stage"] == "train").expect("a mix").clone()
}

#[test]
fn the_plan_of_a_mix_is_what_the_training_reads() {
    let project = small_quickstart();
    project.edit(
        "p.toml",
        r#"mix   = ["4:valley-zh", "0.5:valley-en"]"#,
        r#"mix   = ["0.02:valley-zh", "1.5K tokens:valley-en", "0.003:valley-en"]"#,
    );
    // 40 blocks of 128 tokens: five steps a pass, and two passes and a part.
    project.edit(
        "p.toml",
        "learning_rate = 4e-3\nbatch_size    = 16",
        "gradient_accumulation_steps = 2\nbatch_size = 4",
    );

    let unknown = mix(&project, "plan");
    assert_eq!((&unknown["steps"], &unknown["shares"][0]["taken"]), (&Value::Null, &Value::Null));
    let why = "not known yet: encode[valley-zh] waits for split[valley-zh], vocab";
    assert_eq!(unknown["why"][0], why);
    let text = project.cmx(&["plan", "p.toml"]).success().stdout;
    assert!(text.contains(why), "{text}");

    project.cmx(&["run", "p.toml", "--only", "encode[valley-en]", "--only", "encode[valley-zh]"]).success();
    let plan = mix(&project, "plan");
    assert_eq!(plan, mix(&project, "tokens"));
    let shares = plan["shares"].as_array().unwrap();
    let part = |share: &Value, ratio: f64| json!((share["encoded"].as_f64().unwrap() * ratio) as u64);
    assert_eq!(shares[0]["taken"], part(&shares[0], 0.02));
    assert_eq!(shares[1]["taken"], 11, "1,500 tokens are eleven blocks and a part");
    assert_eq!(shares[2]["taken"], part(&shares[2], 0.003));
    let taken: u64 = shares.iter().map(|share| share["taken"].as_u64().unwrap()).sum();
    assert_eq!((&plan["steps"], &plan["blocks"], &plan["tokens"]), (&json!(12), &json!(96), &json!(96 * 128)));
    assert_eq!(plan["left_out"], taken % 8);
    assert!(taken / 8 < 6, "the run is more than two passes");

    project.cmx(&["run", "p.toml", "--only", "train"]).success();
    let mut read = std::collections::BTreeMap::<String, u64>::new();
    for line in project.read("outputs/train/metrics.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let Some(blocks) = record["blocks"].as_object() else { continue };
        assert_eq!(blocks.values().map(|blocks| blocks.as_u64().unwrap()).sum::<u64>(), 8);
        for (dataset, blocks) in blocks {
            *read.entry(dataset.clone()).or_default() += blocks.as_u64().unwrap();
        }
    }
    let planned = |index: usize| shares[index]["blocks"].as_u64().unwrap();
    let expected = [("valley-en".to_owned(), planned(1) + planned(2)), ("valley-zh".to_owned(), planned(0))];
    assert_eq!(read, expected.into());
    assert_eq!(mix(&project, "tokens"), plan, "and it says the same afterwards");
    let table = project.cmx(&["tokens", "p.toml"]).success().stdout;
    assert!(table.contains("mix of train: 12 steps of 8 blocks\n"), "{table}");
    assert!(table.contains("1.5K tokens:valley-en  "), "{table}");
}

#[test]
fn a_mix_that_cannot_be_trained_on_is_told_by_the_plan() {
    let project = small_quickstart();
    project.edit("p.toml", r#"["4:valley-zh", "0.5:valley-en"]"#, r#"["0.001:valley-zh"]"#);
    project.cmx(&["run", "p.toml", "--only", "encode[valley-zh]"]).success();
    let plan = mix(&project, "plan");
    assert_eq!(plan["steps"], Value::Null);
    let taken = &plan["shares"][0]["taken"];
    assert_eq!(plan["why"], json!([format!("the mix has {taken} blocks, fewer than one step takes (16)")]));
}
