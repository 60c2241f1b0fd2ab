//! The scripts of a language, by which its pieces are told from those of others.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};
use unicode_script::{Script, ScriptExtension, UnicodeScript};

/// Scripts by Unicode's names, at least one: `["Han"]`, `["Han", "Hiragana", "Katakana"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts(Vec<Script>);

/// Those whose print has punctuation and wide forms of its own.
const EAST_ASIAN: [Script; 5] = [Script::Han, Script::Hiragana, Script::Katakana, Script::Bopomofo, Script::Hangul];

impl Scripts {
    /// Of the names, which are full (`Cyrillic`) or have four letters (`Cyrl`); an error says what is wrong.
    fn of_names(names: &[String]) -> Result<Self, String> {
        let mut scripts = Vec::new();
        for name in names {
            let script = Script::from_full_name(name).or_else(|| Script::from_short_name(name));
            match script {
                Some(Script::Common | Script::Inherited | Script::Unknown) | None => {
                    return Err(format!(
                        "\"{name}\" is no script; write Unicode's name of one, such as \"Han\", \"Hiragana\" or \"Cyrillic\""
                    ));
                }
                Some(script) => scripts.push(script),
            }
        }
        scripts.sort_by_key(|script| script.full_name());
        scripts.dedup();
        if scripts.is_empty() { Err("a list of scripts must not be empty".to_owned()) } else { Ok(Self(scripts)) }
    }

    /// The scripts that a text is written in, from its characters and their counts: the one with the most letters
    /// and those with at least a hundredth of its letters. Names, formulas and code bring Latin into every text: it
    /// counts only where no other script has a tenth of its letters, and then alone. `None` for a text without letters.
    pub fn of_text(characters: &[(char, u64)]) -> Option<Self> {
        let mut counts: Vec<(Script, u64)> = Vec::new();
        for (c, count) in characters {
            match c.script() {
                Script::Common | Script::Inherited | Script::Unknown => {}
                script => match counts.iter_mut().find(|(known, _)| *known == script) {
                    Some((_, sum)) => *sum += count,
                    None => counts.push((script, *count)),
                },
            }
        }
        let latin = counts.iter().find(|(script, _)| *script == Script::Latin).map_or(0, |(_, count)| *count);
        counts.retain(|(script, count)| *script != Script::Latin && count * 10 >= latin);
        let most = counts.iter().map(|(_, count)| *count).max();
        let Some(most) = most else { return (latin > 0).then(|| Self(vec![Script::Latin])) };
        let mut scripts: Vec<Script> =
            counts.iter().filter(|(_, count)| count * 100 >= most).map(|(script, _)| *script).collect();
        scripts.sort_by_key(|script| script.full_name());
        Some(Self(scripts))
    }

    /// Whether English is written in one of them.
    pub fn has_latin(&self) -> bool {
        self.0.contains(&Script::Latin)
    }

    /// Whether a text has a character of one of them.
    pub fn are_in(&self, text: &str) -> bool {
        text.chars().any(|c| self.0.contains(&c.script()))
    }

    /// Whether a character belongs to print in these scripts and to no English one: their letters; marks that Unicode
    /// lists for them and not for Latin (`ー`, `。`, `।`); with an East Asian script, CJK punctuation (`「」`) and
    /// full-width forms (`，！`). Quotation marks and dashes, which English has too, do not belong.
    pub fn own(&self, c: char) -> bool {
        if self.0.contains(&c.script()) {
            return true;
        }
        let is_wide = matches!(c, '\u{3000}'..='\u{303F}' | '\u{FF01}'..='\u{FF60}');
        if is_wide && self.0.iter().any(|script| EAST_ASIAN.contains(script)) {
            return true;
        }
        let scripts: ScriptExtension = c.script_extension();
        let is_shared_by_all = scripts.is_common() || scripts.is_inherited();
        !is_shared_by_all
            && !scripts.contains_script(Script::Latin)
            && self.0.iter().any(|script| scripts.contains_script(*script))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|script| script.full_name())
    }
}

/// `Han`, `Han or Hiragana`, `Han, Hiragana or Katakana`.
impl fmt::Display for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        match &names[..] {
            [first @ .., last] if !first.is_empty() => write!(f, "{} or {last}", first.join(", ")),
            names => f.write_str(&names.join(", ")),
        }
    }
}

impl<'de> Deserialize<'de> for Scripts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_names(&Vec::<String>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Scripts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl JsonSchema for Scripts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scripts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Unicode's names of scripts: `Han`, `Hiragana`, `Cyrillic` …",
            "type": "array",
            "items": { "type": "string" },
            "minItems": 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(names: &[&str]) -> Scripts {
        Scripts::of_names(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn scripts_have_names() {
        assert_eq!(scripts(&["Katakana", "Hani", "Han"]).to_string(), "Han or Katakana");
        assert_eq!(scripts(&["Cyrl"]).to_string(), "Cyrillic");
        assert_eq!(serde_json::from_str::<Scripts>("[\"Han\"]").unwrap(), scripts(&["Han"]));
        assert_eq!(serde_json::to_string(&scripts(&["Han", "Hira"])).unwrap(), "[\"Han\",\"Hiragana\"]");
        for wrong in ["[]", "[\"Klingon\"]", "[\"Common\"]", "\"Han\"", "[\"han\"]"] {
            assert!(serde_json::from_str::<Scripts>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_script_owns_its_print_and_no_english() {
        let (han, japanese) = (scripts(&["Han"]), scripts(&["Han", "Hiragana", "Katakana"]));
        let (russian, hindi) = (scripts(&["Cyrillic"]), scripts(&["Devanagari"]));
        for c in "春。，「《！　Ａ".chars() {
            assert!(han.own(c) && japanese.own(c), "{c}");
            assert!(!russian.own(c) || c == '「', "{c}");
        }
        assert!("ひらカナー".chars().all(|c| japanese.own(c) && (c == 'ー' || !han.own(c))));
        assert!("Привет".chars().all(|c| russian.own(c)));
        assert!(hindi.own('।') && !han.own('।'));
        let english = "The quick “fox” – 100% — it's… a+b=c; é §\t▁\u{301}·×";
        for scripts in [&han, &japanese, &russian, &hindi] {
            assert!(english.chars().all(|c| !scripts.own(c)), "{scripts}");
        }
        assert!(japanese.are_in("x ナ") && !japanese.are_in("x ー。"));
    }

    #[test]
    fn a_text_shows_its_scripts() {
        let of = |text: &str| {
            let characters: Vec<(char, u64)> = text.chars().map(|c| (c, 1)).collect();
            Scripts::of_text(&characters).map(|scripts| scripts.to_string())
        };
        assert_eq!(of("春天来了，hi 3。"), Some("Han".to_owned()));
        assert_eq!(of("春がきた。カメラ ok"), Some("Han, Hiragana or Katakana".to_owned()));
        assert_eq!(of("весна в долине"), Some("Cyrillic".to_owned()));
        assert_eq!(of("spring in the valley, 春"), Some("Latin".to_owned()));
        assert_eq!(of("12 + 3 …"), None);
        for (characters, scripts) in [
            ([('春', 1000), ('β', 9), ('x', 900)], "Han"),
            ([('春', 1000), ('β', 10), ('x', 9)], "Greek or Han"),
            ([('春', 1000), ('β', 1), ('x', 10_000)], "Han"),
            ([('春', 1000), ('β', 1), ('x', 10_001)], "Latin"),
        ] {
            assert_eq!(Scripts::of_text(&characters).unwrap().to_string(), scripts);
        }
    }
}
