//! Which rows of a segment are deleted. Costs nothing until the first deletion.

#[derive(Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Mark one of `rows` rows; true if it was not marked before.
    pub fn set(&mut self, row: usize, rows: usize) -> bool {
        if self.words.len() < rows.div_ceil(64) {
            self.words.reserve_exact(rows.div_ceil(64) - self.words.len());
            self.words.resize(rows.div_ceil(64), 0);
        }
        let (word, bit) = (row / 64, 1 << (row % 64));
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    #[inline]
    pub fn contains(&self, row: usize) -> bool {
        self.words.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Rows that are marked.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_what_a_set_holds(rows in 1..300_usize, picks in prop::collection::vec(0..300_usize, 0..60)) {
            let mut bitmap = Bitmap::default();
            let mut set = std::collections::BTreeSet::new();
            for row in picks.into_iter().filter(|row| *row < rows) {
                prop_assert_eq!(bitmap.set(row, rows), set.insert(row));
            }
            prop_assert_eq!(bitmap.count(), set.len());
            prop_assert!((0..400).all(|row| bitmap.contains(row) == set.contains(&row)));
        }
    }
}
