//! What a wrong manifest is answered with: the exact message, the user's own line, and the nearest right word.

mod support;

use support::Project;

const REGISTRY: &str = r#"[books]
root = "{DATA_DIR}/zh/{name}"
repo = "someone/books"

[SkyPile-150B-2023]
repo = "Skywork/SkyPile-150B"
"#;

/// A project whose pipeline is right, for each test to spoil.
fn project() -> Project {
    Project::new().file("datasets.toml", REGISTRY).file("tokenizer.model", "").file(
        "p.toml",
        r#"[vars]
corpora = ["books", "SkyPile-150B-2023"]

[stage.download]
foreach = "{corpora}"
dataset = "{each}"

[stage.split]
foreach = "{corpora}"
dataset = "{each}"
ratio = "999:1"

[stage.encode]
foreach = "{corpora}"
dataset = "{each}"
tokenizer = "tokenizer.model"

[stage.base]
use = "download"
repo = "some/model"

[stage.train]
model = "@base"
mix = ["1:books", "0.1:SkyPile-150B-2023"]
valid = "{corpora}"
"#,
    )
}

/// `cmx check p.toml` after one replacement: nothing on standard output, exit code 2, and exactly this error.
fn assert_error(from: &str, to: &str, expected: &str) {
    let project = project();
    project.edit("p.toml", from, to);
    assert_rejected(&project, expected);
}

fn assert_rejected(project: &Project, expected: &str) {
    let output = project.command(&["check", "p.toml"]).env("LC_ALL", "C.UTF-8").output().expect("the cmx program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines =
        |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_matches('\n').to_owned();
    assert_eq!(lines(&stderr), lines(expected), "\n{stderr}");
    assert_eq!(output.stdout, b"");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_right_one_is_accepted() {
    let ran = project().cmx(&["check", "p.toml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "p.toml: 8 stages, ok\n"), "{}", ran.stderr);
}

#[test]
fn unknown_key() {
    assert_error(
        r#"ratio = "999:1""#,
        r#"ration = "999:1""#,
        r#"
  × stage `split[books]` has no parameter `ration`
    ╭─[p.toml:11:1]
 10 │ dataset = "{each}"
 11 │ ration = "999:1"
    · ───┬──
    ·    ╰── unknown parameter
 12 │
    ╰────
  help: did you mean `ratio`?
"#,
    );
}

#[test]
fn unknown_key_of_a_pipeline() {
    assert_error(
        "[vars]",
        "[var]",
        r#"
  × a pipeline has no key `var`
   ╭─[p.toml:1:2]
 1 │ [var]
   ·  ─┬─
   ·   ╰── unknown key
 2 │ corpora = ["books", "SkyPile-150B-2023"]
   ╰────
  help: did you mean `vars`?
"#,
    );
}

#[test]
fn unknown_key_in_a_group() {
    assert_error(
        r#"model = "@base""#,
        "model = \"@base\"\nlora = { rnk = 8 }",
        r#"
  × `lora` of stage `train` has no parameter `rnk`
    ╭─[p.toml:24:10]
 23 │ model = "@base"
 24 │ lora = { rnk = 8 }
    ·          ─┬─
    ·           ╰── unknown parameter
 25 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
  help: did you mean `rank`?
"#,
    );
}

#[test]
fn unknown_kind() {
    assert_error(
        r#"use = "download""#,
        r#"use = "dowload""#,
        r#"
  × unknown kind `dowload`
    ╭─[p.toml:19:7]
 18 │ [stage.base]
 19 │ use = "dowload"
    ·       ────┬────
    ·           ╰── no such kind
 20 │ repo = "some/model"
    ╰────
  help: did you mean `download`?
"#,
    );
}

#[test]
fn unknown_reference() {
    assert_error(
        r#""@base""#,
        r#""@bass""#,
        r#"
  × unknown stage `bass`
    ╭─[p.toml:23:11]
 22 │ [stage.train]
 23 │ model = "@bass"
    ·           ──┬─
    ·             ╰── no such stage
 24 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
  help: did you mean `base`?
"#,
    );
}

#[test]
fn unknown_instance() {
    assert_error(
        r#""tokenizer.model""#,
        r#""@download[book]""#,
        r#"
  × stage `download` has no instance `book`
    ╭─[p.toml:16:24]
 15 │ dataset = "{each}"
 16 │ tokenizer = "@download[book]"
    ·                        ──┬─
    ·                          ╰── no such instance
 17 │
    ╰────
  help: did you mean `books`?
"#,
    );
}

#[test]
fn unknown_variable() {
    assert_error(
        "foreach = \"{corpora}\"\ndataset = \"{each}\"\nratio",
        "foreach = \"{corpus}\"\ndataset = \"{each}\"\nratio",
        r#"
  × unknown variable `{corpus}`
    ╭─[p.toml:9:12]
  8 │ [stage.split]
  9 │ foreach = "{corpus}"
    ·            ────┬───
    ·                ╰── not in [vars]
 10 │ dataset = "{each}"
    ╰────
  help: the variables are `corpora`
"#,
    );
}

#[test]
fn cycle() {
    assert_error(
        r#"tokenizer = "tokenizer.model""#,
        r#"tokenizer = "@train""#,
        r#"
  × the stages wait for each other in a loop: encode[books] → train →
  │ encode[books]
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "@train"
    ·             ────┬───
    ·                 ╰── `encode[books]` waits for `train`
 17 │
    ╰────
"#,
    );
}

#[test]
fn cycle_of_one() {
    assert_error(
        r#"model = "@base""#,
        r#"model = "@train""#,
        r#"
  × stage `train` waits for itself
    ╭─[p.toml:23:9]
 22 │ [stage.train]
 23 │ model = "@train"
    ·         ────┬───
    ·             ╰── `train` waits for `train`
 24 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
"#,
    );
}

#[test]
fn wrong_type() {
    assert_error(
        r#"tokenizer = "tokenizer.model""#,
        "tokenizer = \"tokenizer.model\"\nsequence_length = \"2048\"",
        r#"
  × stage `encode[books]`: `sequence_length` takes an integer, not a string
    ╭─[p.toml:17:19]
 16 │ tokenizer = "tokenizer.model"
 17 │ sequence_length = "2048"
    ·                   ───┬──
    ·                      ╰── a string, but an integer is expected
 18 │
    ╰────
"#,
    );
}

#[test]
fn wrong_type_in_a_list() {
    assert_error(
        r#"mix = ["1:books", "#,
        "mix = [1, ",
        r#"
  × stage `train`: `mix[0]` takes a share ("RATIO:NAME"), not an integer
    ╭─[p.toml:24:8]
 23 │ model = "@base"
 24 │ mix = [1, "0.1:SkyPile-150B-2023"]
    ·        ┬
    ·        ╰── an integer, but a share ("RATIO:NAME") is expected
 25 │ valid = "{corpora}"
    ╰────
"#,
    );
}

#[test]
fn wrong_word() {
    assert_error(
        r#"model = "@base""#,
        "model = \"@base\"\nmethod = \"ful\"",
        r#"
  × stage `train`: `method` does not know "ful"
    ╭─[p.toml:24:10]
 23 │ model = "@base"
 24 │ method = "ful"
    ·          ──┬──
    ·            ╰── unknown word
 25 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
  help: did you mean `full`?
"#,
    );
}

#[test]
fn missing_parameter() {
    assert_error(
        "model = \"@base\"\n",
        "",
        r#"
  × stage `train` lacks `model`
    ╭─[p.toml:22:8]
 21 │
 22 │ [stage.train]
    ·        ──┬──
    ·          ╰── a parameter is missing
 23 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
  help: it takes an input ("@stage", "@stage/path" or a path)
"#,
    );
}

#[test]
fn dataset_not_registered() {
    assert_error(
        "0.1:SkyPile-150B-2023",
        "0.1:SkyPile-150B-2032",
        r#"
  × dataset "SkyPile-150B-2032" is not registered
    ╭─[p.toml:24:24]
 23 │ model = "@base"
 24 │ mix = ["1:books", "0.1:SkyPile-150B-2032"]
    ·                        ────────┬────────
    ·                                ╰── not in datasets.toml
 25 │ valid = "{corpora}"
    ╰────
  help: did you mean `SkyPile-150B-2023`?
"#,
    );
}

#[test]
fn dataset_without_the_form() {
    assert_error(
        "[stage.encode]\nforeach = \"{corpora}\"",
        "[stage.encode]\nforeach = [\"books\"]",
        r#"
  × dataset "SkyPile-150B-2023" has no encoded form: no stage of this pipeline
  │ provides it, and {DATA_DIR}/SkyPile-150B-2023 holds none
    ╭─[p.toml:24:24]
 23 │ model = "@base"
 24 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ·                        ────────┬────────
    ·                                ╰── `train` needs it
 25 │ valid = "{corpora}"
    ╰────
  help: add a stage with use = "encode" and dataset = "SkyPile-150B-2023"
"#,
    );
}

#[test]
fn ratio_of_0() {
    assert_error(
        "0.1:Sky",
        "0:Sky",
        r#"
  × the ratio of share "0:SkyPile-150B-2023" must be above 0
    ╭─[p.toml:24:20]
 23 │ model = "@base"
 24 │ mix = ["1:books", "0:SkyPile-150B-2023"]
    ·                    ┬
    ·                    ╰── not above 0
 25 │ valid = "{corpora}"
    ╰────
  help: 1 is one epoch; to leave a dataset out of the mix, remove its entry
"#,
    );
}

#[test]
fn ratio_below_0() {
    assert_error(
        "0.1:Sky",
        "-0.5:Sky",
        r#"
  × the ratio of share "-0.5:SkyPile-150B-2023" must be above 0
    ╭─[p.toml:24:20]
 23 │ model = "@base"
 24 │ mix = ["1:books", "-0.5:SkyPile-150B-2023"]
    ·                    ──┬─
    ·                      ╰── not above 0
 25 │ valid = "{corpora}"
    ╰────
  help: 1 is one epoch; to leave a dataset out of the mix, remove its entry
"#,
    );
}

#[test]
fn ratio_that_is_no_number() {
    assert_error(
        "0.1:Sky",
        "half:Sky",
        r#"
  × the ratio of share "half:SkyPile-150B-2023" is not a number
    ╭─[p.toml:24:20]
 23 │ model = "@base"
 24 │ mix = ["1:books", "half:SkyPile-150B-2023"]
    ·                    ──┬─
    ·                      ╰── not a number
 25 │ valid = "{corpora}"
    ╰────
  help: write "RATIO:NAME", for example "0.5:SkyPile-150B-2023"
"#,
    );
}

#[test]
fn tokens_without_the_word() {
    assert_error(
        "0.1:Sky",
        "2B:Sky",
        r#"
  × the ratio of share "2B:SkyPile-150B-2023" is not a number
    ╭─[p.toml:24:20]
 23 │ model = "@base"
 24 │ mix = ["1:books", "2B:SkyPile-150B-2023"]
    ·                    ─┬
    ·                     ╰── not a number
 25 │ valid = "{corpora}"
    ╰────
  help: for tokens, write "2B tokens:SkyPile-150B-2023"
"#,
    );
}

#[test]
fn tokens_that_are_no_number() {
    assert_error(
        "0.1:Sky",
        "many tokens:Sky",
        r#"
  × the tokens of share "many tokens:SkyPile-150B-2023" are not a number
    ╭─[p.toml:24:20]
 23 │ model = "@base"
 24 │ mix = ["1:books", "many tokens:SkyPile-150B-2023"]
    ·                    ─────┬─────
    ·                         ╰── not a number of tokens
 25 │ valid = "{corpora}"
    ╰────
  help: write "1.5B tokens:SkyPile-150B-2023"; K, M, B, T or nothing
"#,
    );
}

#[test]
fn ratio_left_out() {
    assert_error(
        r#""1:books""#,
        r#""books""#,
        r#"
  × share "books" has no ratio
    ╭─[p.toml:24:8]
 23 │ model = "@base"
 24 │ mix = ["books", "0.1:SkyPile-150B-2023"]
    ·        ───┬───
    ·           ╰── no ratio
 25 │ valid = "{corpora}"
    ╰────
  help: write "RATIO:NAME", for example "1:books"
"#,
    );
}

#[test]
fn path_that_leaves() {
    assert_error(
        r#""tokenizer.model""#,
        r#""../tokenizer.model""#,
        r#"
  × "../tokenizer.model" leaves the workspace
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "../tokenizer.model"
    ·             ──────────┬─────────
    ·                       ╰── outside the workspace
 17 │
    ╰────
  help: copy it into the workspace, so that the pipeline finds it on any
        machine
"#,
    );
}

#[test]
fn absolute_path_that_leaves() {
    assert_error(
        r#""tokenizer.model""#,
        r#""/etc/hostname""#,
        r#"
  × "/etc/hostname" leaves the workspace
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "/etc/hostname"
    ·             ───────┬───────
    ·                    ╰── outside the workspace
 17 │
    ╰────
  help: copy it into the workspace, so that the pipeline finds it on any
        machine
"#,
    );
}

#[test]
fn path_that_does_not_exist() {
    assert_error(
        r#""tokenizer.model""#,
        r#""tokeniser.model""#,
        r#"
  × "tokeniser.model" does not exist
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "tokeniser.model"
    ·             ────────┬────────
    ·                     ╰── no such file or folder in the workspace
 17 │
    ╰────
"#,
    );
}

#[test]
fn two_providers() {
    assert_error(
        "[stage.base]",
        "[stage.again]\nuse = \"split\"\ndataset = \"books\"\n\n[stage.base]",
        r#"
  × stages `split[books]` and `again` both provide the split form of dataset
  │ "books"
    ╭─[p.toml:18:8]
 17 │
 18 │ [stage.again]
    ·        ──┬──
    ·          ╰── the second one
 19 │ use = "split"
    ╰────
"#,
    );
}

#[test]
fn invalid_toml() {
    assert_error(
        r#"ratio = "999:1""#,
        "ratio = 999:1",
        r#"
  × p.toml is not valid TOML
    ╭─[p.toml:11:9]
 10 │ dataset = "{each}"
 11 │ ratio = 999:1
    ·         ──┬──
    ·           ╰── invalid time, expected a two-digit hour (HH)
 12 │
    ╰────
"#,
    );
}

#[test]
fn unknown_resource() {
    assert_error(
        r#"model = "@base""#,
        "model = \"@base\"\nresources = { cpu = 2 }",
        r#"
  × there is no resource `cpu`
    ╭─[p.toml:24:15]
 23 │ model = "@base"
 24 │ resources = { cpu = 2 }
    ·               ─┬─
    ·                ╰── unknown resource
 25 │ mix = ["1:books", "0.1:SkyPile-150B-2023"]
    ╰────
  help: did you mean `cpus`?
"#,
    );
}

#[test]
fn link_that_leaves() {
    let project = project();
    let outside = tempfile::NamedTempFile::new().expect("a temporary file");
    std::os::unix::fs::symlink(outside.path(), project.path().join("link.model")).expect("a link");
    project.edit("p.toml", "\"tokenizer.model\"", "\"link.model\"");
    assert_rejected(
        &project,
        r#"
  × "link.model" leaves the workspace
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "link.model"
    ·             ──────┬─────
    ·                   ╰── outside the workspace
 17 │
    ╰────
  help: copy it into the workspace, so that the pipeline finds it on any
        machine
"#,
    );
}

#[test]
fn output_of_a_stage_as_a_source() {
    assert_error(
        "\"tokenizer.model\"",
        "\"outputs/base/tokenizer.model\"",
        r#"
  × "outputs/base/tokenizer.model" does not exist
    ╭─[p.toml:16:13]
 15 │ dataset = "{each}"
 16 │ tokenizer = "outputs/base/tokenizer.model"
    ·             ───────────────┬──────────────
    ·                            ╰── no such file or folder in the workspace
 17 │
    ╰────
  help: write "@base/tokenizer.model"
"#,
    );
}

#[test]
fn unknown_key_in_the_registry() {
    let project = project();
    project.edit("datasets.toml", "repo = \"someone", "reop = \"someone");
    assert_rejected(
        &project,
        r#"
  × dataset "books" has no key `reop`
   ╭─[datasets.toml:3:1]
 2 │ root = "{DATA_DIR}/zh/{name}"
 3 │ reop = "someone/books"
   · ──┬─
   ·   ╰── unknown key
 4 │
   ╰────
  help: did you mean `repo`?
"#,
    );
}

#[test]
fn wrong_default_in_a_stage_manifest() {
    let project = project().file("stages/encode.toml", "[parameters]\nsequence_length = \"long\"\n");
    assert_rejected(
        &project,
        r#"
  × stage `encode[books]`: `sequence_length` takes an integer, not a string
   ╭─[stages/encode.toml:2:19]
 1 │ [parameters]
 2 │ sequence_length = "long"
   ·                   ───┬──
   ·                      ╰── a string, but an integer is expected
   ╰────
"#,
    );
}

#[test]
fn no_such_pipeline() {
    let ran = project().cmx(&["check", "q.toml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("there is no pipeline q.toml"), "{}", ran.stderr);
    assert!(ran.stderr.contains("did you mean `p.toml`?"), "{}", ran.stderr);
}
