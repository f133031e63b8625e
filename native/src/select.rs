//! Choosing the nearest rows exactly, by (distance, row), in one pass and without a heap.
//!
//! Distances are small whole numbers, so a histogram says how far a row may be and still be kept. Rows come in
//! ascending order: of equal distances the first stay.

use crate::kernels::{Kernel, Pick, pick_distance};

/// Distances of one plane are 0 to 128.
const BINS: usize = 129;

/// Above every distance of one plane.
pub const NO_LIMIT: u8 = BINS as u8;

/// The `keep` nearest of a stream of rows.
///
/// Invariant: `below` rows of `picks` are nearer than `limit` and fewer than `keep`; with those at `limit` they are at
/// least `keep` (unless fewer came), so that no later row at `limit` or beyond can matter.
pub struct Nearest {
    keep: usize,
    limit: u8,
    is_guessed: bool,
    below: usize,
    counts: [usize; BINS],
    picks: Vec<Pick>,
}

impl Nearest {
    /// keep >= 1. Rows at `limit` or beyond are passed over; `is_complete` says in the end whether that was right.
    pub fn new(keep: usize, limit: u8) -> Self {
        let limit = limit.min(NO_LIMIT);
        Self { keep: keep.max(1), limit, is_guessed: limit < NO_LIMIT, below: 0, counts: [0; BINS], picks: Vec::new() }
    }

    /// False if the limit given at the start was so low that rows to be kept may have been passed over.
    pub fn is_complete(&self) -> bool {
        !self.is_guessed
    }

    /// Take the next rows, numbered from `base`; those at distance `HIDDEN` of the kernels are passed over.
    pub fn take(&mut self, kernel: Kernel, distances: &[u8], base: u32) {
        let before = self.picks.len();
        kernel.below(distances, self.limit, base, &mut self.picks);
        for &pick in &self.picks[before..] {
            self.counts[pick_distance(pick)] += 1;
        }
        self.below += self.picks.len() - before;
        while self.below >= self.keep {
            self.is_guessed = false;
            self.limit -= 1;
            self.below -= self.counts[usize::from(self.limit)];
        }
        if self.picks.len() >= 2 * self.keep + 4096 {
            self.prune();
        }
    }

    /// The picks in order of rows.
    pub fn finish(mut self) -> Vec<Pick> {
        self.prune();
        self.picks
    }

    fn prune(&mut self) {
        retain(&mut self.picks, usize::from(self.limit), self.keep - self.below);
    }
}

/// Keep the `keep` nearest of picks that are in order of rows, and keep that order. No distance exceeds `farthest`.
pub fn keep_nearest(picks: &mut Vec<Pick>, keep: usize, farthest: usize) {
    if picks.len() <= keep {
        return;
    }
    let mut counts = vec![0_usize; farthest + 1];
    for &pick in picks.iter() {
        counts[pick_distance(pick)] += 1;
    }
    let (mut limit, mut below) = (0, 0);
    while below + counts[limit] < keep {
        below += counts[limit];
        limit += 1;
    }
    retain(picks, limit, keep - below);
}

/// Keep what is nearer than `limit`, and the first `ties` at it.
fn retain(picks: &mut Vec<Pick>, limit: usize, mut ties: usize) {
    let mut kept = 0;
    for at in 0..picks.len() {
        let pick = picks[at];
        let distance = pick_distance(pick);
        let is_tie = distance == limit && ties > 0;
        // Without a branch: which rows stay cannot be predicted.
        picks[kept] = pick;
        kept += usize::from(distance < limit || is_tie);
        ties -= usize::from(is_tie);
    }
    picks.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{HIDDEN, pick, pick_row};
    use proptest::prelude::*;

    fn by_sorting(mut picks: Vec<Pick>, keep: usize) -> Vec<Pick> {
        picks.sort_unstable();
        picks.truncate(keep);
        picks.sort_unstable_by_key(|pick| pick_row(*pick));
        picks
    }

    fn picks_of(distances: &[u8]) -> Vec<Pick> {
        let rows = distances.iter().zip(0..);
        rows.filter(|(d, _)| **d != HIDDEN).map(|(d, row)| pick(u32::from(*d), row)).collect()
    }

    fn distances() -> impl Strategy<Value = Vec<u8>> {
        let near = prop_oneof![8 => 0..6_u8, 8 => 50..70_u8, 1 => Just(128), 1 => Just(HIDDEN)];
        prop::collection::vec(near, 0..9000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_stream_keeps_what_sorting_keeps(distances in distances(), keep in 1..200_usize, block in 1..700_usize) {
            for kernel in Kernel::available() {
                let mut nearest = Nearest::new(keep, NO_LIMIT);
                for (base, block) in (0..).step_by(block).zip(distances.chunks(block)) {
                    nearest.take(kernel, block, base);
                }
                prop_assert_eq!(nearest.finish(), by_sorting(picks_of(&distances), keep));
            }
        }

        #[test]
        fn a_list_keeps_what_sorting_keeps(distances in distances(), keep in 0..9100_usize) {
            let mut picks = picks_of(&distances);
            let expected = by_sorting(picks.clone(), keep);
            keep_nearest(&mut picks, keep, 128);
            prop_assert_eq!(picks, expected);
        }
    }
}
