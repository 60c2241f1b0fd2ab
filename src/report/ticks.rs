//! Where the marks of an axis stand, and how numbers are written at them.

/// The marks of an axis from `low` to `high`: multiples of 1, 2 or 5 times a power of ten, as many as possible but at
/// most `most`.
pub struct Ticks {
    pub values: Vec<f64>,
    /// Digits after the point that tell them apart.
    pub decimals: usize,
}

impl Ticks {
    pub fn new(low: f64, high: f64, most: usize) -> Self {
        let steps = (-9..=15).flat_map(|exponent| [1.0, 2.0, 5.0].map(|part| Step { part, exponent }));
        for step in steps {
            let (first, last) = ((low / step.times(1.0)).ceil(), (high / step.times(1.0)).floor());
            if last - first < most as f64 {
                let count = (last - first).max(-1.0) as i64 + 1;
                let values = (0..count).map(|at| step.times(first + at as f64)).collect();
                return Self { values, decimals: (-step.exponent).max(0) as usize };
            }
        }
        Self { values: Vec::new(), decimals: 0 }
    }
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
}

/// A number with a comma between groups of three digits: `25,000`.
pub fn thousands(number: usize) -> String {
    grouped(&number.to_string())
}

/// A number for an axis, with `decimals` digits after the point and a true minus sign: `−1,250.5`.
pub fn axis_number(value: f64, decimals: usize) -> String {
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

    fn ticks(low: f64, high: f64, most: usize) -> Vec<String> {
        let ticks = Ticks::new(low, high, most);
        ticks.values.iter().map(|value| axis_number(*value, ticks.decimals)).collect()
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
        assert!(Ticks::new(f64::NEG_INFINITY, 1.0, 5).values.len() <= 5);
    }

    #[test]
    fn numbers_have_separators() {
        assert_eq!([0, 999, 1000, 41_000, 1_234_567].map(thousands), ["0", "999", "1,000", "41,000", "1,234,567"]);
        assert_eq!(axis_number(-0.001, 2), "0.00");
        assert_eq!(axis_number(-1250.5, 1), "−1,250.5");
    }
}
