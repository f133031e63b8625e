//! The k best candidates, by one total order, whatever the order in which they are found.

use std::cmp::Ordering;

/// A scored row. `index` is the position of its index in the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub score: f32,
    pub key: u64,
    pub index: u32,
    pub row: u32,
}

impl Candidate {
    /// Best first: score descending, then key, index and row ascending. Scores are never NaN here.
    fn order(&self, other: &Self) -> Ordering {
        other
            .score
            .partial_cmp(&self.score)
            .unwrap_or(Ordering::Equal)
            .then_with(|| (self.key, self.index, self.row).cmp(&(other.key, other.index, other.row)))
    }
}

/// Up to k candidates; holds up to twice as many between prunings.
#[derive(Clone)]
pub struct TopK {
    k: usize,
    least: f32,
    floor: f32,
    found: Vec<Candidate>,
}

impl TopK {
    /// k >= 1; candidates of less than `least` are not wanted.
    pub fn new(k: usize, least: f32) -> Self {
        Self { k, least, floor: least, found: Vec::new() }
    }

    /// Another of the same kind, with nothing in it yet.
    pub fn empty_like(&self) -> Self {
        Self::new(self.k, self.least)
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// True if there is a score below which nothing is wanted, whatever has been found.
    pub fn has_least(&self) -> bool {
        self.least > f32::NEG_INFINITY
    }

    /// False if a row of that score cannot be among the best, so that its key need not be read. A NaN never can:
    /// what has no score is not a candidate.
    #[inline(always)]
    pub fn wants(&self, score: f32) -> bool {
        score >= self.floor
    }

    pub fn push(&mut self, candidate: Candidate) {
        if !self.wants(candidate.score) {
            return;
        }
        self.found.push(candidate);
        if self.found.len() >= self.k.saturating_mul(2) {
            self.prune();
        }
    }

    pub fn merge(&mut self, other: Self) {
        for candidate in other.found {
            self.push(candidate);
        }
    }

    /// The k-th best score so far; while there are fewer, the least that is wanted.
    pub fn floor(&mut self) -> f32 {
        if self.found.len() >= self.k {
            self.prune();
        }
        self.floor
    }

    /// Best first.
    pub fn finish(mut self) -> Vec<Candidate> {
        self.found.sort_unstable_by(Candidate::order);
        self.found.truncate(self.k);
        self.found
    }

    fn prune(&mut self) {
        if self.found.len() > self.k {
            self.found.select_nth_unstable_by(self.k - 1, Candidate::order);
            self.found.truncate(self.k);
        }
        let lowest = self.found.iter().map(|candidate| candidate.score).fold(f32::INFINITY, f32::min);
        self.floor = self.floor.max(lowest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_what_sorting_keeps(scores in prop::collection::vec((0..5_i8, 0..3_u64), 0..200), k in 1..20_usize, cut in 0..200_usize, least in 0..4_i8) {
            let all: Vec<Candidate> = scores.iter().zip(0..)
                .map(|(&(score, key), row)| Candidate { score: f32::from(score), key, index: row % 2, row }).collect();
            let (left, right) = all.split_at(cut.min(all.len()));
            let least = if least == 0 { f32::NEG_INFINITY } else { f32::from(least) };
            let mut best = TopK::new(k, least);
            let mut other = TopK::new(k, least);
            left.iter().rev().for_each(|c| best.push(*c));
            right.iter().for_each(|c| other.push(*c));
            best.merge(other);
            let mut expected = all.clone();
            expected.sort_by_key(|c| (-(c.score as i64), c.key, c.index, c.row));
            expected.retain(|c| c.score >= least);
            expected.truncate(k);
            prop_assert_eq!(best.finish(), expected);
        }
    }

    #[test]
    fn what_is_not_a_number_is_no_candidate() {
        let mut best = TopK::new(2, f32::NEG_INFINITY);
        for score in [f32::NAN, f32::NEG_INFINITY, f32::NAN] {
            best.push(Candidate { score, key: 0, index: 0, row: 0 });
        }
        assert_eq!(best.finish().len(), 1);
    }
}
