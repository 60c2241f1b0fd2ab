//! An entry of a training mix as it is written: `0.1:SkyPile-150B-2023`.

use super::value::{Content, Located};
use crate::error::Result;

/// `RATIO:NAME` or `RATIO:@stage`.
#[derive(Clone, Debug)]
pub struct ShareText {
    /// Finite and above 0.
    pub ratio: f64,
    /// What stands after the colon, and where.
    pub dataset: Located,
}

impl ShareText {
    /// Reads the string that stands at `value`.
    pub fn parse(value: &Located) -> Result<Self> {
        let text = value.string("a share")?;
        let Some((ratio_text, dataset)) = text.split_once(':') else {
            return Err(value
                .error(format!("share \"{text}\" has no ratio"), "no ratio")
                .hint(format!("write \"RATIO:NAME\", for example \"1:{text}\"")));
        };
        let place = value.place.of_part(ratio_text);
        let ratio = match ratio_text.trim().parse::<f64>() {
            Ok(ratio) if ratio.is_finite() => ratio,
            _ => {
                return Err(place
                    .error(format!("the ratio of share \"{text}\" is not a number"), "not a number")
                    .hint(format!("write \"RATIO:NAME\", for example \"0.5:{dataset}\"")));
            }
        };
        if ratio <= 0.0 {
            let hint = "1 is one epoch; to leave a dataset out of the mix, remove its entry";
            return Err(place
                .error(format!("the ratio of share \"{text}\" must be above 0"), "not above 0")
                .hint(hint));
        }
        if dataset.is_empty() {
            return Err(value.error(format!("share \"{text}\" names no dataset"), "no name after the colon"));
        }
        let content = Content::String(dataset.to_owned());
        Ok(Self { ratio, dataset: Located { content, place: value.place.of_part(dataset) } })
    }
}
