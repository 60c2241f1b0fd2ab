//! What of Python's behaviour the harness's prompts depend on: `random.Random`, and a few methods of `str`.

use std::collections::HashSet;

use rand_mt::Mt;

/// `random.Random(seed)` of CPython 3.2 and later: MT19937 seeded by `init_by_array`.
pub struct Random(Mt);

impl Random {
    /// Seeds as `random.seed(int)` does: the words of the number, least significant first, are the key.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        Self(Mt::new_with_key(key))
    }

    /// The next output of the twister, as `getrandbits(32)` gives it.
    pub fn next_word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// `_randbelow_with_getrandbits`: uniform in `0..n`, by rejection; `n` is at least 1 and below 2³¹.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let draw = (self.next_word() >> (32 - bits)) as usize;
            if draw < n {
                return draw;
            }
        }
    }

    /// The indices that `random.sample(population, k)` picks of a population of `n`; `None` where Python raises
    /// (`k > n`).
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        // Python keeps a pool of all indices for small populations and a set of those taken for large ones; the
        // two consume the generator differently.
        let mut set_size = 21;
        if k > 5 {
            let mut power = 1;
            while power < 3 * k {
                power *= 4;
            }
            set_size += power;
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            let picked = (0..k).map(|i| {
                let j = self.below(n - i);
                let taken = pool[j];
                pool[j] = pool[n - i - 1];
                taken
            });
            return Some(picked.collect());
        }
        let mut taken = HashSet::with_capacity(k);
        let mut picked = Vec::with_capacity(k);
        while picked.len() < k {
            let j = self.below(n);
            if taken.insert(j) {
                picked.push(j);
            }
        }
        Some(picked)
    }
}

/// `str.isspace` of one character: Unicode's White_Space and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.capitalize()`: the first character in title case, the rest in lower case.
pub fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    let Some(first) = rest.next() else { return String::new() };
    let mut upper = first.to_uppercase();
    // Title case: of an expansion such as ß → SS only the first letter stays upper.
    let mut out: String = upper.by_ref().take(1).collect();
    out.extend(upper.flat_map(char::to_lowercase));
    out.push_str(&rest.as_str().to_lowercase());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_gives_pythons_words() {
        let mut random = Random::new(1234);
        let words: Vec<u32> = (0..4).map(|_| random.next_word()).collect();
        assert_eq!(words, [4150886329, 3342196574, 1892932127, 501869158]);
    }

    #[test]
    fn sample_draws_what_python_draws() {
        // random.Random(1234): three times sample(range(39905), 6), the draws of HellaSwag's first documents.
        let mut random = Random::new(1234);
        let draws: Vec<_> = (0..3).filter_map(|_| random.sample(39905, 6)).collect();
        assert_eq!(draws[0], [28883, 7657, 490, 5940, 38156, 2288]);
        assert_eq!(draws[1], [5500, 6450, 23241, 15519, 1142, 2019]);
        assert_eq!(draws[2], [1038, 22681, 31735, 30379, 9735, 5982]);
        assert_eq!(Random::new(1).sample(5, 6), None);
    }

    #[test]
    fn small_populations_are_drawn_from_a_pool() {
        // random.Random(1234).sample(range(n), k) of CPython 3.12, on both sides of each border.
        assert_eq!(Random::new(1234).sample(10, 3).unwrap(), POOL_10_3);
        assert_eq!(Random::new(1234).sample(21, 5).unwrap(), POOL_21_5);
        assert_eq!(Random::new(1234).sample(22, 5).unwrap(), SET_22_5);
        assert_eq!(Random::new(1234).sample(85, 6).unwrap(), POOL_85_6);
        assert_eq!(Random::new(1234).sample(86, 6).unwrap(), SET_86_6);
        assert_eq!(Random::new(1234567890123).sample(40, 4).unwrap(), LARGE_SEED_40_4);
    }

    const POOL_10_3: [usize; 3] = [7, 1, 0];
    const POOL_21_5: [usize; 5] = [14, 3, 0, 2, 1];
    const SET_22_5: [usize; 5] = [14, 3, 0, 2, 18];
    const POOL_85_6: [usize; 6] = [56, 14, 0, 11, 74, 4];
    const SET_86_6: [usize; 6] = [56, 14, 0, 11, 74, 4];
    const LARGE_SEED_40_4: [usize; 4] = [12, 39, 27, 35];

    #[test]
    fn strings_are_treated_as_python_treats_them() {
        assert_eq!(strip(" \u{3000}a b\u{1f}\n"), "a b");
        assert_eq!(rstrip(" a \u{a0}"), " a");
        assert_eq!(capitalize("the Lady's"), "The lady's");
        assert_eq!(capitalize("ßa"), "Ssa");
        assert_eq!(capitalize(""), "");
        assert_eq!(capitalize("\" Power"), "\" power");
    }
}
