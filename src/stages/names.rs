//! Paths in messages as people know them: `@base/config.json`, not a path in the store.

use std::path::Path;

use serde_json::Value;

/// What the inputs of a stage are called.
#[derive(Default)]
pub struct Names {
    /// Path and name, longest paths first: a file before the folder that it lies in.
    known: Vec<(String, String)>,
    /// With the slash at its end.
    workspace: String,
}

impl Names {
    /// The inputs among resolved parameters. Those outside the store keep their paths, relative to the workspace.
    pub fn of(parameters: &Value, workspace: &Path) -> Self {
        let mut names = Self { known: Vec::new(), workspace: format!("{}/", workspace.display()) };
        let store = format!("{}cache/", names.workspace);
        names.collect(parameters, &store);
        names.known.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        names
    }

    fn collect(&mut self, value: &Value, store: &str) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.collect(item, store)),
            Value::Object(map) => {
                let text = |key: &str| map.get(key).and_then(Value::as_str);
                let name = text("from").map(str::to_owned).or(text("name").map(|name| format!("dataset:{name}")));
                if let Some(name) = name {
                    if let Some(path) = text("path").filter(|path| path.starts_with(store)) {
                        self.known.push((path.to_owned(), name.clone()));
                    }
                    let files = map.get("files").and_then(Value::as_array).into_iter().flatten();
                    for path in files.filter_map(Value::as_str).filter(|path| path.starts_with(store)) {
                        let file = path.rsplit('/').next().unwrap_or_default();
                        let name = if name.ends_with(file) { name.clone() } else { format!("{name} ({file})") };
                        self.known.push((path.to_owned(), name));
                    }
                }
                map.values().for_each(|value| self.collect(value, store));
            }
            _ => {}
        }
    }

    /// The text with names in place of paths.
    pub fn fill(&self, text: &str) -> String {
        let named = self.known.iter().fold(text.to_owned(), |text, (path, name)| text.replace(path, name));
        if self.workspace.is_empty() { named } else { named.replace(&self.workspace, "") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_in_the_store_have_their_names_and_others_their_paths() {
        let parameters = json!({
            "model": { "from": "@base", "path": "/w/cache/artifacts/1d" },
            "tokenizer": { "from": "models/t", "path": "/w/models/t" },
            "texts": [
                { "from": "dataset:books/dev", "files": ["/w/cache/artifacts/2e/books-dev.jsonl"] },
                { "from": "@texts/zh.jsonl", "files": ["/w/cache/artifacts/3f/zh.jsonl"] },
            ],
            "mix": [{ "amount": { "ratio": 1.0 }, "dataset": { "name": "books", "path": "/w/cache/artifacts/4a" } }],
        });
        let names = Names::of(&parameters, Path::new("/w"));
        for (text, expected) in [
            ("/w/cache/artifacts/1d/config.json is empty", "@base/config.json is empty"),
            ("no /w/models/t/x or /etc/x", "no models/t/x or /etc/x"),
            ("/w/cache/artifacts/2e/books-dev.jsonl, line 2", "dataset:books/dev (books-dev.jsonl), line 2"),
            ("/w/cache/artifacts/3f/zh.jsonl, line 2", "@texts/zh.jsonl, line 2"),
            ("/w/cache/artifacts/4a/encoded-books-train", "dataset:books/encoded-books-train"),
        ] {
            assert_eq!(names.fill(text), expected);
        }
        assert_eq!(Names::default().fill("/w/x"), "/w/x");
    }
}
