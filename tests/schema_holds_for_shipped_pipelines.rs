//! The schema that `cmx schema` prints accepts the shipped pipelines and the registry, and rejects what `cmx check` does.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cmx(arguments: &[&str]) -> String {
    let output = Command::new(support::CMX).args(arguments).current_dir(root()).output().expect("the cmx program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn schema(arguments: &[&str]) -> Value {
    serde_json::from_str(&cmx(arguments)).expect("JSON")
}

fn toml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a readable file");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pipelines() -> Vec<PathBuf> {
    let entries = root().join("pipelines").read_dir().expect("pipelines/");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    files
}

#[test]
fn shipped_pipelines_pass_the_check() {
    let files = pipelines();
    let names: Vec<_> = files.iter().map(|path| path.to_str().expect("UTF-8")).collect();
    let output = cmx(&[&["check"], &names[..]].concat());
    assert_eq!(output.lines().count(), files.len());
    assert!(output.lines().all(|line| line.ends_with(" stages, ok")), "{output}");
}

#[test]
fn shipped_pipelines_fit_the_schema() {
    let schema = schema(&["schema"]);
    for path in pipelines() {
        let faults = faults(&schema, &schema, &toml(&path), "");
        assert!(faults.is_empty(), "{}: {faults:#?}", path.display());
    }
}

#[test]
fn the_registry_fits_its_schema() {
    let schema = schema(&["schema", "--registry"]);
    let faults = faults(&schema, &schema, &toml(&root().join("datasets.toml")), "");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn wrong_manifests_do_not_fit() {
    let schema = schema(&["schema"]);
    let path = root().join("pipelines/sft.toml");
    let whole = std::fs::read_to_string(path).expect("a readable file");
    for (from, to) in [
        ("ratio ", "ration "),
        ("use     = \"download\"", "use     = \"dowload\""),
        ("epochs        = 1", "epochs        = \"one\""),
        ("quantization  = \"nf4\"", "quantization  = \"nf5\""),
        ("tokenizer = \"@chat\"", "tokeniser = \"@chat\""),
        ("rank = 64", "rnk = 64"),
        ("name = \"sft\"", "nam = \"sft\""),
    ] {
        assert!(whole.contains(from), "{from}");
        let spoiled: Value = toml::from_str(&whole.replacen(from, to, 1)).expect("TOML");
        assert!(!faults(&schema, &schema, &spoiled, "").is_empty(), "{to} was accepted");
    }
}

/// What in `value` does not fit `schema`: the keywords of JSON Schema that the schemas of cmx are made of. A keyword
/// that is not known here is a fault itself, so that none is passed over in silence.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Value::Object(keywords) = schema else {
        return if schema == &Value::Bool(false) {
            vec![format!("{at}: nothing may stand here")]
        } else {
            Vec::new()
        };
    };
    let fits = |schema: &Value| faults(root, schema, value, at).is_empty();
    let mut found = Vec::new();
    for (keyword, rule) in keywords {
        let ok = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "format" | "x-cmx"
            | "then" | "else" => true,
            "$ref" => {
                let pointer = rule.as_str().and_then(|reference| reference.strip_prefix('#')).expect("a reference");
                found.extend(faults(root, root.pointer(pointer).expect("a definition"), value, at));
                true
            }
            "type" => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                types.iter().any(|name| has_type(value, name.as_str().expect("a type")))
            }
            "const" => rule == value,
            "enum" => rule.as_array().expect("a list").contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
            "minItems" => {
                value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().expect("a number"))
            }
            "minProperties" => {
                value.as_object().is_none_or(|map| map.len() as u64 >= rule.as_u64().expect("a number"))
            }
            "pattern" => {
                let pattern = regex::Regex::new(rule.as_str().expect("a pattern")).expect("a pattern");
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "required" => {
                let names = rule.as_array().expect("a list");
                value
                    .as_object()
                    .is_none_or(|map| names.iter().all(|name| map.contains_key(name.as_str().expect("a name"))))
            }
            "anyOf" => rule.as_array().expect("a list").iter().any(fits),
            "oneOf" => rule.as_array().expect("a list").iter().filter(|choice| fits(choice)).count() == 1,
            "allOf" => {
                for part in rule.as_array().expect("a list") {
                    found.extend(faults(root, part, value, at));
                }
                true
            }
            "if" => {
                let branch = if fits(rule) { "then" } else { "else" };
                if let Some(branch) = keywords.get(branch) {
                    found.extend(faults(root, branch, value, at));
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(root, rule, item, &format!("{at}[{index}]")));
                }
                true
            }
            "properties" => {
                for (name, schema) in rule.as_object().expect("a table") {
                    if let Some(value) = value.get(name) {
                        found.extend(faults(root, schema, value, &format!("{at}.{name}")));
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = keywords.get("properties");
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| known.get(name).is_none()) {
                        found.extend(faults(root, rule, value, &format!("{at}.{name}")));
                    }
                }
                true
            }
            unknown => panic!("this test does not know the keyword {unknown}"),
        };
        if !ok {
            found.push(format!("{at}: {keyword} {rule}"));
        }
    }
    found
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("unknown type {name}"),
    }
}
