//! Why a fingerprint changed: two keys, item by item, old → new.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::key::Key;

/// One difference between two keys. `None` is an item that one of them lacks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// As in [`super::key::Item`]: `mix`, or `input @vocab`.
    pub name: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// What an input's item is called: this and the input as written.
pub(super) const INPUT: &str = "input ";

impl Key {
    /// What changed since `old`, in the order of the items; of a list only the entries that differ.
    pub fn diff(&self, old: &Key) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.version != old.version {
            let versions = (Some(old.version.into()), Some(self.version.into()));
            changes.push(Change { name: "version of keys".to_owned(), old: versions.0, new: versions.1 });
        }
        let mut names: Vec<&str> = Vec::new();
        for item in self.items.iter().chain(&old.items) {
            if !names.contains(&item.name.as_str()) {
                names.push(&item.name);
            }
        }
        for name in names {
            let values = |key: &Key| -> Vec<Value> {
                key.items.iter().filter(|item| item.name == name).map(|item| item.value.clone()).collect()
            };
            let change = |(old, new)| Change { name: name.to_owned(), old, new };
            changes.extend(diff_lists(values(old), values(self)).into_iter().map(change));
        }
        changes
    }
}

type Pair = (Option<Value>, Option<Value>);

/// The entries of two lists that differ, paired in order.
fn diff_lists(old: Vec<Value>, new: Vec<Value>) -> Vec<Pair> {
    if old == new {
        return Vec::new();
    }
    let text = |list: &[Value]| {
        let mut texts: Vec<String> = list.iter().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    if old.len() > 1 && text(&old) == text(&new) {
        // Only the order differs, which no single entry shows.
        return vec![(Some(Value::Array(old)), Some(Value::Array(new)))];
    }
    let kept = common_subsequence(&old, &new);
    let mut pairs = Vec::new();
    let (mut from_old, mut from_new) = (0, 0);
    for (at_old, at_new) in kept.into_iter().chain([(old.len(), new.len())]) {
        let gone = &old[from_old..at_old];
        let come = &new[from_new..at_new];
        for at in 0..gone.len().max(come.len()) {
            pairs.push((gone.get(at).cloned(), come.get(at).cloned()));
        }
        (from_old, from_new) = (at_old + 1, at_new + 1);
    }
    pairs
}

/// Positions of a longest common subsequence. Lists of a manifest are short; the table is quadratic.
fn common_subsequence(old: &[Value], new: &[Value]) -> Vec<(usize, usize)> {
    let mut longest = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] =
                if old[i] == new[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A digest is shown by its first digits; nobody reads all 64.
        let short = |digest: &Value| digest.as_str().unwrap_or_default().chars().take(12).collect::<String>();
        match (self.name.starts_with(INPUT), &self.old, &self.new) {
            (true, Some(old), Some(new)) => write!(f, "{} changed: {} → {}", self.name, short(old), short(new)),
            (true, None, _) => write!(f, "{} added", self.name),
            (true, _, None) => write!(f, "{} removed", self.name),
            (false, old, new) => {
                write!(f, "{}: ", self.name)?;
                side(f, old)?;
                f.write_str(" → ")?;
                side(f, new)
            }
        }
    }
}

fn side(f: &mut fmt::Formatter<'_>, value: &Option<Value>) -> fmt::Result {
    match value {
        Some(value) => write!(f, "{value}"),
        None => f.write_str("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use crate::store::Digest;

    fn key(mix: &[&str], rank: u32, inputs: &[(&str, &[u8])]) -> Key {
        let mut key = Key::new("train", 1);
        for share in mix {
            key.push("mix", *share);
        }
        key.push("rank", rank);
        for (name, bytes) in inputs {
            key.push_input(name, Digest::of(bytes));
        }
        key
    }

    fn lines(old: &Key, new: &Key) -> Vec<String> {
        new.diff(old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_line_per_difference() {
        let old = key(&["1:books", "0.1:SkyPile-150B-2023"], 64, &[("@base", b"a"), ("@vocab", b"v")]);
        assert!(lines(&old, &old).is_empty());
        let new = key(&["1:books", "0.2:SkyPile-150B-2023"], 64, &[("@base", b"a"), ("@vocab", b"v")]);
        assert_eq!(lines(&old, &new), [r#"mix: "0.1:SkyPile-150B-2023" → "0.2:SkyPile-150B-2023""#]);
        let new = key(&["1:books", "0.1:SkyPile-150B-2023", "2:laws"], 8, &[("@base", b"b"), ("@other", b"v")]);
        let (a, b) = (Digest::of(b"a").short(), Digest::of(b"b").short());
        assert_eq!(
            lines(&old, &new),
            [
                r#"mix: nothing → "2:laws""#.to_owned(),
                "rank: 64 → 8".to_owned(),
                format!("input @base changed: {a} → {b}"),
                "input @other added".to_owned(),
                "input @vocab removed".to_owned(),
            ]
        );
    }

    #[test]
    fn an_order_is_told_as_a_whole() {
        let old = key(&["1:a", "1:b"], 1, &[]);
        let new = key(&["1:b", "1:a"], 1, &[]);
        assert_eq!(lines(&old, &new), [r#"mix: ["1:a","1:b"] → ["1:b","1:a"]"#]);
    }

    #[test]
    fn an_entry_in_the_middle_is_told_alone() {
        let old = key(&["1:a", "1:b", "1:c"], 1, &[]);
        let new = key(&["1:a", "1:c"], 1, &[]);
        assert_eq!(lines(&old, &new), [r#"mix: "1:b" → nothing"#]);
    }
}
