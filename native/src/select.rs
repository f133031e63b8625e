//! Choosing the nearest rows exactly, in one pass and without a heap.
//!
//! Distances are small whole numbers, so a histogram says how far a row may be and still be kept.

use crate::kernels::{Kernel, MAX_HEAD, Pick, pick, pick_distance, pick_row};

const BINS: usize = MAX_HEAD as usize + 1;

/// Above every distance of a first plane.
pub const NO_LIMIT: u16 = BINS as u16;

/// At least the `keep` nearest of a stream of rows: all that are nearer than some `limit`, which is as low as can be.
pub struct Nearest {
    keep: usize,
    limit: u16,
    is_guessed: bool,
    /// How many rows came that are nearer than `limit`; all of them are in `picks`.
    within: usize,
    counts: Vec<u32>,
    picks: Vec<Pick>,
    prune_at: usize,
}

/// What is left of the stream: every row nearer than `limit`, in order of rows, and no other.
pub struct Kept {
    pub limit: u16,
    pub picks: Vec<Pick>,
}

impl Nearest {
    /// keep >= 1. Rows at `limit` or beyond are passed over; `is_complete` says in the end whether that was right.
    pub fn new(keep: usize, limit: u16) -> Self {
        let (keep, limit) = (keep.max(1), limit.min(NO_LIMIT));
        Self {
            keep,
            limit,
            is_guessed: limit < NO_LIMIT,
            within: 0,
            counts: vec![0; BINS],
            picks: Vec::new(),
            prune_at: prune_at(keep, 0),
        }
    }

    /// False if the limit given at the start was so low that rows to be kept may have been passed over.
    pub fn is_complete(&self) -> bool {
        !self.is_guessed || self.within >= self.keep
    }

    /// Take the next rows; `place` gives the number of the row at a place among them, or None if it must not be picked.
    pub fn take(&mut self, kernel: Kernel, distances: &[u16], place: impl Fn(usize) -> Option<u32>) {
        let before = self.picks.len();
        kernel.below(distances, self.limit, 0, &mut self.picks);
        settle(&mut self.picks, before, place);
        for &pick in &self.picks[before..] {
            self.counts[pick_distance(pick) as usize] += 1;
        }
        self.within += self.picks.len() - before;
        // Rows at the last distance that is needed are all kept, so that nothing nearer than the limit is missing.
        while self.limit > 0 && self.within - self.last() >= self.keep {
            self.within -= self.last();
            self.limit -= 1;
        }
        if self.picks.len() >= self.prune_at {
            self.prune();
            self.prune_at = prune_at(self.keep, self.picks.len());
        }
    }

    pub fn finish(mut self) -> Kept {
        self.prune();
        Kept { limit: self.limit, picks: self.picks }
    }

    /// Rows at the farthest distance within the limit.
    fn last(&self) -> usize {
        self.counts[usize::from(self.limit) - 1] as usize
    }

    fn prune(&mut self) {
        self.picks.retain(|pick| pick_distance(*pick) < u32::from(self.limit));
    }
}

/// Of the picks from `start` on, which are numbered by place, keep those that have a row, numbered by it.
#[inline(always)]
pub fn settle(picks: &mut Vec<Pick>, start: usize, place: impl Fn(usize) -> Option<u32>) {
    let mut kept = start;
    for at in start..picks.len() {
        if let Some(row) = place(pick_row(picks[at]) as usize) {
            picks[kept] = pick(pick_distance(picks[at]), row);
            kept += 1;
        }
    }
    picks.truncate(kept);
}

/// Of the picks from `start` on, keep those wanted, without a branch for each.
#[inline(always)]
pub fn retain_from(picks: &mut Vec<Pick>, start: usize, is_wanted: impl Fn(Pick) -> bool) {
    let mut kept = start;
    for at in start..picks.len() {
        let pick = picks[at];
        picks[kept] = pick;
        kept += usize::from(is_wanted(pick));
    }
    picks.truncate(kept);
}

fn prune_at(keep: usize, picks: usize) -> usize {
    2 * keep.max(picks) + 4096
}

/// The nearest of several parts of a stream, each of which kept at least `keep` or all it had; parts in order of rows.
pub fn join(parts: Vec<Kept>, keep: usize) -> Kept {
    let mut counts = vec![0_usize; BINS];
    for pick in parts.iter().flat_map(|part| &part.picks) {
        counts[pick_distance(*pick) as usize] += 1;
    }
    let mut within = 0;
    let reach = counts.iter().position(|count| {
        within += count;
        within >= keep.max(1)
    });
    let limit = reach.map_or(NO_LIMIT, |reach| reach as u16 + 1);
    let all = parts.into_iter().flat_map(|part| part.picks);
    Kept { limit, picks: all.filter(|pick| pick_distance(*pick) < u32::from(limit)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::HIDDEN;
    use proptest::prelude::*;

    fn picks_of(distances: &[u16]) -> Vec<Pick> {
        let rows = distances.iter().zip(0..);
        rows.filter(|(d, _)| **d != HIDDEN).map(|(d, row)| pick(u32::from(*d), row)).collect()
    }

    /// The `keep` nearest, and all that are as near as the last of them.
    fn by_sorting(distances: &[u16], keep: usize) -> Vec<Pick> {
        let picks = picks_of(distances);
        let mut sorted: Vec<u32> = picks.iter().map(|pick| pick_distance(*pick)).collect();
        sorted.sort_unstable();
        let reach = sorted.get(keep - 1).copied().unwrap_or(u32::MAX);
        picks.into_iter().filter(|pick| pick_distance(*pick) <= reach).collect()
    }

    fn distances() -> impl Strategy<Value = Vec<u16>> {
        let near = prop_oneof![8 => 0..6_u16, 8 => 300..700_u16, 1 => Just(MAX_HEAD), 1 => Just(HIDDEN)];
        prop::collection::vec(near, 0..9000)
    }

    fn kept(distances: &[u16], base: usize, keep: usize, block: usize, kernel: Kernel) -> Kept {
        let mut nearest = Nearest::new(keep, NO_LIMIT);
        for (base, block) in (base..).step_by(block).zip(distances.chunks(block)) {
            nearest.take(kernel, block, |at| Some((base + at) as u32));
        }
        assert!(nearest.is_complete());
        nearest.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_stream_keeps_what_sorting_keeps(distances in distances(), keep in 1..200_usize, block in 1..700_usize) {
            for kernel in Kernel::available() {
                prop_assert_eq!(kept(&distances, 0, keep, block, kernel).picks, by_sorting(&distances, keep));
            }
        }

        #[test]
        fn parts_keep_what_the_whole_keeps(distances in distances(), keep in 1..200_usize, cut in 0..9000_usize) {
            let (left, right) = distances.split_at(cut.min(distances.len()));
            let part = |distances, base| kept(distances, base, keep, 100, Kernel::in_use());
            let joined = join(vec![part(left, 0), part(right, left.len())], keep);
            let whole = kept(&distances, 0, keep, 100, Kernel::in_use());
            prop_assert_eq!((joined.limit, joined.picks), (whole.limit, whole.picks));
        }

        #[test]
        fn a_guess_too_low_is_noticed(distances in distances(), keep in 1..200_usize, guess in 0..700_u16) {
            let mut nearest = Nearest::new(keep, guess);
            nearest.take(Kernel::in_use(), &distances, |at| Some(at as u32));
            if nearest.is_complete() {
                prop_assert_eq!(nearest.finish().picks, by_sorting(&distances, keep));
            } else {
                prop_assert!(picks_of(&distances).iter().filter(|p| pick_distance(**p) < u32::from(guess)).count() < keep);
            }
        }
    }
}
