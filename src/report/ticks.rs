//! Where the marks of an axis stand, and how numbers are written at them.

/// The marks of an axis: values and how they are written.
pub type Ticks = Vec<(f64, String)>;

/// The marks from `low` to `high`: multiples of 1, 2 or 5 times a power of ten, as many as possible but at most `most`.
pub fn linear(low: f64, high: f64, most: usize) -> Ticks {
    let steps = (-9..=15).flat_map(|exponent| [1.0, 2.0, 5.0].map(|part| Step { part, exponent }));
    for step in steps {
        let (first, last) = ((low / step.times(1.0)).ceil(), (high / step.times(1.0)).floor());
        if last - first < most as f64 {
            let count = (last - first).max(-1.0) as i64 + 1;
            let values = (0..count).map(|at| step.times(first + at as f64));
            return values.map(|value| (value, axis_number(value, step.decimals()))).collect();
        }
    }
    Vec::new()
}

/// The marks from `low`, which is above 0, to `high` where every mark stands as far above the one before it: powers of
/// ten, with twice and five times as much between them as long as there are at most `most`. Where that gives fewer than
/// three, those of a plain axis.
pub fn logarithmic(low: f64, high: f64, most: usize) -> Ticks {
    for parts in [&[1.0, 2.0, 5.0][..], &[1.0]] {
        let steps = (-9..=15).flat_map(|exponent| parts.iter().map(move |part| Step { part: *part, exponent }));
        let marks = steps.map(|step| (step.times(1.0), axis_number(step.times(1.0), step.decimals())));
        let marks: Ticks = marks.filter(|(value, _)| (low..=high).contains(value)).collect();
        if (3..=most).contains(&marks.len()) {
            return marks;
        }
    }
    linear(low, high, most)
}

/// `part` · 10^`exponent`.
#[derive(Clone, Copy)]
struct Step {
    part: f64,
    exponent: i32,
}

impl Step {
    /// A multiple of the step. Powers of ten are exact as such, but not as fractions: those below one divide.
    fn times(self, number: f64) -> f64 {
        let power: f64 = (0..self.exponent.abs()).map(|_| 10.0).product();
        if self.exponent < 0 { number * self.part / power } else { number * self.part * power }
    }

    /// Digits after the point that multiples of it need.
    fn decimals(self) -> usize {
        (-self.exponent).max(0) as usize
    }
}

/// A number with a comma between groups of three digits: `25,000`.
pub fn thousands(number: usize) -> String {
    grouped(&number.to_string())
}

/// A number for an axis, with `decimals` digits after the point and a true minus sign: `−1,250.5`.
fn axis_number(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let is_zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    let sign = if value < 0.0 && !is_zero { "−" } else { "" };
    format!("{sign}{}{rest}", grouped(whole))
}

fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ticks: Ticks) -> Vec<String> {
        ticks.into_iter().map(|(_, text)| text).collect()
    }

    fn ticks(low: f64, high: f64, most: usize) -> Vec<String> {
        texts(linear(low, high, most))
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(11_000.0, 41_000.0, 8), ["15,000", "20,000", "25,000", "30,000", "35,000", "40,000"]);
        assert_eq!(ticks(-308.2, -269.6, 9), ["−305", "−300", "−295", "−290", "−285", "−280", "−275", "−270"]);
        assert_eq!(ticks(-1.0, -0.874, 8), ["−1.00", "−0.98", "−0.96", "−0.94", "−0.92", "−0.90", "−0.88"]);
        assert_eq!(ticks(0.0, 1.0, 6), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(-0.3, 0.3, 3), ["−0.2", "0.0", "0.2"]);
        assert_eq!(ticks(0.0, 1e6, 6).last().unwrap(), "1,000,000");
        assert!(ticks(0.5, 0.5, 5).len() <= 1);
        assert!(linear(f64::NEG_INFINITY, 1.0, 5).len() <= 5);
        assert_eq!(linear(0.0, 1.0, 3)[1], (0.5, "0.5".to_owned()));
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten() {
        let ticks = |low, high, most| texts(logarithmic(low, high, most));
        assert_eq!(ticks(0.07, 6.0, 9), ["0.1", "0.2", "0.5", "1", "2", "5"]);
        assert_eq!(ticks(0.001, 2000.0, 9), ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]);
        assert_eq!(ticks(3.0, 4.0, 9), ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]);
    }

    #[test]
    fn numbers_have_separators() {
        assert_eq!([0, 999, 1000, 41_000, 1_234_567].map(thousands), ["0", "999", "1,000", "41,000", "1,234,567"]);
        assert_eq!(axis_number(-0.001, 2), "0.00");
        assert_eq!(axis_number(-1250.5, 1), "−1,250.5");
    }
}
