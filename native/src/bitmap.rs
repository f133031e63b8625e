//! Which rows of a segment are deleted. Costs nothing until the first deletion.

use std::ops::Range;

#[derive(Default)]
pub struct Bitmap {
    words: Vec<u64>,
    set: usize,
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
        self.set += usize::from(is_new);
        is_new
    }

    #[inline]
    pub fn contains(&self, row: usize) -> bool {
        self.words.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// The marked rows of a range, ascending.
    pub fn marked(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let end = if self.set == 0 { 0 } else { range.end.min(self.words.len() * 64) };
        let first_word = range.start / 64;
        (first_word..end.div_ceil(64).max(first_word))
            .flat_map(move |word| Bits(self.words[word]).map(move |bit| word * 64 + bit))
            .filter(move |row| range.contains(row))
    }
}

/// Positions of the ones of a word.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        if self.0 == 0 {
            return None;
        }
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_what_a_set_holds(rows in 1..300_usize, picks in prop::collection::vec(0..300_usize, 0..60), range in (0..400_usize, 0..400_usize)) {
            let mut bitmap = Bitmap::default();
            let mut set = std::collections::BTreeSet::new();
            for row in picks.into_iter().filter(|row| *row < rows) {
                prop_assert_eq!(bitmap.set(row, rows), set.insert(row));
            }
            prop_assert!((0..400).all(|row| bitmap.contains(row) == set.contains(&row)));
            let range = range.0.min(range.1)..range.0.max(range.1);
            let expected: Vec<_> = set.range(range.clone()).copied().collect();
            prop_assert_eq!(bitmap.marked(range).collect::<Vec<_>>(), expected);
        }
    }
}
