//! One search over several indexes: checks, locks, splits the work over cores and merges the candidates.
//!
//! Probes are taken in groups, so that a block of rows is read from memory once for all of a group; groups run in
//! parallel. Where there are fewer groups than cores, indexes and ranges of rows run in parallel too. Every stage keeps
//! what a total order says, so the result does not depend on how the work was split.

use std::ops::Range;

use parking_lot::RwLockReadGuard;
use rayon::prelude::*;

use crate::cascade;
use crate::error::{Error, Result, filled};
use crate::exact;
use crate::index::{Index, State};
use crate::kernels::{Kernel, PLANE_BYTES};
use crate::query::{BOUND_VALUES, Query};
use crate::topk::{Candidate, TopK};

/// Probes that share one pass over the rows: their selections fit the cache beside a block of rows
/// (`cargo bench -- batch`).
const GROUP: usize = 16;

/// Fewer row comparisons than this are not worth waking other cores for.
const MIN_SHARE: usize = 1 << 16;

/// How one index is searched.
#[derive(Clone, Copy)]
pub enum Stage<'a> {
    /// All floats are scanned.
    Exact,
    /// The cascade. For each probe, `values` has its projections minus thresholds, one for each bit of a code, and `bounds`
    /// what the model's calibration makes of the asked recall: offset and slope, for the first plane and for all, of
    /// the lowest agreement that a row of some cosine has. Cosines above `knee` count half.
    Cascade { values: &'a [f32], bounds: &'a [f32], knee: f32 },
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
    parts: usize,
    /// Which of the distinct cascades of the search is its; None scans all floats.
    cascade: Option<usize>,
}

/// The k best rows of all indexes for each probe of `dim` floats, by (score descending, key, index, row).
///
/// `Error::Value` if a dimension or the size of an array is wrong, or if an index without codes is given a cascade.
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
        check_stage(at, state, stage, n)?;
    }
    let rows = states.iter().map(|state| state.rows).sum::<usize>();
    let kept = k.min(rows).max(1);
    let threads = rayon::current_num_threads();
    let group = n.div_ceil(threads).clamp(1, GROUP);
    let (cascades, numbers) = distinct(stages);
    let is_small = n.saturating_mul(rows) <= MIN_SHARE;
    let is_fanned = !is_small && n.div_ceil(group) < threads;
    let share = rows.div_ceil(threads).max(MIN_SHARE);
    let targets: Vec<Target> = (0..)
        .zip(states.iter().zip(numbers))
        .map(|(number, (state, cascade))| {
            let parts = if is_fanned { state.rows.div_ceil(share).max(1) } else { 1 };
            Target { number, state, kernel, parts, cascade }
        })
        .collect();
    let run = |at: usize| {
        let end = n.min(at + group);
        let queries: Vec<Vec<Query>> = cascades.iter().map(|stage| queries(stage, n, at..end)).collect();
        search_group(&targets, &queries, &probes[at * dim..end * dim], kept, is_fanned)
    };
    let starts = (0..n).step_by(group);
    let lists: Vec<Vec<TopK>> = match is_small {
        true => starts.map(run).collect(),
        false => starts.collect::<Vec<_>>().into_par_iter().map(run).collect(),
    };
    drop(targets);
    drop(guards);
    Found::collect(lists.into_iter().flatten().map(TopK::finish), n, k)
}

/// The cascades that differ, and which of them each index's is: shards of one model share their queries.
fn distinct<'a>(stages: &[Stage<'a>]) -> (Vec<Stage<'a>>, Vec<Option<usize>>) {
    let mut cascades: Vec<Stage> = Vec::new();
    let numbers = stages.iter().map(|stage| {
        let Stage::Cascade { values, bounds, knee } = stage else { return None };
        let is_same = |other: &Stage| match other {
            Stage::Exact => false,
            Stage::Cascade { values: v, bounds: b, knee: k } => {
                std::ptr::eq(*v, *values) && std::ptr::eq(*b, *bounds) && k == knee
            }
        };
        Some(cascades.iter().position(is_same).unwrap_or_else(|| {
            cascades.push(*stage);
            cascades.len() - 1
        }))
    });
    let numbers = numbers.collect();
    (cascades, numbers)
}

/// The queries of some of the n probes of a search.
fn queries(stage: &Stage, n: usize, range: Range<usize>) -> Vec<Query> {
    let Stage::Cascade { values, bounds, knee } = stage else { return Vec::new() };
    let width = values.len() / n;
    let bounds = &bounds.as_chunks::<BOUND_VALUES>().0[range.clone()];
    let values = values[range.start * width..range.end * width].chunks_exact(width);
    values.zip(bounds).map(|(values, bounds)| Query::new(values, bounds, *knee)).collect()
}

/// The best of the probes of one group: all indexes' pilots and exact scans first, so that what they found limits the
/// second pass of each.
fn search_group(targets: &[Target], queries: &[Vec<Query>], probes: &[f32], k: usize, is_fanned: bool) -> Vec<TopK> {
    let n = targets.first().map_or(0, |target| probes.len() / target.state.dim);
    let begin = |target: &Target| {
        let mut best: Vec<TopK> = (0..n).map(|_| TopK::new(k)).collect();
        let pilots = match target.cascade {
            Some(at) => cascade::pilot(target, &queries[at], probes, k, &mut best),
            None => {
                exact::search(target, probes, &mut best);
                Vec::new()
            }
        };
        (best, pilots)
    };
    let begun: Vec<_> = match is_fanned {
        true => targets.par_iter().map(begin).collect(),
        false => targets.iter().map(begin).collect(),
    };
    let mut best: Vec<TopK> = (0..n).map(|_| TopK::new(k)).collect();
    let mut pilots = Vec::new();
    for (part, left) in begun {
        best.iter_mut().zip(part).for_each(|(best, part)| best.merge(part));
        pilots.push(left);
    }
    let finish = |(target, pilots): (&Target, Vec<cascade::Pilot>)| match target.cascade {
        Some(at) => cascade::finish(target, &queries[at], probes, pilots, &best),
        None => Vec::new(),
    };
    let finished: Vec<Vec<Vec<Candidate>>> = match is_fanned {
        true => targets.par_iter().zip(pilots).map(finish).collect(),
        false => targets.iter().zip(pilots).map(finish).collect(),
    };
    for found in finished {
        for (best, found) in best.iter_mut().zip(found) {
            found.into_iter().for_each(|candidate| best.push(candidate));
        }
    }
    best
}

impl Target<'_> {
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
        let message = format!("expected stages for {} indexes, got {}", indexes.len(), stages.len());
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

fn check_stage(at: usize, state: &State, stage: &Stage, n: usize) -> Result<()> {
    let Stage::Cascade { values, bounds, knee } = stage else { return Ok(()) };
    if state.planes == 0 {
        return Err(Error::value(format!("values[{at}]: expected None, index {at} has no code planes")));
    }
    let width = state.planes * PLANE_BYTES * 8;
    if values.len() != n * width {
        let got = values.len();
        return Err(Error::value(format!("values[{at}]: expected ({n}, {width}) float32, got {got} values")));
    }
    if bounds.len() != n * BOUND_VALUES {
        let got = bounds.len();
        return Err(Error::value(format!("bounds[{at}]: expected ({n}, {BOUND_VALUES}) float32, got {got} values")));
    }
    if !(values.iter().chain(*bounds).all(|value| value.is_finite()) && knee.is_finite()) {
        return Err(Error::value(format!("values[{at}] and bounds[{at}]: expected finite values")));
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
