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
use crate::kernels::Kernel;
use crate::lists::Walk;
use crate::query::{BOUND_VALUES, Query};
use crate::segment::Segment;
use crate::topk::{Candidate, TopK};
use crate::visits::{self, GROUP, Mask, Piece, Visits};

/// Fewer row comparisons than this are not worth waking other cores for.
const MIN_SHARE: usize = 1 << 16;

/// The pilot visits lists with one row of so many, and no fewer than `PILOT_LISTED`; every round after it as many rows
/// again as were visited before.
const PILOT_LISTS: usize = 128;
const PILOT_LISTED: usize = 1 << 12;

/// A filter that lets so few rows pass is followed row by row.
const FEW_ROWS: usize = 1 << 10;

/// How one index is searched.
#[derive(Clone, Copy)]
pub enum Stage<'a> {
    /// All floats are scanned.
    Exact,
    /// Lists, planes and the floats of what is left.
    Cascade(Cascade<'a>),
}

/// What a cascade knows of the probes. For each, `values` has its projections minus thresholds, one for each bit of a code,
/// `lists` its agreement with the centroid of each list, and `bounds` what the model's calibration makes of the asked
/// recall: offset and slope, for lists, the first plane and all planes, of the lowest agreement that a row of some cosine
/// has. Cosines above `knee` count half.
#[derive(Clone, Copy)]
pub struct Cascade<'a> {
    pub values: &'a [f32],
    pub lists: &'a [f32],
    pub bounds: &'a [f32],
    pub knee: f32,
}

/// What is asked of a search.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The most candidates of a probe, at least 1.
    pub k: usize,
    /// Candidates of a lower score are left out; minus infinity leaves out none.
    pub least: f32,
    /// For each index, None or a bit for each row, lowest first: rows whose bit is not set are passed over.
    pub filters: &'a [Option<&'a [u8]>],
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
    filter: Option<&'a [u8]>,
    /// Rows that may be candidates, deleted ones included.
    allowed: usize,
    /// Which of the distinct cascades of the search is its; None scans all floats.
    cascade: Option<usize>,
}

/// The best rows of all indexes for each probe of `dim` floats, by (score descending, key, index, row).
///
/// `Error::Value` if a dimension or the size of an array is wrong, or if an index without codes is given a cascade;
/// `Error::Corrupt` if floats that were needed are not what was sealed.
pub fn search(
    indexes: &[&Index],
    probes: &[f32],
    dim: usize,
    stages: &[Stage],
    wanted: &Wanted,
    kernel: Kernel,
) -> Result<Found> {
    let n = check(indexes, probes, dim, stages, wanted)?;
    let (guards, places) = lock(indexes);
    let states: Vec<&State> = places.iter().map(|&place| &*guards[place]).collect();
    for (at, ((state, stage), filter)) in states.iter().zip(stages).zip(wanted.filters).enumerate() {
        check_stage(at, state, stage, n)?;
        check_filter(at, state, *filter)?;
    }
    let rows = states.iter().map(|state| state.held).sum::<usize>();
    let threads = rayon::current_num_threads();
    let group = n.div_ceil(threads).clamp(1, GROUP);
    let (cascades, numbers) = distinct(stages);
    let is_small = n.saturating_mul(rows) <= MIN_SHARE;
    let is_fanned = !is_small && n.div_ceil(group) < threads;
    let share = rows.div_ceil(threads).max(MIN_SHARE);
    let targets: Vec<Target> = (0..)
        .zip(states.iter().zip(numbers).zip(wanted.filters))
        .map(|(number, ((state, cascade), &filter))| {
            let parts = if is_fanned { state.held.div_ceil(share).max(1) } else { 1 };
            let allowed = filter.map_or(state.held, |bits| bits.iter().map(|byte| byte.count_ones() as usize).sum());
            Target { number, state, kernel, parts, filter, allowed, cascade }
        })
        .collect();
    let listed: Vec<Vec<u32>> = (0..cascades.len()).map(|cascade| list_rows(&targets, cascade)).collect();
    let run = |at: usize| {
        let range = at..n.min(at + group);
        let plans = cascades.iter().zip(&listed);
        let plans: Vec<Plan> = plans.map(|(cascade, rows)| Plan::new(cascade, n, range.clone(), rows)).collect();
        let best = TopK::new(wanted.k.min(rows).max(1), wanted.least);
        search_group(&targets, plans, &probes[range.start * dim..range.end * dim], &best, is_fanned)
    };
    let starts = (0..n).step_by(group);
    let lists: Vec<Vec<TopK>> = match is_small {
        true => starts.map(run).collect::<Result<_>>()?,
        false => starts.collect::<Vec<_>>().into_par_iter().map(run).collect::<Result<_>>()?,
    };
    drop(targets);
    drop(guards);
    Found::collect(lists.into_iter().flatten().map(TopK::finish), n, wanted.k)
}

/// The cascades that differ, and which of them each index's is: shards of one model share their queries.
fn distinct<'a>(stages: &[Stage<'a>]) -> (Vec<Cascade<'a>>, Vec<Option<usize>>) {
    let mut cascades: Vec<Cascade> = Vec::new();
    let numbers = stages.iter().map(|stage| {
        let Stage::Cascade(cascade) = stage else { return None };
        let is_same = |other: &Cascade| {
            let pairs = [(other.values, cascade.values), (other.lists, cascade.lists), (other.bounds, cascade.bounds)];
            pairs.iter().all(|(a, b)| std::ptr::eq(*a, *b)) && other.knee == cascade.knee
        };
        Some(cascades.iter().position(is_same).unwrap_or_else(|| {
            cascades.push(*cascade);
            cascades.len() - 1
        }))
    });
    let numbers = numbers.collect();
    (cascades, numbers)
}

/// Rows of each list in all indexes of one cascade.
fn list_rows(targets: &[Target], cascade: usize) -> Vec<u32> {
    let mut rows: Vec<u32> = Vec::new();
    for target in targets.iter().filter(|target| target.cascade == Some(cascade)) {
        rows.resize(target.state.list_rows.len(), 0);
        rows.iter_mut().zip(&target.state.list_rows).for_each(|(sum, rows)| *sum = sum.saturating_add(*rows));
    }
    rows
}

/// The probes of one group in the indexes of one cascade: their queries, and where their walks through the lists are.
struct Plan<'a> {
    queries: Vec<Query>,
    walks: Vec<Walk>,
    list_rows: &'a [u32],
    /// What the last round visited.
    visits: Visits,
}

impl<'a> Plan<'a> {
    /// For the probes of a range of all n.
    fn new(cascade: &Cascade, n: usize, range: Range<usize>, list_rows: &'a [u32]) -> Self {
        let mut plan =
            Self { queries: Vec::new(), walks: Vec::new(), list_rows, visits: Visits::none(list_rows.len()) };
        let Cascade { values, lists, bounds, knee } = cascade;
        let (width, count) = (values.len() / n, lists.len() / n);
        for at in range {
            let bounds = &bounds.as_chunks::<BOUND_VALUES>().0[at];
            plan.queries.push(Query::new(&values[at * width..][..width], bounds, *knee));
            // Without any row in a list there is nothing to walk through.
            let agreements = if list_rows.iter().any(|rows| *rows > 0) { &lists[at * count..][..count] } else { &[] };
            plan.walks.push(Walk::new(agreements));
        }
        plan
    }

    /// The pilot's visits: all rows without a list, and the most promising lists.
    fn begin(&mut self, floors: &[f32]) {
        let rows: usize = self.list_rows.iter().map(|rows| *rows as usize).sum();
        let first = (rows / PILOT_LISTS).max(PILOT_LISTED);
        self.visits = self.visit(floors, |_| first);
        self.visits.unlisted = Mask::MAX >> (GROUP - self.queries.len());
    }

    /// The visits after those; `floors` are the k-th best scores so far. Returns the visits before.
    fn advance(&mut self, floors: &[f32]) -> Visits {
        let next = self.visit(floors, |walk| walk.visited().max(1));
        std::mem::replace(&mut self.visits, next)
    }

    fn visit(&mut self, floors: &[f32], budget: impl Fn(&Walk) -> usize) -> Visits {
        let mut visits = Visits::none(self.list_rows.len());
        for (probe, (walk, query)) in self.walks.iter_mut().zip(&self.queries).enumerate() {
            let budget = budget(walk);
            walk.next(query.list_limit(floors[probe]), budget, self.list_rows, |list| visits.lists[list] |= 1 << probe);
        }
        visits
    }
}

/// The best of the probes of one group. All indexes take part in each round, so that what one has found limits what is
/// visited in the others.
fn search_group(
    targets: &[Target],
    mut plans: Vec<Plan>,
    probes: &[f32],
    empty: &TopK,
    is_fanned: bool,
) -> Result<Vec<TopK>> {
    let n = targets.first().map_or(0, |target| probes.len() / target.state.dim);
    let mut best: Vec<TopK> = vec![empty.clone(); n];
    let floors: Vec<f32> = best.iter_mut().map(TopK::floor).collect();
    plans.iter_mut().for_each(|plan| plan.begin(&floors));
    let begin = |target: &Target| {
        let mut best: Vec<TopK> = vec![empty.clone(); n];
        let pilots = match target.cascade {
            _ if target.is_followed() => {
                exact::follow(target, probes, &mut best)?;
                None
            }
            Some(at) => Some(cascade::pilot(target, &plans[at].queries, &plans[at].visits, probes, empty, &mut best)?),
            None => {
                exact::search(target, probes, &mut best)?;
                None
            }
        };
        Ok((best, pilots))
    };
    let begun: Vec<_> = match is_fanned {
        true => targets.par_iter().map(begin).collect::<Result<_>>()?,
        false => targets.iter().map(begin).collect::<Result<_>>()?,
    };
    let mut pilots = Vec::new();
    for (part, left) in begun {
        best.iter_mut().zip(part).for_each(|(best, part)| best.merge(part));
        pilots.push(left);
    }
    // The round after the pilot has its leavings to see to, whatever there is to visit.
    for round in 1.. {
        let floors: Vec<f32> = best.iter_mut().map(TopK::floor).collect();
        let before: Vec<Visits> = plans.iter_mut().map(|plan| plan.advance(&floors)).collect();
        if round > 1 && plans.iter().all(|plan| plan.visits.is_empty()) {
            break;
        }
        let run = |(target, pilot): (&Target, &mut Option<Vec<cascade::Pilot>>)| {
            let Some(at) = target.cascade.filter(|_| !target.is_followed()) else { return Ok(Vec::new()) };
            let Plan { queries, visits, .. } = &plans[at];
            match pilot.take() {
                Some(pilot) => cascade::second(target, queries, pilot, &before[at], visits, probes, &best),
                None => cascade::further(target, queries, visits, probes, &best),
            }
        };
        let found: Vec<Vec<Vec<Candidate>>> = match is_fanned {
            true => targets.par_iter().zip(pilots.par_iter_mut()).map(run).collect::<Result<_>>()?,
            false => targets.iter().zip(pilots.iter_mut()).map(run).collect::<Result<_>>()?,
        };
        for (probe, found) in found.into_iter().flat_map(|found| found.into_iter().enumerate()) {
            found.into_iter().for_each(|candidate| best[probe].push(candidate));
        }
    }
    Ok(best)
}

impl<'a> Target<'a> {
    /// The rows that are there in ranges to be run in parallel, in order; see `State::pieces`.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let step = self.state.held.div_ceil(self.parts).max(1);
        (0..self.state.held).step_by(step).map(|from| from..(from + step).min(self.state.held)).collect()
    }

    /// Pieces in parts to be run in parallel, in order.
    pub fn shares(&self, pieces: &[Piece]) -> Vec<Vec<Piece>> {
        visits::shares(pieces, self.parts, MIN_SHARE)
    }

    /// True if this index's work is to be split over cores.
    pub fn is_split(&self) -> bool {
        self.parts > 1
    }

    /// True if a row of a segment, by its number there, may be a candidate.
    #[inline]
    pub fn is_visible(&self, segment: &Segment, row: usize) -> bool {
        !segment.deleted.contains(row) && self.filter.is_none_or(|bits| is_set(bits, segment.first + row))
    }

    /// True if the filter leaves so few rows that they are scored one by one.
    pub fn is_followed(&self) -> bool {
        self.filter.is_some() && self.allowed <= FEW_ROWS
    }

    /// The share of the rows that the filter lets pass.
    pub fn allowed_share(&self) -> f64 {
        self.allowed as f64 / self.state.held.max(1) as f64
    }

    /// Rows that the filter lets pass, ascending; none without a filter.
    pub fn allowed_rows(&self) -> impl Iterator<Item = usize> {
        let bits = self.filter.unwrap_or_default();
        (0..self.state.rows).filter(move |row| is_set(bits, *row))
    }
}

fn is_set(bits: &[u8], row: usize) -> bool {
    bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

/// Read locks on all indexes, and for each index the place of its lock. An index that is given twice is locked once, and
/// locks are taken in one order by all searches: waiting writers would otherwise make a cycle.
pub fn lock<'a>(indexes: &[&'a Index]) -> (Vec<RwLockReadGuard<'a, State>>, Vec<usize>) {
    let address = |index: &Index| std::ptr::from_ref(index).addr();
    let mut distinct: Vec<&'a Index> = indexes.to_vec();
    distinct.sort_by_key(|index| address(index));
    distinct.dedup_by_key(|index| address(index));
    let place = |index: &&Index| distinct.partition_point(|other| address(other) < address(index));
    let places = indexes.iter().map(place).collect();
    (distinct.into_iter().map(Index::read).collect(), places)
}

fn check(indexes: &[&Index], probes: &[f32], dim: usize, stages: &[Stage], wanted: &Wanted) -> Result<usize> {
    if wanted.k == 0 {
        return Err(Error::value("k: expected at least 1, got 0"));
    }
    if dim == 0 || !probes.len().is_multiple_of(dim) {
        return Err(Error::value(format!("probes: expected rows of at least one float, got rows of {dim}")));
    }
    if wanted.least.is_nan() {
        return Err(Error::value("least: expected a score or minus infinity, got NaN"));
    }
    if (stages.len(), wanted.filters.len()) != (indexes.len(), indexes.len()) {
        let (m, s, f) = (indexes.len(), stages.len(), wanted.filters.len());
        return Err(Error::value(format!("expected stages and filters for {m} indexes, got {s} and {f}")));
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
    let Stage::Cascade(Cascade { values, lists, bounds, knee }) = stage else { return Ok(()) };
    if state.layout.planes == 0 {
        return Err(Error::value(format!("values[{at}]: expected None, index {at} has no code planes")));
    }
    let widths = [
        ("values", values.len(), state.layout.bits()),
        ("lists", lists.len(), state.layout.lists),
        ("bounds", bounds.len(), BOUND_VALUES),
    ];
    for (name, got, width) in widths {
        if got != n * width {
            let message = format!("{name}[{at}]: expected ({n}, {width}) float32, got {got} values");
            return Err(Error::value(message));
        }
    }
    let is_finite = |array: &[f32]| array.iter().all(|value| value.is_finite());
    if !(is_finite(values) && is_finite(lists) && is_finite(bounds) && knee.is_finite()) {
        return Err(Error::value(format!("values[{at}], lists[{at}] and bounds[{at}]: expected finite values")));
    }
    Ok(())
}

fn check_filter(at: usize, state: &State, filter: Option<&[u8]>) -> Result<()> {
    match filter {
        // Rows may have been added since it was made; those it does not know are not let through.
        Some(bits) if bits.len() > state.rows.div_ceil(8) => {
            let (most, got) = (state.rows.div_ceil(8), bits.len());
            Err(Error::value(format!("filters[{at}]: expected at most {most} bytes, one bit a row, got {got}")))
        }
        _ => Ok(()),
    }
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
