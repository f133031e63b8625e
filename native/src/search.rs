//! One search over several indexes: checks, locks, splits the work over cores and merges the candidates.
//!
//! Probes are taken in groups, so that a block of rows is read from memory once for all of a group; groups run in
//! parallel. Where there are fewer groups than cores, indexes and ranges of rows run in parallel too. Every stage keeps
//! what a total order says, so the result does not depend on how the work was split.

use std::ops::Range;

use parking_lot::RwLockReadGuard;
use rayon::prelude::*;

use crate::cascade::{self, Survivors};
use crate::error::{Error, Result, filled};
use crate::exact;
use crate::index::{Index, State};
use crate::kernels::{Kernel, PLANE_BYTES};
use crate::topk::{Candidate, TopK};

/// Probes that share one pass over the rows: their selections fit the cache beside a block of rows
/// (`cargo bench -- batch`).
const GROUP: usize = 16;

/// Picks that the probes of a group may hold together, 8 bytes each, twice over.
const GROUP_PICKS: usize = 1 << 22;

/// Fewer row comparisons than this are not worth waking other cores for.
const MIN_SHARE: usize = 1 << 16;

/// How one index is searched: `codes` None scans all floats, else the cascade keeps `head` and then `full` rows.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub codes: Option<&'a [u8]>,
    pub head: usize,
    pub full: usize,
}

/// Candidates of n probes, k each, row by row: -1, NaN and 0 where there are fewer.
#[derive(Debug, PartialEq)]
pub struct Found {
    pub indexes: Vec<i32>,
    pub rows: Vec<i64>,
    pub scores: Vec<f32>,
    pub keys: Vec<u64>,
}

/// One index as a search sees it.
pub struct Target<'a> {
    pub number: u32,
    pub state: &'a State,
    pub kernel: Kernel,
    stage: Stage<'a>,
    parts: usize,
}

/// The k best rows of all indexes for each probe of `dim` floats, by (score descending, key, index, row).
///
/// `Error::Value` if a dimension or the size of the codes is wrong, or if codes are given to an index that has none.
pub fn search(
    indexes: &[&Index],
    probes: &[f32],
    dim: usize,
    stages: &[Stage],
    k: usize,
    kernel: Kernel,
) -> Result<Found> {
    let n = check(indexes, probes, dim, stages, k)?;
    let (guards, places) = lock(indexes);
    let states: Vec<&State> = places.iter().map(|&place| &*guards[place]).collect();
    for (at, (state, stage)) in states.iter().zip(stages).enumerate() {
        check_codes(at, state, stage, n)?;
    }
    let rows = states.iter().map(|state| state.rows).sum::<usize>();
    let kept = k.min(rows).max(1);
    let threads = rayon::current_num_threads();
    let group = group_size(n, threads, &states, stages, kept);
    let is_small = n.saturating_mul(rows) <= MIN_SHARE;
    let is_fanned = !is_small && n.div_ceil(group) < threads;
    let share = rows.div_ceil(threads).max(MIN_SHARE);
    let targets: Vec<Target> = (0..)
        .zip(states.iter().zip(stages))
        .map(|(number, (state, stage))| {
            let parts = if is_fanned { state.rows.div_ceil(share).max(1) } else { 1 };
            Target { number, state, kernel, stage: *stage, parts }
        })
        .collect();
    let run = |at: usize| search_group(&targets, &probes[at * dim..n.min(at + group) * dim], dim, at, kept, is_fanned);
    let starts = (0..n).step_by(group);
    let lists: Vec<Vec<TopK>> = match is_small {
        true => starts.map(run).collect(),
        false => starts.collect::<Vec<_>>().into_par_iter().map(run).collect(),
    };
    drop(targets);
    drop(guards);
    Found::collect(lists.into_iter().flatten().map(TopK::finish), n, k)
}

/// The best of the probes of one group, whose first is number `first`.
fn search_group(targets: &[Target], probes: &[f32], dim: usize, first: usize, k: usize, is_fanned: bool) -> Vec<TopK> {
    let n = probes.len() / dim;
    let empty = || (0..n).map(|_| TopK::new(k)).collect::<Vec<_>>();
    let run = |target: &Target| {
        let mut best = empty();
        target.search(probes, first, k, &mut best);
        best
    };
    let merge = |mut all: Vec<TopK>, more: Vec<TopK>| {
        all.iter_mut().zip(more).for_each(|(all, more)| all.merge(more));
        all
    };
    match is_fanned {
        true => targets.par_iter().map(run).reduce(empty, merge),
        false => targets.iter().map(run).fold(empty(), merge),
    }
}

impl Target<'_> {
    fn search(&self, probes: &[f32], first: usize, k: usize, best: &mut [TopK]) {
        let Some(codes) = self.stage.codes else {
            return exact::search(self, probes, best);
        };
        let width = self.state.planes * PLANE_BYTES;
        let codes = &codes[first * width..(first + best.len()) * width];
        cascade::search(self, probes, codes, survivors(self.stage, k), best);
    }

    /// The index's rows in ranges to be run in parallel, in order.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let step = self.state.rows.div_ceil(self.parts).max(1);
        (0..self.state.rows).step_by(step).map(|from| from..(from + step).min(self.state.rows)).collect()
    }

    /// True if this index's work is to be split over cores.
    pub fn is_split(&self) -> bool {
        self.parts > 1
    }
}

/// No stage keeps fewer than the next one needs.
fn survivors(stage: Stage, k: usize) -> Survivors {
    let full = stage.full.max(k);
    Survivors { head: stage.head.max(full), full }
}

/// Probes per group: enough groups for all threads, and not more picks than `GROUP_PICKS` in each.
fn group_size(n: usize, threads: usize, states: &[&State], stages: &[Stage], k: usize) -> usize {
    let cascades = states.iter().zip(stages).filter(|(_, stage)| stage.codes.is_some());
    let picks = cascades.map(|(state, stage)| survivors(*stage, k).head.min(state.rows)).max().unwrap_or(0);
    n.div_ceil(threads).min(GROUP).min(GROUP_PICKS / picks.max(1)).max(1)
}

/// Read locks on all indexes, and for each index the place of its lock. An index that is given twice is locked once, and
/// locks are taken in one order by all searches: waiting writers would otherwise make a cycle.
fn lock<'a>(indexes: &[&'a Index]) -> (Vec<RwLockReadGuard<'a, State>>, Vec<usize>) {
    let address = |index: &Index| std::ptr::from_ref(index).addr();
    let mut distinct: Vec<&'a Index> = indexes.to_vec();
    distinct.sort_by_key(|index| address(index));
    distinct.dedup_by_key(|index| address(index));
    let place = |index: &&Index| distinct.partition_point(|other| address(other) < address(index));
    let places = indexes.iter().map(place).collect();
    (distinct.into_iter().map(Index::read).collect(), places)
}

fn check(indexes: &[&Index], probes: &[f32], dim: usize, stages: &[Stage], k: usize) -> Result<usize> {
    if k == 0 {
        return Err(Error::value("k: expected at least 1, got 0"));
    }
    if dim == 0 || !probes.len().is_multiple_of(dim) {
        return Err(Error::value(format!("probes: expected rows of at least one float, got rows of {dim}")));
    }
    if stages.len() != indexes.len() {
        let message = format!("expected codes and survivors for {} indexes, got {}", indexes.len(), stages.len());
        return Err(Error::value(message));
    }
    if indexes.len() > i32::MAX as usize {
        return Err(Error::value(format!("{} indexes are too many", indexes.len())));
    }
    for (at, index) in indexes.iter().enumerate() {
        if index.dim() != dim {
            let message = format!("probes: expected (n, {}) float32 for index {at}, got (n, {dim})", index.dim());
            return Err(Error::value(message));
        }
    }
    if let Some(at) = probes.iter().position(|value| !value.is_finite()) {
        return Err(Error::value(format!("probes: expected finite values, got {} in row {}", probes[at], at / dim)));
    }
    Ok(probes.len() / dim)
}

fn check_codes(at: usize, state: &State, stage: &Stage, n: usize) -> Result<()> {
    let Some(codes) = stage.codes else { return Ok(()) };
    if state.planes == 0 {
        return Err(Error::value(format!("codes[{at}]: expected None, index {at} has no code planes")));
    }
    let width = state.planes * PLANE_BYTES;
    if codes.len() != n * width {
        let got = codes.len();
        return Err(Error::value(format!("codes[{at}]: expected ({n}, {width}) uint8, got {got} bytes")));
    }
    Ok(())
}

impl Found {
    fn collect(lists: impl Iterator<Item = Vec<Candidate>>, n: usize, k: usize) -> Result<Self> {
        let len = n.checked_mul(k).ok_or_else(|| Error::Memory(format!("no memory for {n} lists of {k}")))?;
        let mut found = Self {
            indexes: filled(len, -1, "indexes")?,
            rows: filled(len, -1, "rows")?,
            scores: filled(len, f32::NAN, "scores")?,
            keys: filled(len, 0, "keys")?,
        };
        for (at, list) in lists.enumerate() {
            for (place, candidate) in (at * k..).zip(list) {
                found.indexes[place] = candidate.index as i32;
                found.rows[place] = i64::from(candidate.row);
                found.scores[place] = candidate.score;
                found.keys[place] = candidate.key;
            }
        }
        Ok(found)
    }
}
