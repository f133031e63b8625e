//! The cascade: a scan of the first plane, all planes of the nearest rows, floats of the nearest of those.
//!
//! How many rows each stage keeps is not fixed. A pilot takes the nearest rows of the first plane, of the most promising
//! lists, and scores the best of them on floats. From then on the k-th best score found decides: the query says how much
//! the list of a row of that score has to agree (`Query::list_limit`) and how near the row itself has to be
//! (`Query::head_limit`, `Query::full_limit`), and rows beyond cannot be among the best but for the misses that the asked
//! recall allows. A probe whose mate is there needs a few lists and a few rows, a stranger's, whose neighbours are all
//! alike, many. Further lists are visited round by round, so that what one finds spares the next.
//!
//! Limits and distances are whole numbers, and what is scored before which limit is fixed by them alone, so the candidates
//! are the same whatever the kernel, the blocks or the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{BLOCK_ROWS, Block, Kernel, Pick, pick_distance, pick_row};
use crate::query::Query;
use crate::search::Target;
use crate::segment::Segment;
use crate::select::{self, Kept, NO_LIMIT, Nearest, retain_from, settle};
use crate::topk::{Candidate, TopK};
use crate::visits::{Mask, Piece, Visits, probes_of};

/// Blocks that are looked up before their distances are compared: those stay in the L1 cache.
const STEP_BLOCKS: usize = 64;

/// The pilot takes one row of so many that it scans, within bounds: enough that the mate of most probes is among them
/// and that no second scan is needed (docs/search-model.md).
const PILOT_SHARE: usize = 256;
const PILOT_ROWS: Range<usize> = 128..8192;

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

/// A sample takes the first blocks of every `SAMPLE_STRIDE` rows, where there are at least `MIN_SAMPLED`.
const SAMPLE_BLOCKS: usize = 8;
const SAMPLE_STRIDE: usize = 64 * SAMPLE_BLOCKS * BLOCK_ROWS;
const MIN_SAMPLED: usize = 1 << 15;

/// What the pilot of one probe leaves to be done in one index.
pub struct Pilot {
    /// Every row that the pilot scanned and that is nearer than this on the first plane is scored or among `rest`.
    limit: u16,
    /// Positions with their distances on all planes, not scored on floats.
    rest: Vec<Pick>,
}

/// The first pass: scores the most promising rows of one index for each probe.
pub fn pilot(
    target: &Target,
    queries: &[Query],
    visits: &Visits,
    probes: &[f32],
    empty: &TopK,
    best: &mut [TopK],
) -> Result<Vec<Pilot>> {
    let pieces = visits.pieces(target.state);
    // The limits need the k-th best score, unless there is one to begin with.
    let k = if empty.has_least() { 1 } else { empty.k() };
    let kept = scan_nearest(target, queries, &pieces, k);
    let per_probe = kept.into_iter().zip(queries).zip(probes.chunks_exact(target.state.dim)).zip(best);
    per_probe.map(|(((kept, query), probe), best)| begin(target, query, probe, kept, k, best)).collect()
}

fn begin(target: &Target, query: &Query, probe: &[f32], kept: Kept, k: usize, best: &mut TopK) -> Result<Pilot> {
    let Kept { limit, mut picks } = kept;
    refine(target, query, &mut picks);
    let scored = PILOT_SCORED.max(k).min(picks.len());
    if scored > 0 && scored < picks.len() {
        picks.select_nth_unstable(scored - 1);
    }
    let rest = picks.split_off(scored);
    for candidate in score(target, probe, &picks)? {
        best.push(candidate);
    }
    Ok(Pilot { limit, rest })
}

/// The round after the pilot: what the pilot scanned and did not score, and the lists to visit next. `best` has the best
/// of all indexes so far.
pub fn second(
    target: &Target,
    queries: &[Query],
    pilots: Vec<Pilot>,
    scanned: &Visits,
    visits: &Visits,
    probes: &[f32],
    best: &[TopK],
) -> Result<Vec<Vec<Candidate>>> {
    let jobs = pilots.into_iter().zip(queries).zip(best);
    let mut jobs: Vec<Job> =
        jobs.map(|((pilot, query), best)| Job::new(query, pilot.limit, pilot.rest, best)).collect();
    let reaches: Vec<Range<u16>> = jobs.iter().map(|job| job.reach.clone()).collect();
    let is_open = |probe: &usize| !reaches[*probe].is_empty();
    let open = (0..jobs.len()).filter(is_open).fold(0, |mask, probe| mask | 1 << probe);
    scan_beyond(target, &mut jobs, &scanned.pieces_for(target.state, open));
    jobs.iter_mut().for_each(|job| job.reach.start = 0);
    scan_beyond(target, &mut jobs, &visits.pieces(target.state));
    rerank(target, jobs, probes)
}

/// A further round: the lists to visit next.
pub fn further(
    target: &Target,
    queries: &[Query],
    visits: &Visits,
    probes: &[f32],
    best: &[TopK],
) -> Result<Vec<Vec<Candidate>>> {
    let jobs = queries.iter().zip(best);
    let mut jobs: Vec<Job> = jobs.map(|(query, best)| Job::new(query, 0, Vec::new(), best)).collect();
    scan_beyond(target, &mut jobs, &visits.pieces(target.state));
    rerank(target, jobs, probes)
}

fn rerank(target: &Target, jobs: Vec<Job>, probes: &[f32]) -> Result<Vec<Vec<Candidate>>> {
    jobs.into_iter().zip(probes.chunks_exact(target.state.dim)).map(|(job, probe)| job.rerank(target, probe)).collect()
}

/// What is left to do for one probe in one index.
struct Job<'a> {
    query: &'a Query,
    best: TopK,
    picks: Vec<Pick>,
    /// Distances on the first plane that are to be looked at.
    reach: Range<u16>,
    /// Distances on all planes that are worth a score.
    limit: u32,
}

impl<'a> Job<'a> {
    fn new(query: &'a Query, from: u16, mut picks: Vec<Pick>, best: &TopK) -> Self {
        let mut best = best.clone();
        let score = best.floor();
        let far = query.head_limit(score).min(NO_LIMIT);
        let limit = query.full_limit(score);
        picks.retain(|pick| pick_distance(*pick) < limit);
        Self { query, best, picks, reach: from..far, limit }
    }

    /// Nearest first, until no row left can be among the best.
    fn rerank(mut self, target: &Target, probe: &[f32]) -> Result<Vec<Candidate>> {
        self.picks.sort_unstable();
        let (mut found, mut picks, mut chunk) = (Vec::new(), self.picks.as_slice(), CHUNK);
        loop {
            let limit = self.query.full_limit(self.best.floor());
            let reach = picks.partition_point(|pick| pick_distance(*pick) < limit);
            let (now, later) = picks[..reach].split_at(chunk.min(reach));
            if now.is_empty() {
                return Ok(found);
            }
            for candidate in score(target, probe, now)? {
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
fn scan_nearest(target: &Target, queries: &[Query], pieces: &[Piece], k: usize) -> Vec<Kept> {
    let mut scanned = vec![0; queries.len()];
    for piece in pieces {
        probes_of(piece.mask).for_each(|probe| scanned[probe] += piece.positions.len());
    }
    let keeps: Vec<usize> =
        scanned.iter().map(|rows| (rows / PILOT_SHARE).clamp(PILOT_ROWS.start, PILOT_ROWS.end).max(2 * k)).collect();
    let shares = target.shares(pieces);
    if let [all] = shares.as_slice() {
        return nearest(target, queries, &keeps, all);
    }
    let parts: Vec<Vec<Kept>> = shares.par_iter().map(|share| nearest(target, queries, &keeps, share)).collect();
    let mut by_probe: Vec<Vec<Kept>> = queries.iter().map(|_| Vec::with_capacity(parts.len())).collect();
    for part in parts {
        by_probe.iter_mut().zip(part).for_each(|(all, kept)| all.push(kept));
    }
    by_probe.into_iter().zip(keeps).map(|(parts, keep)| select::join(parts, keep)).collect()
}

/// The same for some pieces. A guess at how far the nearest reach saves passing over most rows twice; where it was too
/// low, the pieces are scanned again without it.
fn nearest(target: &Target, queries: &[Query], keeps: &[usize], pieces: &[Piece]) -> Vec<Kept> {
    let guess = |(probe, keep): (usize, &usize)| {
        Nearest::new(*keep, guess_limit(target, &queries[probe], *keep, pieces, 1 << probe))
    };
    let mut all: Vec<Nearest> = keeps.iter().enumerate().map(guess).collect();
    let scan = |wanted: Mask, all: &mut [Nearest]| {
        scan_blocks(target, pieces, wanted, |blocks, probe| {
            blocks.distances(target.kernel, &queries[probe], |distances, step| {
                all[probe].take(target.kernel, distances, |place| step.position(place));
            });
        });
    };
    scan(Mask::MAX, &mut all);
    for (probe, keep) in keeps.iter().enumerate() {
        if !all[probe].is_complete() {
            all[probe] = Nearest::new(*keep, NO_LIMIT);
            scan(1 << probe, &mut all);
        }
    }
    all.into_iter().map(Nearest::finish).collect()
}

/// Give each job the rows of the pieces that are within its reach and near enough on all planes.
fn scan_beyond(target: &Target, jobs: &mut [Job], pieces: &[Piece]) {
    if pieces.is_empty() {
        return;
    }
    let shares = target.shares(pieces);
    let jobs_now = &*jobs;
    let parts: Vec<Vec<Vec<Pick>>> = match shares.as_slice() {
        [all] => vec![beyond(target, jobs_now, all)],
        _ => shares.par_iter().map(|share| beyond(target, jobs_now, share)).collect(),
    };
    for part in parts {
        jobs.iter_mut().zip(part).for_each(|(job, picks)| job.picks.extend(picks));
    }
}

fn beyond(target: &Target, jobs: &[Job], pieces: &[Piece]) -> Vec<Vec<Pick>> {
    let mut all: Vec<Vec<Pick>> = jobs.iter().map(|_| Vec::new()).collect();
    scan_blocks(target, pieces, Mask::MAX, |blocks, probe| {
        let (job, picks) = (&jobs[probe], &mut all[probe]);
        let before = picks.len();
        blocks.distances(target.kernel, job.query, |distances, step| {
            let from = picks.len();
            target.kernel.below(distances, job.reach.end, 0, picks);
            if job.reach.start > 0 {
                retain_from(picks, from, |pick| pick_distance(pick) >= u32::from(job.reach.start));
            }
            settle(picks, from, |place| step.position(place));
        });
        let (tails, first) = (blocks.segment.codes.tails(), blocks.segment.first as u32);
        target.kernel.refine(&job.query.tail, tails, first, &mut picks[before..]);
        retain_from(picks, before, |pick| pick_distance(pick) < job.limit);
    });
    all
}

/// The blocks of one segment that a probe visits.
struct Blocks<'a> {
    target: &'a Target<'a>,
    segment: &'a Segment,
    blocks: Vec<&'a Block>,
    /// For each the number of its first position in the index, and a bit for each row that belongs to a visited piece.
    firsts: Vec<(u32, u32)>,
}

impl<'a> Blocks<'a> {
    /// What a probe visits of some pieces, all of one segment.
    fn fill(&mut self, segment: &'a Segment, pieces: &[Piece], probe: usize) {
        self.segment = segment;
        self.blocks.clear();
        self.firsts.clear();
        for piece in pieces.iter().filter(|piece| piece.mask >> probe & 1 == 1) {
            let Range { start, end } = piece.positions;
            let numbers = start / BLOCK_ROWS..end.div_ceil(BLOCK_ROWS);
            self.blocks.extend(&segment.codes.heads()[numbers.clone()]);
            let from = self.firsts.len();
            self.firsts.extend(numbers.map(|block| ((segment.first + block * BLOCK_ROWS) as u32, u32::MAX)));
            self.firsts[from].1 &= u32::MAX << (start % BLOCK_ROWS);
            if let (Some(last), rest @ 1..) = (self.firsts.last_mut(), end % BLOCK_ROWS) {
                last.1 &= u32::MAX >> (BLOCK_ROWS - rest);
            }
        }
    }

    /// Hand over the distances of the first planes, step by step.
    fn distances(&self, kernel: Kernel, query: &Query, mut take: impl FnMut(&[u16], Step)) {
        let mut buffer = [[0; BLOCK_ROWS]; STEP_BLOCKS];
        for (blocks, firsts) in self.blocks.chunks(STEP_BLOCKS).zip(self.firsts.chunks(STEP_BLOCKS)) {
            let buffer = &mut buffer[..blocks.len()];
            kernel.head(&query.head, blocks, buffer);
            take(buffer.as_flattened(), Step { of: self, firsts });
        }
    }
}

/// What the places of one step stand for.
#[derive(Clone, Copy)]
struct Step<'a> {
    of: &'a Blocks<'a>,
    firsts: &'a [(u32, u32)],
}

impl Step<'_> {
    /// The number of the position at a place; None if the row there is not visited, deleted, or not let pass.
    #[inline(always)]
    fn position(&self, place: usize) -> Option<u32> {
        let ((first, visited), lane) = (self.firsts[place / BLOCK_ROWS], (place % BLOCK_ROWS) as u32);
        let segment = self.of.segment;
        let row = || segment.codes.row((first + lane) as usize - segment.first);
        let is_there = visited >> lane & 1 == 1 && self.of.target.is_visible(segment, row());
        is_there.then_some(first + lane)
    }
}

/// Segment by segment, what each of the wanted probes visits there.
fn scan_blocks(target: &Target, pieces: &[Piece], wanted: Mask, mut run: impl FnMut(&Blocks, usize)) {
    let Some(first) = pieces.first() else { return };
    let segment = &target.state.segments[first.segment];
    let mut blocks = Blocks { target, segment, blocks: Vec::new(), firsts: Vec::new() };
    for pieces in pieces.chunk_by(|a, b| a.segment == b.segment) {
        let segment = &target.state.segments[pieces[0].segment];
        let visiting = pieces.iter().fold(0, |mask, piece| mask | piece.mask) & wanted;
        let mut filled: Option<usize> = None;
        for probe in probes_of(visiting) {
            let differs = |other: usize| pieces.iter().any(|p| (p.mask >> probe ^ p.mask >> other) & 1 == 1);
            if filled.is_none_or(differs) {
                blocks.fill(segment, pieces, probe);
                filled = Some(probe);
            }
            run(&blocks, probe);
        }
    }
}

/// A distance that the `keep` nearest rows very likely stay below, from a sample of the rows that the probe visits;
/// `NO_LIMIT` where sampling would not pay.
fn guess_limit(target: &Target, query: &Query, keep: usize, pieces: &[Piece], probe: Mask) -> u16 {
    let visited = || pieces.iter().filter(|piece| piece.mask & probe != 0);
    let rows: usize = visited().map(|piece| piece.positions.len()).sum();
    if rows < MIN_SAMPLED || keep > rows / 4 {
        return NO_LIMIT;
    }
    let mut counts = vec![0_usize; usize::from(NO_LIMIT)];
    let mut buffer = [[0; BLOCK_ROWS]; SAMPLE_BLOCKS];
    let mut sample: Vec<&Block> = Vec::with_capacity(SAMPLE_BLOCKS);
    let (mut sampled, mut passed, mut next) = (0, 0, 0);
    for piece in visited() {
        // Whole blocks within the piece, whose rows are all there.
        let whole = piece.positions.start.div_ceil(BLOCK_ROWS)..piece.positions.end / BLOCK_ROWS;
        while next < passed + piece.positions.len() {
            let start = whole.start + (next - passed) / BLOCK_ROWS;
            let blocks = start..whole.end.min(start + SAMPLE_BLOCKS).max(start);
            let heads = target.state.segments[piece.segment].codes.heads();
            let buffer = &mut buffer[..blocks.len()];
            sample.clear();
            sample.extend(&heads[blocks]);
            target.kernel.head(&query.head, &sample, buffer);
            buffer.as_flattened().iter().for_each(|&distance| counts[usize::from(distance)] += 1);
            sampled += buffer.len() * BLOCK_ROWS;
            next += SAMPLE_STRIDE;
        }
        passed += piece.positions.len();
    }
    let expected = keep as f64 / target.allowed_share() * sampled as f64 / rows as f64;
    // Four standard deviations above what is expected of independent rows.
    let wanted = (expected + 4.0 * expected.sqrt() + 8.0) as usize;
    let mut found = 0;
    let reach = counts.iter().position(|count| {
        found += count;
        found >= wanted
    });
    reach.map_or(NO_LIMIT, |reach| reach as u16 + 1)
}

/// From distances on the first plane to those on all planes. Picks are in order of positions.
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
fn score(target: &Target, probe: &[f32], picks: &[Pick]) -> Result<Vec<Candidate>> {
    for &pick in picks {
        let (segment, row) = place(target, pick);
        segment.summon(row);
    }
    if !target.is_split() || picks.len() <= SPLIT_ROWS {
        return score_span(target, probe, picks);
    }
    let spans = picks.par_chunks(SPLIT_ROWS).map(|picks| score_span(target, probe, picks));
    Ok(spans.collect::<Result<Vec<_>>>()?.concat())
}

/// The segment that a picked row is in, and its number there.
fn place<'a>(target: &Target<'a>, pick: Pick) -> (&'a Segment, usize) {
    let (number, position) = target.state.locate(pick_row(pick) as usize);
    let segment = &target.state.segments[number];
    (segment, segment.codes.row(position))
}

fn score_span(target: &Target, probe: &[f32], picks: &[Pick]) -> Result<Vec<Candidate>> {
    let mut found = Vec::with_capacity(picks.len());
    for (at, &pick) in picks.iter().enumerate() {
        if let Some(&ahead) = picks.get(at + RERANK_AHEAD) {
            let (segment, row) = place(target, ahead);
            segment.fetch(row);
        }
        let (segment, row) = place(target, pick);
        let mut score = 0.0;
        target.kernel.dots(probe, segment.floats(row, row + 1)?, target.state.dim, std::slice::from_mut(&mut score));
        let key = segment.keys.get(row);
        found.push(Candidate { score, key, index: target.number, row: (segment.first + row) as u32 });
    }
    Ok(found)
}
