//! Templates: `{name}` in a string is replaced by a variable; a string that is nothing else takes the variable's type.

use super::value::{Content, Entry, Located, Table};
use super::with_suggestion;
use crate::error::Result;

/// The names that templates of one stage may use.
#[derive(Clone, Copy, Default)]
pub struct Scope<'a> {
    /// `[vars]`.
    pub vars: Option<&'a Table>,
    /// What `{each}` stands for.
    pub each: Option<&'a Located>,
    /// Names that are left as they are, because somebody else fills them in.
    pub kept: &'a [&'a str],
}

impl<'a> Scope<'a> {
    /// Fills in every template in `value`. Replacement is done once: what a variable holds is taken as it is.
    pub fn expand(&self, value: &Located) -> Result<Located> {
        let content = match &value.content {
            Content::String(text) => return self.expand_string(text, value),
            Content::List(items) => {
                Content::List(items.iter().map(|item| self.expand(item)).collect::<Result<_>>()?)
            }
            Content::Table(table) => Content::Table(self.expand_table(table)?),
            plain => plain.clone(),
        };
        Ok(Located { content, place: value.place.clone() })
    }

    pub fn expand_table(&self, table: &Table) -> Result<Table> {
        let entries = table.entries.iter().map(|entry| {
            Ok(Entry { key: entry.key.clone(), place: entry.place.clone(), value: self.expand(&entry.value)? })
        });
        Ok(Table { entries: entries.collect::<Result<_>>()? })
    }

    fn expand_string(&self, text: &str, value: &Located) -> Result<Located> {
        if let [(whole, name)] = &placeholders(text)[..]
            && *whole == (0..text.len())
            && !self.kept.contains(name)
        {
            // The variable keeps its own place: there stands the word that may be wrong.
            return self.lookup(name, value).cloned();
        }
        let expanded = substitute(text, |name| {
            if self.kept.contains(&name) {
                return Ok(None);
            }
            let variable = self.lookup(name, value)?;
            match &variable.content {
                Content::String(text) => Ok(Some(text.clone())),
                Content::Integer(number) => Ok(Some(number.to_string())),
                Content::Float(number) => Ok(Some(number.to_string())),
                Content::Boolean(yes) => Ok(Some(yes.to_string())),
                Content::List(_) | Content::Table(_) => Err(value.place.of_part(&format!("{{{name}}}")).error(
                    format!("`{{{name}}}` is {} and can't stand inside a string", variable.type_name()),
                    "only a string, a number or a boolean can",
                )),
            }
        })?;
        Ok(Located { content: Content::String(expanded), place: value.place.clone() })
    }

    fn lookup(&self, name: &str, value: &Located) -> Result<&'a Located> {
        if name == "each"
            && let Some(each) = self.each
        {
            return Ok(each);
        }
        if let Some(variable) = self.vars.and_then(|vars| vars.get(name)) {
            return Ok(variable);
        }
        let place = value.place.of_part(&format!("{{{name}}}"));
        let error = place.error(format!("unknown variable `{{{name}}}`"), "not in [vars]");
        if name == "each" {
            return Err(error.hint("`{each}` stands for one value of the stage's `foreach`"));
        }
        let names = self.vars.into_iter().flat_map(Table::keys);
        Err(with_suggestion(error, name, names.chain(self.kept.iter().copied()), "the variables are"))
    }
}

/// The ranges and names of all `{name}` in a text, where a name is made of ASCII letters, digits, `_` and `-`.
/// Other braces are plain text.
pub fn placeholders(text: &str) -> Vec<(std::ops::Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let name_length = text[open + 1..]
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte))
            .count();
        let close = open + 1 + name_length;
        if name_length > 0 && text.as_bytes().get(close) == Some(&b'}') {
            found.push((open..close + 1, &text[open + 1..close]));
            from = close + 1;
        } else {
            from = open + 1;
        }
    }
    found
}

/// Replaces every `{name}` in `text` by what `value` gives for it; `None` leaves it as it is.
pub fn substitute(text: &str, mut value: impl FnMut(&str) -> Result<Option<String>>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (range, name) in placeholders(text) {
        out.push_str(&text[end..range.start]);
        match value(name)? {
            Some(replacement) => out.push_str(&replacement),
            None => out.push_str(&text[range.clone()]),
        }
        end = range.end;
    }
    out.push_str(&text[end..]);
    Ok(out)
}
