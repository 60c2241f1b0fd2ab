//! An entry of a training mix as it is written: `0.1:SkyPile-150B-2023`, `2B tokens:SkyPile-150B-2023`.

use super::value::{Content, Located};
use crate::corpus::mix::Amount;
use crate::error::Result;

/// `RATIO:NAME`, `TOKENS tokens:NAME`; in place of the name `@stage`.
#[derive(Clone, Debug)]
pub struct ShareText {
    pub amount: Amount,
    /// What stands after the colon, and where.
    pub dataset: Located,
}

impl ShareText {
    /// Reads the string that stands at `value`.
    pub fn parse(value: &Located) -> Result<Self> {
        let text = value.string("a share")?;
        let Some((amount_text, dataset)) = text.split_once(':') else {
            return Err(value
                .error(format!("share \"{text}\" has no ratio"), "no ratio")
                .hint(format!("write \"RATIO:NAME\", for example \"1:{text}\"")));
        };
        let place = value.place.of_part(amount_text);
        let amount = match amount_text.trim().strip_suffix("tokens") {
            Some(number) => tokens(number.trim()).map(Amount::Tokens).ok_or_else(|| {
                place
                    .error(format!("the tokens of share \"{text}\" are not a number"), "not a number of tokens")
                    .hint(format!("write \"1.5B tokens:{dataset}\"; K, M, B, T or nothing"))
            })?,
            None => match amount_text.trim().parse::<f64>() {
                Ok(ratio) if ratio.is_finite() && ratio > 0.0 => Amount::Ratio(ratio),
                Ok(ratio) if ratio <= 0.0 => {
                    return Err(place
                        .error(format!("the ratio of share \"{text}\" must be above 0"), "not above 0")
                        .hint("1 is one epoch; to leave a dataset out of the mix, remove its entry"));
                }
                _ => {
                    let error =
                        place.error(format!("the ratio of share \"{text}\" is not a number"), "not a number");
                    return Err(match tokens(amount_text.trim()) {
                        Some(_) => error.hint(format!("for tokens, write \"{amount_text} tokens:{dataset}\"")),
                        None => error.hint(format!("write \"RATIO:NAME\", for example \"0.5:{dataset}\"")),
                    });
                }
            },
        };
        if dataset.is_empty() {
            return Err(value.error(format!("share \"{text}\" names no dataset"), "no name after the colon"));
        }
        let content = Content::String(dataset.to_owned());
        Ok(Self { amount, dataset: Located { content, place: value.place.of_part(dataset) } })
    }
}

/// `2B`, `1.5M`, `300000`: a number above 0, in thousands (K), millions (M), billions (B, 10⁹) or trillions (T).
fn tokens(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix(['K', 'M', 'B', 'T']) {
        Some(number) if text.ends_with('K') => (number, 1e3),
        Some(number) if text.ends_with('M') => (number, 1e6),
        Some(number) if text.ends_with('B') => (number, 1e9),
        Some(number) => (number, 1e12),
        None => (text, 1.0),
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let tokens = number.parse::<f64>().ok().filter(|_| is_plain)? * factor;
    // Every whole number below 2^53 is a double.
    (1.0..=9e15).contains(&tokens).then_some(tokens.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn amounts_of_tokens() {
        for (text, expected) in [
            ("2B", Some(2_000_000_000)),
            ("1.5M", Some(1_500_000)),
            ("0.29K", Some(290)),
            ("1.1B", Some(1_100_000_000)),
            ("300000", Some(300_000)),
            ("1T", Some(1_000_000_000_000)),
            ("0", None),
            ("0.0001K", None),
            ("-1M", None),
            ("1e9", None),
            ("2G", None),
            ("2 B", None),
            ("B", None),
            ("", None),
            ("inf", None),
            ("9999999T", None),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }
}
