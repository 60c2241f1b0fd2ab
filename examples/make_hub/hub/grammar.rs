//! Grammars as text, and the telling of one document by expanding a rule.

use std::collections::BTreeMap;

use super::Result;
use super::random::Random;
use super::world::{Language, Row, World};

/// Rules by name; each is a list of alternatives. The form of the file:
///
/// ```text
/// colour = red | blue | light green     # a rule of short alternatives
/// arrival:                              # a rule of long ones, each after a dash; further lines continue it
///   - {p} came to {p.home} on a {colour} {cart/boat}.
/// ```
///
/// In braces stand:
///
/// | form | meaning |
/// |---|---|
/// | `{rule}` | one alternative of the rule, of those used least in this document |
/// | `{rule*3}`, `{rule*2-4}` | so many of them, all different, as sentences |
/// | `{rule*3,}` | so many of them, all different, as a list: "a, b and c" |
/// | `{p in people}`, `{p in people home=v}` | call a thing `p` from here on (writes nothing) |
/// | `{p}`, `{p.home.bridge}` | its name; an attribute |
/// | `{$x=rule}`, `{$x}` | keep a text, without writing it; write it |
/// | `{one/two/three}` | one of these |
/// | `{#3-12}`, `{%3-12}` | a number in digits, in words |
pub struct Grammar {
    rules: BTreeMap<String, Vec<String>>,
    language: Language,
}

impl Grammar {
    pub fn parse(text: &str, language: Language) -> Result<Self> {
        let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix("  ") {
                let alternatives = rules.get_mut(&current).ok_or_else(|| format!("line {number}: no rule"))?;
                match (rest.strip_prefix("- "), alternatives.last_mut()) {
                    (Some(text), _) => alternatives.push(text.trim_end().to_owned()),
                    (None, Some(last)) => {
                        last.push_str(joiner(language));
                        last.push_str(rest.trim());
                    }
                    (None, None) => return Err(format!("line {number}: an alternative starts with a dash").into()),
                }
                continue;
            }
            let (name, alternatives) = match line.split_once(" = ") {
                Some((name, list)) => (name.trim(), list.split(" | ").map(|item| item.trim().to_owned()).collect()),
                None => {
                    (line.strip_suffix(':').ok_or_else(|| format!("line {number}: not a rule: {line}"))?, vec![])
                }
            };
            name.clone_into(&mut current);
            if rules.insert(current.clone(), alternatives).is_some() {
                return Err(format!("line {number}: {name} is defined twice").into());
            }
        }
        Ok(Self { rules, language })
    }

    /// The alternatives of a rule, as written.
    pub fn alternatives(&self, rule: &str) -> Result<&[String]> {
        Ok(self.rules.get(rule).ok_or_else(|| format!("no rule {rule}"))?)
    }

    /// One document: an expansion of `rule`.
    pub fn tell(&self, rule: &str, world: &World, random: &mut Random) -> Result<String> {
        let mut telling = Telling {
            grammar: self,
            world,
            random,
            things: BTreeMap::new(),
            kept: BTreeMap::new(),
            used: BTreeMap::new(),
        };
        let text = telling.rule(rule).map_err(|error| format!("in {rule}: {error}"))?;
        Ok(match self.language {
            Language::English => polish(&text),
            Language::Chinese => text.replace("\\n", "\n").replace("\n\n", "\n").trim().to_owned(),
        })
    }
}

/// What stands between two sentences.
fn joiner(language: Language) -> &'static str {
    match language {
        Language::English => " ",
        Language::Chinese => "",
    }
}

/// The state of the telling of one document.
struct Telling<'a> {
    grammar: &'a Grammar,
    world: &'a World,
    random: &'a mut Random,
    things: BTreeMap<String, &'a Row>,
    kept: BTreeMap<String, String>,
    /// How often an alternative, or a rule in braces, was used in this document.
    used: BTreeMap<String, u32>,
}

impl Telling<'_> {
    fn rule(&mut self, name: &str) -> Result<String> {
        let grammar = self.grammar;
        let alternatives = grammar.alternatives(name)?;
        *self.used.entry(format!("{{{name}}}")).or_default() += 1;
        let text = self.choose(alternatives).ok_or_else(|| format!("the rule {name} is empty"))?;
        self.expand(text)
    }

    /// A random alternative among those that this document has used least. An alternative that is written twice is
    /// chosen twice as often; one that is a rule in braces counts as used where that rule was used elsewhere.
    fn choose<'t>(&mut self, alternatives: &'t [String]) -> Option<&'t str> {
        let uses = |text: &String| self.used.get(text).copied().unwrap_or(0);
        let least = alternatives.iter().map(uses).min()?;
        let open: Vec<&String> = alternatives.iter().filter(|text| uses(text) == least).collect();
        let text = open[self.random.below(open.len())];
        if !is_one_rule(text) {
            *self.used.entry(text.clone()).or_default() += 1;
        }
        Some(text)
    }

    fn expand(&mut self, text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            out.push_str(&rest[..start]);
            let end = closing(&rest[start..]).ok_or_else(|| format!("an open brace in {text:?}"))? + start;
            out.push_str(&self.slot(&rest[start + 1..end])?);
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What stands for the inside of a pair of braces.
    fn slot(&mut self, slot: &str) -> Result<String> {
        if let Some(range) = slot.strip_prefix('#') {
            return Ok(self.number(range)?.to_string());
        }
        if let Some(range) = slot.strip_prefix('%') {
            let number = self.number(range)?;
            return Ok(in_words(number, self.grammar.language));
        }
        if let Some(kept) = slot.strip_prefix('$') {
            return match kept.split_once('=') {
                Some((name, rule)) => {
                    let text = self.slot(rule)?;
                    self.kept.insert(name.to_owned(), text);
                    Ok(String::new())
                }
                None => Ok(self.kept.get(kept).ok_or_else(|| format!("nothing is kept as {kept}"))?.clone()),
            };
        }
        let choices = split_choices(slot);
        if choices.len() > 1 {
            let choice = choices[self.random.below(choices.len())];
            return self.expand(choice);
        }
        if let Some((name, pick)) = slot.split_once(" in ") {
            self.pick(name, pick)?;
            return Ok(String::new());
        }
        if let Some((rule, count)) = slot.split_once('*') {
            return self.several(rule, count);
        }
        let mut path = slot.split('.');
        let first = path.next().unwrap_or(slot);
        match self.things.get(first) {
            Some(row) => self.world.text(row, &path.collect::<Vec<_>>(), self.grammar.language),
            None => self.rule(slot),
        }
    }

    /// `pick` is a table, and perhaps `column=thing` or `column=id`. Things already called by another name are left
    /// out while there are others.
    fn pick(&mut self, name: &str, pick: &str) -> Result<()> {
        let (table, condition) = pick.split_once(' ').map_or((pick, None), |(table, rest)| (table, Some(rest)));
        let mut rows: Vec<&Row> = self.world.table(table)?.iter().collect();
        if let Some((column, value)) = condition.and_then(|condition| condition.split_once('=')) {
            let mut path = value.split('.');
            let wanted = match path.next().and_then(|first| self.things.get(first)) {
                Some(row) => path.next().map_or(&row["id"], |column| &row[column]).clone(),
                None => value.to_owned(),
            };
            rows.retain(|row| row.get(column) == Some(&wanted));
        }
        let taken = |row: &&Row| self.things.values().any(|thing| thing["id"] == row["id"]);
        let free: Vec<&Row> = rows.iter().copied().filter(|row| !taken(row)).collect();
        let rows = if free.is_empty() { rows } else { free };
        if rows.is_empty() {
            return Err(format!("nothing fits {name} in {pick}").into());
        }
        let row = rows[self.random.below(rows.len())];
        self.things.insert(name.to_owned(), row);
        Ok(())
    }

    fn several(&mut self, rule: &str, count: &str) -> Result<String> {
        let (range, list) = count.strip_suffix(',').map_or((count, false), |range| (range, true));
        let count = self.number(range)?;
        let mut items: Vec<String> = Vec::new();
        for _ in 0..count * 4 {
            if items.len() == count {
                break;
            }
            let item = self.rule(rule)?;
            if !items.contains(&item) {
                items.push(item);
            }
        }
        let language = self.grammar.language;
        if !list {
            return Ok(items.join(joiner(language)));
        }
        let (comma, and) = match language {
            Language::English => (", ", " and "),
            Language::Chinese => ("、", "和"),
        };
        let last = items.pop().ok_or_else(|| format!("an empty list of {rule}"))?;
        Ok(if items.is_empty() { last } else { items.join(comma) + and + &last })
    }

    /// A number of a range such as `3-12`, both ends included; or the number itself.
    fn number(&mut self, range: &str) -> Result<usize> {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (low, high): (usize, usize) = (low.parse()?, high.parse()?);
        Ok(low + self.random.below(high - low + 1))
    }
}

/// Whether an alternative is nothing but a rule in braces (which `Telling::rule` counts).
fn is_one_rule(text: &str) -> bool {
    text.starts_with('{') && text.find('}') == Some(text.len() - 1) && !text.contains([' ', '*', '.', '$', '/'])
}

/// The index of the brace that closes the one at the start.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (index, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

/// The parts between the slashes that stand in no inner braces.
fn split_choices(slot: &str) -> Vec<&str> {
    let mut depth = 0;
    slot.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == '/' && depth == 0
    })
    .collect()
}

fn in_words(number: usize, language: Language) -> String {
    const ENGLISH: [&str; 20] = [
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    const CHINESE: [&str; 10] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
    match (language, number) {
        (_, 100..) => number.to_string(),
        (Language::English, 0..20) => ENGLISH[number].to_owned(),
        (Language::English, _) if number.is_multiple_of(10) => TENS[number / 10].to_owned(),
        (Language::English, _) => format!("{}-{}", TENS[number / 10], ENGLISH[number % 10]),
        (Language::Chinese, 2) => "两".to_owned(),
        (Language::Chinese, 0..10) => CHINESE[number].to_owned(),
        (Language::Chinese, _) => {
            let tens = if number < 20 { "" } else { CHINESE[number / 10] };
            let ones = if number.is_multiple_of(10) { "" } else { CHINESE[number % 10] };
            format!("{tens}十{ones}")
        }
    }
}

/// Line breaks, capital letters at the start of sentences, and `a(n)`.
fn polish(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("a(n) ") {
            let next = rest[5..].chars().next().unwrap_or(' ');
            let article = if start { 'A' } else { 'a' };
            out.push(article);
            out.push_str(if "aeiouAEIOU".contains(next) { "n " } else { " " });
            start = false;
            rest = &rest[5..];
            continue;
        }
        if c == '\n' && out.ends_with('\n') || c == ' ' && (out.is_empty() || out.ends_with([' ', '\n'])) {
            rest = &rest[1..];
            continue;
        }
        if c == '\n' || (c == ' ' && out.ends_with(['.', '!', '?'])) {
            start = true;
        }
        if start && c.is_alphabetic() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start &= !c.is_alphanumeric();
        rest = &rest[c.len_utf8()..];
    }
    out.trim().to_owned()
}
