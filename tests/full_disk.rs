//! A disk that fills under each of the stages that write weights: a clear error, nothing lost, and with room again the
//! same bytes as if it had never been full.

mod support;

use support::{Project, Tmpfs};

const PIPELINE: &str = r#"
name = "p"
[stage.tokenizer]
use = "train-tokenizer"
train = ["dataset:notes/train"]
vocab_size = 300
[stage.new]
use = "new-model"
tokenizer = "@tokenizer"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
num_local_experts = 2
[stage.chat]
use = "add-tokens"
tokenizer = "@tokenizer"
tokens = ["<|begin|>", "<|end|>"]
[stage.expand]
model = "@new"
tokenizer = "@chat"
[stage.encode]
dataset = "notes"
tokenizer = "@chat"
sequence_length = 32
[stage.train]
model = "@expand"
mix = ["1:notes"]
batch_size = 2
max_steps = 8
checkpoint_steps = 3
lora = { rank = 4, alpha = 8 }
[stage.merge]
model = "@expand"
adapter = "@train"
[stage.export]
model = "@merge"
"#;

fn project() -> Project {
    let notes = |count: usize| {
        let line =
            |n| format!("{{\"text\": \"note {n}: the mill by the river grinds {n} sacks of corn a day\"}}\n");
        (0..count).map(line).collect::<String>()
    };
    Project::new()
        .file(
            "datasets.toml",
            "[notes]\nsplits = [\"train\", \"dev\"]\nroot = \"corpus\"\ndoc = \"{name}-{split}\"\n",
        )
        .file("corpus/notes-train.jsonl", &notes(60))
        .file("corpus/notes-dev.jsonl", &notes(10))
        .file("p.toml", PIPELINE)
}

#[test]
fn a_stage_that_writes_weights_fails_and_goes_on_when_there_is_room() {
    let project = project();
    let Some(cache) = Tmpfs::new(project.path().join("cache"), "64m") else { return };
    project.cmx(&["run", "p.toml", "--only", "new", "--only", "encode", "--only", "chat"]).success();
    for (stage, said) in [
        ("expand", "/model.safetensors: No space left on device"),
        ("train", "No space left on device"),
        ("merge", "/model.safetensors: No space left on device"),
        ("export", "/model.safetensors: No space left on device"),
    ] {
        // Less than what each of them writes.
        cache.resize(cache.used() + (96 << 10));
        let ran = project.cmx(&["run", "p.toml", "--only", stage]);
        assert_eq!(ran.code, 1, "{stage}: {}", ran.stderr);
        let line = ran.stderr.lines().find(|line| line.contains(&format!("{stage}: failed: "))).expect("a failure");
        assert!(line.contains("cannot write ") && line.contains(said), "{line}");
        assert!(ran.stderr.contains("hint: "), "what to do is not said: {}", ran.stderr);
        assert!(!project.digests().contains_key(&format!("outputs/{stage}")), "nothing half-made is shown");
        cache.resize(64 << 20);
        assert!(project.cmx(&["verify"]).success().stdout.contains("are whole"));
        let ran = project.cmx(&["run", "p.toml", "--only", stage]).success();
        assert_eq!(ran.done(), [stage], "{}", ran.stderr);
    }
    let undisturbed = self::project();
    undisturbed.run();
    assert_eq!(project.digests(), undisturbed.digests());
}
