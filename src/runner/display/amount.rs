//! Amounts, rates and times as people read them.

use crate::events::Unit;

/// `1.5 GiB`.
pub fn bytes(amount: u64) -> String {
    indicatif::HumanBytes(amount).to_string()
}

/// `1,234,567`.
pub fn count(amount: u64) -> String {
    indicatif::HumanCount(amount).to_string()
}

/// `1 file`, `2 files`.
pub fn counted(amount: u64, what: &str) -> String {
    let plural = if amount == 1 { "" } else { "s" };
    format!("{} {what}{plural}", count(amount))
}

/// `0.3 s`, `42 s`, `3 min 10 s`, `2 h 05 min`.
pub fn seconds(elapsed: f64) -> String {
    let whole = elapsed.round() as u64;
    match whole {
        0..10 => format!("{elapsed:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// `120/300 steps, 40 %, 5.1 steps/s, 35 s left`.
pub fn progress(done: u64, total: Option<u64>, unit: Unit, elapsed: f64) -> String {
    let amount = |amount: u64| if unit == Unit::Bytes { bytes(amount) } else { count(amount) };
    let name = match unit {
        Unit::Bytes => "",
        Unit::Documents => " documents",
        Unit::Tokens => " tokens",
        Unit::Steps => " steps",
        Unit::Items => " items",
    };
    let rate = if elapsed > 0.0 { done as f64 / elapsed } else { 0.0 };
    let per_second = match unit {
        Unit::Bytes => format!("{}/s", bytes(rate as u64)),
        _ if rate < 10.0 => format!("{rate:.1}{name}/s"),
        _ => format!("{}{name}/s", count(rate as u64)),
    };
    match total.filter(|&total| total > 0) {
        Some(total) => {
            let percent = 100 * done.min(total) / total;
            let mut text = format!("{}/{}{name}, {percent} %, {per_second}", amount(done), amount(total));
            if rate > 0.0 && done < total {
                text.push_str(&format!(", {} left", seconds((total - done) as f64 / rate)));
            }
            text
        }
        None => format!("{}{name}, {per_second}", amount(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_readable() {
        assert_eq!(seconds(0.26), "0.3 s");
        assert_eq!(seconds(190.2), "3 min 10 s");
        assert_eq!(seconds(7500.0), "2 h 05 min");
        let line = progress(120, Some(300), Unit::Steps, 24.0);
        assert_eq!(line, "120/300 steps, 40 %, 5.0 steps/s, 36 s left");
        assert_eq!(progress(2048, None, Unit::Bytes, 1.0), "2.00 KiB, 2.00 KiB/s");
    }
}
