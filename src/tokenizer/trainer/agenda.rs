//! A binary heap whose order is known only to its owner.

/// Entries such that [`Self::pop`] gives the one that comes first. Every call passes the order: `before(a, b)`.
pub struct Agenda<T> {
    entries: Vec<T>,
}

impl<T: Copy> Agenda<T> {
    pub fn new(entries: Vec<T>, before: impl Fn(T, T) -> bool) -> Self {
        let mut agenda = Self { entries };
        for at in (0..agenda.entries.len() / 2).rev() {
            agenda.sink(at, &before);
        }
        agenda
    }

    pub fn into_entries(self) -> Vec<T> {
        self.entries
    }

    pub fn push(&mut self, entry: T, before: impl Fn(T, T) -> bool) {
        self.entries.push(entry);
        let mut at = self.entries.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if !before(self.entries[at], self.entries[parent]) {
                break;
            }
            self.entries.swap(at, parent);
            at = parent;
        }
    }

    pub fn pop(&mut self, before: impl Fn(T, T) -> bool) -> Option<T> {
        let last = self.entries.len().checked_sub(1)?;
        self.entries.swap(0, last);
        let first = self.entries.pop();
        self.sink(0, &before);
        first
    }

    fn sink(&mut self, mut at: usize, before: &impl Fn(T, T) -> bool) {
        loop {
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.entries.len() && before(self.entries[child], self.entries[first]) {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.entries.swap(at, first);
            at = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_order() {
        let before = |a: u64, b: u64| a > b;
        let mut agenda = Agenda::new((0..50).map(|n| n * 37 % 50).collect(), before);
        for n in 50..60 {
            agenda.push(n, before);
        }
        let order: Vec<_> = std::iter::from_fn(|| agenda.pop(before)).collect();
        assert_eq!(order, (0..60).rev().collect::<Vec<_>>());
    }
}
