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
            let variable = self.lookup(name, value)?;
            // The variable keeps its own place: there stands the word that may be wrong.
            if self.kept.is_empty() || matches!(variable.content, Content::List(_)) {
                return Ok(variable.clone());
            }
        }
        // What is left to others is left with its doubled braces.
        let braces = if self.kept.is_empty() { Braces::Single } else { Braces::Doubled };
        let expanded = substitute(text, braces, |name| {
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
/// `{{` and `}}` are braces that are meant; other braces are plain text.
pub fn placeholders(text: &str) -> Vec<(std::ops::Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let rest = &text[open + 1..];
        let name = &rest[..rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"_-".contains(b)).count()];
        let close = open + 1 + name.len();
        from = if rest.starts_with('{') {
            open + 2
        } else if !name.is_empty() && text[close..].starts_with('}') {
            found.push((open..close + 1, name));
            close + 1
        } else {
            open + 1
        };
    }
    found
}

/// What becomes of `{{` and `}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Braces {
    /// They become `{` and `}`.
    Single,
    /// They stay, and braces in what is put in are doubled, because somebody else reads the text as a template.
    Doubled,
}

/// Replaces every `{name}` in `text` by what `value` gives for it; `None` leaves it as it is.
pub fn substitute(
    text: &str,
    braces: Braces,
    mut value: impl FnMut(&str) -> Result<Option<String>>,
) -> Result<String> {
    let plain = |out: &mut String, part: &str| match braces {
        Braces::Single => out.push_str(&part.replace("{{", "{").replace("}}", "}")),
        Braces::Doubled => out.push_str(part),
    };
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (range, name) in placeholders(text) {
        plain(&mut out, &text[end..range.start]);
        match (value(name)?, braces) {
            (Some(replacement), Braces::Single) => out.push_str(&replacement),
            (Some(replacement), Braces::Doubled) => {
                out.push_str(&replacement.replace('{', "{{").replace('}', "}}"));
            }
            (None, _) => out.push_str(&text[range.clone()]),
        }
        end = range.end;
    }
    plain(&mut out, &text[end..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{Braces, placeholders, substitute};

    fn names(text: &str) -> Vec<&str> {
        placeholders(text).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn names_and_braces() {
        assert_eq!(names("a {b} {c-d}{e_1}"), ["b", "c-d", "e_1"]);
        assert!(names("{} { a } {{x}} {").is_empty());
        assert_eq!(names("{{{x}}}"), ["x"]);
        let fill =
            |text: &str, braces| substitute(text, braces, |name| Ok((name == "x").then(|| "{1}".to_owned())));
        assert_eq!(fill("{{{x}}} {y} {{}}", Braces::Single).unwrap(), "{{1}} {y} {}");
        assert_eq!(fill("{{{x}}} {y} {{}}", Braces::Doubled).unwrap(), "{{{{1}}}} {y} {{}}");
    }
}
