//! Inverted lists: which rows of a sealed segment belong to which centroid, and in what order a probe visits them.
//!
//! A sealed segment keeps its codes in order of the lists of its rows, so that a list is a range of positions. Its float
//! rows stay where they are; two bytes a row say which one a position is.

use std::collections::BinaryHeap;
use std::ops::Range;

/// Shorter lists are not worth their while: a list is scanned in whole blocks of 32 rows.
const MIN_MEAN_ROWS: usize = 64;

/// The most rows of a segment that can be ordered: a row is a `u16`.
const MAX_ROWS: usize = 1 << 16;

/// The rows of a segment in order of their lists.
pub struct Order {
    /// The row at each position.
    rows: Vec<u16>,
    /// Where each list starts, and the end of the last one.
    starts: Vec<u32>,
}

impl Order {
    /// The order of rows whose lists are given, of `count` lists; rows of one list stay in order. None where a segment
    /// of so many rows is better scanned as a whole.
    pub fn of(lists: impl ExactSizeIterator<Item = u16> + Clone, count: usize) -> Option<Self> {
        if count == 0 || lists.len() < count * MIN_MEAN_ROWS || lists.len() > MAX_ROWS {
            return None;
        }
        let mut starts = vec![0_u32; count + 1];
        lists.clone().for_each(|list| starts[usize::from(list) + 1] += 1);
        for list in 0..count {
            starts[list + 1] += starts[list];
        }
        let mut rows = vec![0; lists.len()];
        let mut next = starts.clone();
        for (list, row) in lists.zip(0..=u16::MAX) {
            let place = &mut next[usize::from(list)];
            rows[*place as usize] = row;
            *place += 1;
        }
        Some(Self { rows, starts })
    }

    #[inline(always)]
    pub fn row(&self, position: usize) -> usize {
        usize::from(self.rows[position])
    }

    /// The rows at all positions.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.rows.iter().map(|row| usize::from(*row))
    }

    /// The positions of a list.
    #[inline]
    pub fn range(&self, list: usize) -> Range<usize> {
        self.starts[list] as usize..self.starts[list + 1] as usize
    }

    pub fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<u16>() + self.starts.capacity() * size_of::<u32>()
    }
}

/// The lists that one probe has not visited yet, most promising first.
pub struct Walk {
    ahead: BinaryHeap<u64>,
    visited: usize,
}

impl Walk {
    /// agreements: of the probe with the centroid of each list.
    pub fn new(agreements: &[f32]) -> Self {
        let lists = agreements.iter().zip(0_u32..);
        let ahead = lists.map(|(agreement, list)| u64::from(rising(*agreement)) << 32 | u64::from(!list)).collect();
        Self { ahead, visited: 0 }
    }

    /// The next lists that agree by `least` or more, until they hold at least `budget` rows; `rows` of each list.
    pub fn next(&mut self, least: f32, budget: usize, rows: &[u32], mut visit: impl FnMut(usize)) {
        let end = self.visited.saturating_add(budget);
        while self.visited < end {
            let Some(&word) = self.ahead.peek() else { return };
            if (word >> 32) as u32 <= rising_below(least) {
                self.ahead.clear();
                return;
            }
            self.ahead.pop();
            let list = !(word as u32) as usize;
            if rows[list] > 0 {
                self.visited += rows[list] as usize;
                visit(list);
            }
        }
    }

    /// Rows of the lists visited so far.
    pub fn visited(&self) -> usize {
        self.visited
    }
}

/// Numbers that compare as the floats do.
fn rising(value: f32) -> u32 {
    let bits = value.to_bits();
    bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)
}

/// The largest of those numbers below a float's; zero for minus infinity, which nothing is below.
fn rising_below(value: f32) -> u32 {
    if value == f32::NEG_INFINITY { 0 } else { rising(value) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_order_holds_every_row_in_its_list(lists in prop::collection::vec(0..4_u16, 256..900)) {
            let order = Order::of(lists.iter().copied(), 4).expect("long enough lists");
            let mut seen = Vec::new();
            for list in 0..4 {
                let rows: Vec<usize> = order.range(list).map(|position| order.row(position)).collect();
                prop_assert!(rows.is_sorted());
                prop_assert!(rows.iter().all(|row| usize::from(lists[*row]) == list));
                seen.extend(rows);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lists.len()).collect::<Vec<_>>());
        }

        #[test]
        fn a_walk_visits_what_agrees_enough_best_first(
            agreements in prop::collection::vec(-4..4_i8, 0..40), least in -5..5_i8, budget in 1..60_usize,
        ) {
            let agreements: Vec<f32> = agreements.iter().map(|a| f32::from(*a) / 2.0).collect();
            let least = if least == -5 { f32::NEG_INFINITY } else { f32::from(least) / 2.0 };
            let rows: Vec<u32> = (0..agreements.len() as u32).map(|list| list % 7).collect();
            let mut expected: Vec<usize> =
                (0..agreements.len()).filter(|list| agreements[*list] >= least && rows[*list] > 0).collect();
            expected.sort_by(|a, b| agreements[*b].total_cmp(&agreements[*a]).then(a.cmp(b)));
            let mut walk = Walk::new(&agreements);
            let mut seen = Vec::new();
            loop {
                let before = (seen.len(), walk.visited());
                walk.next(least, budget, &rows, |list| seen.push(list));
                if seen.len() == before.0 {
                    break;
                }
                // No more lists than the budget asks for.
                let last = rows[seen[seen.len() - 1]] as usize;
                prop_assert!(walk.visited() - before.1 - last < budget);
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn short_lists_and_long_segments_are_not_ordered() {
        assert!(Order::of(vec![0; 255].into_iter(), 4).is_none());
        assert!(Order::of(vec![0; MAX_ROWS + 1].into_iter(), 4).is_none());
        assert!(Order::of(vec![0; MAX_ROWS].into_iter(), 4).is_some());
        assert!(Order::of(vec![].into_iter(), 0).is_none());
    }
}
