//! The sizes of a sweep: `"11000..=41000 by 2000"`, or a list of numbers.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// Ascending, without repetitions, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

impl Sizes {
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// No more than one curve can show, and a guard against a step of the wrong magnitude.
    const MOST: usize = 10_000;

    fn of_list(mut sizes: Vec<usize>) -> Result<Self, String> {
        sizes.sort_unstable();
        sizes.dedup();
        match sizes.first() {
            None => Err("a list of sizes must not be empty".to_owned()),
            Some(0) => Err("a size must be above 0".to_owned()),
            Some(_) => Ok(Self(sizes)),
        }
    }

    /// `first..=last by step`; the last one is included if the steps lead there.
    fn of_range(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is no range of sizes; write it as \"11000..=41000 by 2000\"");
        let number = |text: &str| text.trim().replace('_', "").parse::<usize>().map_err(|_| form());
        let (first, rest) = text.split_once("..=").ok_or_else(form)?;
        let (last, step) = rest.split_once(" by ").ok_or_else(form)?;
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if step == 0 || first > last {
            return Err(format!("`{text}` holds no size: the first must not be above the last, the step not 0"));
        }
        if (last - first) / step >= Self::MOST {
            return Err(format!("`{text}` holds more than {} sizes", Self::MOST));
        }
        Self::of_list((first..=last).step_by(step).collect())
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Sizes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a range (\"11000..=41000 by 2000\") or a list of sizes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Sizes, E> {
                Sizes::of_range(text).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    sizes.push(size);
                }
                Sizes::of_list(sizes).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for Sizes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Sizes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A range, `11000..=41000 by 2000`, or a list of sizes.",
            "oneOf": [
                { "type": "string", "pattern": "^[0-9_]+\\.\\.=[0-9_]+ by [0-9_]+$", "examples": ["11000..=41000 by 2000"] },
                { "type": "array", "items": { "type": "integer", "minimum": 1 }, "minItems": 1 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(json: &str) -> Result<Vec<usize>, String> {
        serde_json::from_str::<Sizes>(json).map(|sizes| sizes.0).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_and_lists() {
        assert_eq!(sizes("\"1000..=2000 by 250\"").unwrap(), [1000, 1250, 1500, 1750, 2000]);
        assert_eq!(sizes("\"1_000..=1_900 by 500\"").unwrap(), [1000, 1500]);
        assert_eq!(sizes("[3, 1, 3]").unwrap(), [1, 3]);
        for wrong in ["[]", "[0]", "\"5\"", "\"2..=1 by 1\"", "\"1..=2 by 0\"", "\"1..=9000000 by 1\"", "7"] {
            assert!(sizes(wrong).is_err(), "{wrong}");
        }
    }
}
