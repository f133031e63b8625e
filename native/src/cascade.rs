//! The cascade: a scan of the first plane, all planes of the nearest rows, floats of the nearest of those.
//!
//! How many rows each stage keeps is not fixed. A pilot takes the nearest rows of the first plane and scores the best of
//! them on floats. From then on the k-th best score found decides: the query says how near a row of that score has to
//! be (`Query::head_limit`, `Query::full_limit`), and rows beyond cannot be among the best but for the misses that the
//! asked recall allows. A probe whose mate is there needs a few rows, a stranger's, whose neighbours are all alike, many.
//!
//! Limits and distances are whole numbers, and what is scored before which limit is fixed by them alone, so the candidates
//! are the same whatever the kernel, the blocks or the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::index::State;
use crate::kernels::{BLOCK_ROWS, HIDDEN, HeadTable, Kernel, Pick, fetch, pick_distance, pick_row};
use crate::query::Query;
use crate::search::Target;
use crate::segment::Segment;
use crate::select::{self, Kept, NO_LIMIT, Nearest};
use crate::topk::{Candidate, TopK};

/// Blocks that are scanned for all probes of a group in turn: 32 KiB of codes, which stay in the L1 cache.
const STEP_BLOCKS: usize = 64;
const STEP_ROWS: usize = STEP_BLOCKS * BLOCK_ROWS;

/// The pilot takes one row of so many, within bounds: enough that the mate of most probes is among them and that no
/// second scan is needed (docs/search-model.md).
const PILOT_SHARE: usize = 256;
const PILOT_ROWS: Range<usize> = 512..8192;

/// Of the pilot's rows so many are scored on floats, and no fewer than k.
const PILOT_SCORED: usize = 32;

/// Rows scored on floats between two looks at the limit: first, and at most.
const CHUNK: usize = 16;
const LONGEST_CHUNK: usize = 1024;

/// Work for one core at a time when one probe's rows are split over several.
const SPLIT_ROWS: usize = 64;

/// How many rows ahead floats are asked for: a row of 512 floats is 32 cache lines, and two rows of them hide most of
/// the way to memory (`cargo bench -- batch`, one probe: 1.7 to 1.4 ms).
const RERANK_AHEAD: usize = 2;

/// A sample takes the first step of every `SAMPLE_STRIDE` rows, of ranges of at least `MIN_SAMPLED`.
const SAMPLE_BLOCKS: usize = 8;
const SAMPLE_STRIDE: usize = 64 * SAMPLE_BLOCKS * BLOCK_ROWS;
const MIN_SAMPLED: usize = 1 << 15;

/// What the pilot of one probe leaves to be done in one index.
pub struct Pilot {
    /// Every row nearer than this on the first plane is scored or among `rest`.
    limit: u16,
    /// Rows with their distances on all planes, not scored on floats.
    rest: Vec<Pick>,
}

/// The first pass: scores the most promising rows of one index for each probe.
pub fn pilot(target: &Target, queries: &[Query], probes: &[f32], k: usize, best: &mut [TopK]) -> Vec<Pilot> {
    let keep = (target.state.rows / PILOT_SHARE).clamp(PILOT_ROWS.start, PILOT_ROWS.end).max(2 * k);
    let heads: Vec<&HeadTable> = queries.iter().map(|query| &query.head).collect();
    let kept = scan_nearest(target, &heads, keep);
    let per_probe = kept.into_iter().zip(queries).zip(probes.chunks_exact(target.state.dim)).zip(best);
    per_probe.map(|(((kept, query), probe), best)| begin(target, query, probe, kept, k, best)).collect()
}

fn begin(target: &Target, query: &Query, probe: &[f32], kept: Kept, k: usize, best: &mut TopK) -> Pilot {
    let Kept { limit, mut picks } = kept;
    refine(target, query, &mut picks);
    let scored = PILOT_SCORED.max(k).min(picks.len());
    if scored > 0 && scored < picks.len() {
        picks.select_nth_unstable(scored - 1);
    }
    let rest = picks.split_off(scored);
    for candidate in score(target, probe, &picks) {
        best.push(candidate);
    }
    Pilot { limit, rest }
}

/// The second pass: candidates of one index that the pilot did not score. `best` has the best of the pilots of all indexes.
pub fn finish(
    target: &Target,
    queries: &[Query],
    probes: &[f32],
    pilots: Vec<Pilot>,
    best: &[TopK],
) -> Vec<Vec<Candidate>> {
    let jobs: Vec<Job> =
        queries.iter().zip(pilots).zip(best).map(|((query, pilot), best)| Job::new(query, pilot, best)).collect();
    let more = scan_beyond(target, &jobs);
    let per_probe = jobs.into_iter().zip(more).zip(probes.chunks_exact(target.state.dim));
    per_probe.map(|((job, more), probe)| job.rerank(target, probe, more)).collect()
}

/// What is left to do for one probe in one index.
struct Job<'a> {
    query: &'a Query,
    best: TopK,
    rest: Vec<Pick>,
    /// Distances on the first plane that are to be looked at.
    reach: Range<u16>,
    /// Distances on all planes that are worth a score.
    limit: u32,
}

impl<'a> Job<'a> {
    fn new(query: &'a Query, pilot: Pilot, best: &TopK) -> Self {
        let mut best = best.clone();
        let score = best.floor();
        let far = query.head_limit(score).min(NO_LIMIT);
        Self { query, best, rest: pilot.rest, reach: pilot.limit..far, limit: query.full_limit(score) }
    }

    /// Nearest first, until no row left can be among the best.
    fn rerank(mut self, target: &Target, probe: &[f32], more: Vec<Pick>) -> Vec<Candidate> {
        let mut picks = self.rest;
        picks.retain(|pick| pick_distance(*pick) < self.limit);
        picks.extend(more);
        picks.sort_unstable();
        let (mut found, mut picks, mut chunk) = (Vec::new(), picks.as_slice(), CHUNK);
        loop {
            let limit = self.query.full_limit(self.best.floor());
            let reach = picks.partition_point(|pick| pick_distance(*pick) < limit);
            let (now, later) = picks[..reach].split_at(chunk.min(reach));
            if now.is_empty() {
                return found;
            }
            for candidate in score(target, probe, now) {
                if self.best.wants(candidate.score) {
                    self.best.push(candidate);
                    found.push(candidate);
                }
            }
            (picks, chunk) = (later, (2 * chunk).min(LONGEST_CHUNK));
        }
    }
}

/// The nearest rows of each probe on the first plane.
fn scan_nearest(target: &Target, heads: &[&HeadTable], keep: usize) -> Vec<Kept> {
    if !target.is_split() {
        return nearest(target.state, target.kernel, heads, keep, 0..target.state.rows);
    }
    let run = |range| nearest(target.state, target.kernel, heads, keep, range);
    let parts: Vec<Vec<Kept>> = target.ranges().into_par_iter().map(run).collect();
    let mut by_probe: Vec<Vec<Kept>> = heads.iter().map(|_| Vec::with_capacity(parts.len())).collect();
    for part in parts {
        by_probe.iter_mut().zip(part).for_each(|(all, kept)| all.push(kept));
    }
    by_probe.into_iter().map(|parts| select::join(parts, keep)).collect()
}

/// The same for a range of rows. A guess at how far the nearest reach saves passing over most rows twice; where it was
/// too low, the range is scanned again without it.
fn nearest(state: &State, kernel: Kernel, heads: &[&HeadTable], keep: usize, range: Range<usize>) -> Vec<Kept> {
    let guess = |head: &&HeadTable| Nearest::new(keep, guess_limit(state, kernel, head, keep, range.clone()));
    let mut all: Vec<Nearest> = heads.iter().map(guess).collect();
    let scan = |heads: &[&HeadTable], all: &mut [Nearest]| {
        scan_steps(state, range.clone(), |step| {
            for (nearest, head) in all.iter_mut().zip(heads) {
                step.distances(kernel, head, |distances, base| nearest.take(kernel, distances, base));
            }
        });
    };
    scan(heads, &mut all);
    for (nearest, head) in all.iter_mut().zip(heads) {
        if !nearest.is_complete() {
            *nearest = Nearest::new(keep, NO_LIMIT);
            scan(&[head], std::slice::from_mut(nearest));
        }
    }
    all.into_iter().map(Nearest::finish).collect()
}

/// For each job the rows within its reach that are near enough on all planes, with their distances there.
fn scan_beyond(target: &Target, jobs: &[Job]) -> Vec<Vec<Pick>> {
    if jobs.iter().all(|job| job.reach.is_empty()) {
        return jobs.iter().map(|_| Vec::new()).collect();
    }
    let run = |range| beyond(target.state, target.kernel, jobs, range);
    if !target.is_split() {
        return run(0..target.state.rows);
    }
    let parts: Vec<Vec<Vec<Pick>>> = target.ranges().into_par_iter().map(run).collect();
    let mut all: Vec<Vec<Pick>> = jobs.iter().map(|_| Vec::new()).collect();
    for part in parts {
        all.iter_mut().zip(part).for_each(|(all, picks)| all.extend(picks));
    }
    all
}

fn beyond(state: &State, kernel: Kernel, jobs: &[Job], range: Range<usize>) -> Vec<Vec<Pick>> {
    let mut all: Vec<Vec<Pick>> = jobs.iter().map(|_| Vec::new()).collect();
    let mut picks = Vec::new();
    scan_steps(state, range, |step| {
        for (job, found) in jobs.iter().zip(&mut all).filter(|(job, _)| !job.reach.is_empty()) {
            picks.clear();
            step.distances(kernel, &job.query.head, |distances, base| {
                kernel.below(distances, job.reach.end, base, &mut picks);
            });
            picks.retain(|pick| pick_distance(*pick) >= u32::from(job.reach.start));
            kernel.refine(&job.query.tail, step.segment.codes.tails(), step.segment.first as u32, &mut picks);
            found.extend(picks.iter().filter(|pick| pick_distance(**pick) < job.limit));
        }
    });
    all
}

/// Up to `STEP_ROWS` rows of one segment, given by their numbers there.
struct Step<'a> {
    segment: &'a Segment,
    rows: Range<usize>,
    hidden: &'a [usize],
    buffer: &'a mut [[u16; BLOCK_ROWS]],
}

impl Step<'_> {
    /// Hand over the distances of a probe's first plane, deleted rows hidden, and the number of the first row.
    fn distances(&mut self, kernel: Kernel, head: &HeadTable, take: impl FnOnce(&[u16], u32)) {
        let blocks = self.rows.start / BLOCK_ROWS..self.rows.end.div_ceil(BLOCK_ROWS);
        let buffer = &mut self.buffer[..blocks.len()];
        kernel.head(head, &self.segment.codes.heads()[blocks.clone()], buffer);
        let skipped = self.rows.start - blocks.start * BLOCK_ROWS;
        let distances = &mut buffer.as_flattened_mut()[skipped..][..self.rows.len()];
        self.hidden.iter().for_each(|&row| distances[row] = HIDDEN);
        take(distances, (self.segment.first + self.rows.start) as u32);
    }
}

fn scan_steps(state: &State, range: Range<usize>, mut run: impl FnMut(&mut Step)) {
    // One more: a range need not begin at a block.
    let mut buffer = [[0; BLOCK_ROWS]; STEP_BLOCKS + 1];
    let mut hidden = Vec::new();
    for (segment, rows) in state.pieces(range, STEP_ROWS) {
        hidden.clear();
        hidden.extend(segment.deleted.marked(rows.clone()).map(|row| row - rows.start));
        run(&mut Step { segment, rows, hidden: &hidden, buffer: &mut buffer });
    }
}

/// A distance that the `keep` nearest rows very likely stay below, from a sample of the rows; `NO_LIMIT` where
/// sampling would not pay.
fn guess_limit(state: &State, kernel: Kernel, head: &HeadTable, keep: usize, range: Range<usize>) -> u16 {
    if range.len() < MIN_SAMPLED || keep > range.len() / 4 {
        return NO_LIMIT;
    }
    let mut counts = vec![0_usize; usize::from(NO_LIMIT)];
    let mut buffer = [[0; BLOCK_ROWS]; SAMPLE_BLOCKS];
    let mut sampled = 0;
    for (segment, rows) in state.pieces(range.clone(), SAMPLE_STRIDE) {
        // Whole blocks within the piece, whose rows are all there.
        let blocks = rows.start.div_ceil(BLOCK_ROWS)..rows.end / BLOCK_ROWS;
        let blocks = blocks.start..blocks.end.min(blocks.start + SAMPLE_BLOCKS).max(blocks.start);
        let buffer = &mut buffer[..blocks.len()];
        kernel.head(head, &segment.codes.heads()[blocks], buffer);
        buffer.as_flattened().iter().for_each(|&distance| counts[usize::from(distance)] += 1);
        sampled += buffer.len() * BLOCK_ROWS;
    }
    let expected = keep as f64 * sampled as f64 / range.len() as f64;
    // Four standard deviations above what is expected of independent rows.
    let wanted = (expected + 4.0 * expected.sqrt() + 8.0) as usize;
    let mut found = 0;
    let reach = counts.iter().position(|count| {
        found += count;
        found >= wanted
    });
    reach.map_or(NO_LIMIT, |reach| reach as u16 + 1)
}

/// From distances on the first plane to those on all planes. Picks are in order of rows.
fn refine(target: &Target, query: &Query, mut picks: &mut [Pick]) {
    for segment in &target.state.segments {
        let end = segment.first + segment.rows;
        let here = picks.partition_point(|&pick| (pick_row(pick) as usize) < end);
        let (now, later) = picks.split_at_mut(here);
        target.kernel.refine(&query.tail, segment.codes.tails(), segment.first as u32, now);
        picks = later;
    }
}

/// The picks' scores on floats.
fn score(target: &Target, probe: &[f32], picks: &[Pick]) -> Vec<Candidate> {
    if !target.is_split() || picks.len() <= SPLIT_ROWS {
        return score_span(target, probe, picks);
    }
    picks.par_chunks(SPLIT_ROWS).flat_map_iter(|picks| score_span(target, probe, picks)).collect()
}

fn score_span(target: &Target, probe: &[f32], picks: &[Pick]) -> Vec<Candidate> {
    let mut found = Vec::with_capacity(picks.len());
    for (at, &pick) in picks.iter().enumerate() {
        if let Some(&ahead) = picks.get(at + RERANK_AHEAD) {
            fetch(bytemuck::cast_slice(target.state.row(pick_row(ahead) as usize)));
        }
        let row = pick_row(pick);
        let (number, local) = target.state.locate(row as usize);
        let segment = &target.state.segments[number];
        let mut score = 0.0;
        let floats = segment.floats(local, local + 1);
        target.kernel.dots(probe, floats, target.state.dim, std::slice::from_mut(&mut score));
        found.push(Candidate { score, key: segment.keys.get(local), index: target.number, row });
    }
    found
}
