//! A ratio edited in the manifest reruns training, merging and evaluation of the merged model, and nothing else.

mod support;

use support::small_quickstart;

#[test]
fn a_ratio_edit_reruns_train_merge_and_eval_only() {
    let project = small_quickstart();
    project.run();
    let before = project.digests();
    let ran = project.run();
    assert_eq!(ran.done(), [""; 0]);

    let manifest = project.read("p.toml");
    let line = manifest.lines().find(|line| line.contains(":valley-en\"")).expect("a share of the English corpus");
    let share = line.split('"').find(|part| part.ends_with(":valley-en")).expect("a share");
    project.edit("p.toml", &format!("\"{share}\""), "\"0.25:valley-en\"");
    let why = project.cmx(&["explain", "train"]).success().stdout;
    assert_eq!(why, format!("train: mix: \"{share}\" → \"0.25:valley-en\"\n"));
    assert_eq!(project.run().done(), ["train", "merge", "eval[merge]", "compare"]);
    assert_ne!(project.digests(), before);

    project.edit("p.toml", "\"0.25:valley-en\"", &format!("\"{share}\""));
    assert_eq!(project.run().done(), [""; 0], "the old artifacts are there again");
    assert_eq!(project.digests(), before);

    project.edit("p.toml", "[stage.train]\n", "# a remark\n\n[stage.train]   # and another\n");
    assert_eq!(project.run().done(), [""; 0]);

    let ran = project.cmx(&["rerun", "--from", "train"]).success();
    assert_eq!(ran.done(), ["train", "merge", "eval[merge]", "compare"]);
    assert_eq!(project.digests(), before, "the same inputs give the same bytes");

    let tokens = project.cmx(&["tokens"]).success().stdout;
    assert!(tokens.contains("mix of train: 12 steps of 16 blocks") && tokens.contains(share), "{tokens}");
    for (prompt, model) in [("The bridge", "outputs/merge"), ("云雀谷", "outputs/merge")] {
        let ran = project.cmx(&["generate", "--model", model, "--prompt", prompt, "--max-tokens", "8"]).success();
        assert!(ran.stdout.starts_with(prompt) && ran.stdout.len() > prompt.len() + 1, "{}", ran.stdout);
    }
}
