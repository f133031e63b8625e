//! The cascade: first plane of all rows, all planes of the nearest, floats of the nearest of those.
//!
//! Each stage keeps exactly the nearest by (distance, row), so the survivors are the same whatever the kernel, the
//! blocks or the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::index::State;
use crate::kernels::{HIDDEN, Kernel, PLANE_BYTES, Pick, Plane, fetch, pick_row};
use crate::search::Target;
use crate::select::{NO_LIMIT, Nearest, keep_nearest};
use crate::topk::{Candidate, TopK};

/// Rows whose first planes are scanned for all probes of a group in turn: 32 KiB, which stay in the L1 cache.
const BLOCK_ROWS: usize = 2048;

/// Bits of one plane: the farthest that two of them can be.
const PLANE_BITS: usize = PLANE_BYTES * 8;

/// Work for one core at a time when one probe's survivors are split over several.
const REFINE_ROWS: usize = 4096;
const RERANK_ROWS: usize = 64;

/// How many rows ahead floats are asked for: a row of 512 floats is 32 cache lines, and two rows of them hide most of
/// the way to memory (`cargo bench -- batch`, one probe: 1.7 to 1.4 ms).
const RERANK_AHEAD: usize = 2;

/// A sample takes `SAMPLE_ROWS` of every `SAMPLE_STRIDE` rows, of ranges of at least `MIN_SAMPLED`.
const SAMPLE_ROWS: usize = 256;
const SAMPLE_STRIDE: usize = 64 * SAMPLE_ROWS;
const MIN_SAMPLED: usize = 1 << 15;

/// How many rows each stage keeps; full <= head.
#[derive(Clone, Copy)]
pub struct Survivors {
    pub head: usize,
    pub full: usize,
}

/// Offer the survivors of one index to the best of each probe.
pub fn search(target: &Target, probes: &[f32], codes: &[u8], keep: Survivors, best: &mut [TopK]) {
    let (planes, dim) = (target.state.planes, target.state.dim);
    let codes: Vec<(&Plane, &[u8])> =
        codes.chunks_exact(planes * PLANE_BYTES).filter_map(<[u8]>::split_first_chunk).collect();
    let heads: Vec<&Plane> = codes.iter().map(|(head, _)| *head).collect();
    let survivors = scan_all(target, &heads, keep.head);
    let per_probe = survivors.into_iter().zip(codes).zip(probes.chunks_exact(dim)).zip(best);
    for (((mut picks, (_, tail)), probe), best) in per_probe {
        refine(target, tail, &mut picks);
        keep_nearest(&mut picks, keep.full, planes * PLANE_BITS);
        rerank(target, probe, &picks, best);
    }
}

/// The `keep` nearest rows of each probe on the first plane, in order of rows.
fn scan_all(target: &Target, heads: &[&Plane], keep: usize) -> Vec<Vec<Pick>> {
    if !target.is_split() {
        return scan(target.state, target.kernel, heads, keep, 0..target.state.rows);
    }
    let run = |range| scan(target.state, target.kernel, heads, keep, range);
    let parts: Vec<Vec<Vec<Pick>>> = target.ranges().into_par_iter().map(run).collect();
    let mut all = vec![Vec::new(); heads.len()];
    for part in parts {
        all.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
    }
    all.iter_mut().for_each(|picks| keep_nearest(picks, keep, PLANE_BITS));
    all
}

/// The same for a range of rows. A guess at how far the survivors reach saves passing over most rows twice; where it
/// was too low, the range is scanned again without it.
fn scan(state: &State, kernel: Kernel, heads: &[&Plane], keep: usize, range: Range<usize>) -> Vec<Vec<Pick>> {
    let keep = keep.min(range.len());
    let guess = |head: &&Plane| Nearest::new(keep, guess_limit(state, kernel, head, keep, range.clone()));
    let mut nearest: Vec<Nearest> = heads.iter().map(guess).collect();
    scan_blocks(state, kernel, heads, range.clone(), &mut nearest);
    for (nearest, head) in nearest.iter_mut().zip(heads) {
        if !nearest.is_complete() {
            *nearest = Nearest::new(keep, NO_LIMIT);
            scan_blocks(state, kernel, &[head], range.clone(), std::slice::from_mut(nearest));
        }
    }
    nearest.into_iter().map(Nearest::finish).collect()
}

fn scan_blocks(state: &State, kernel: Kernel, heads: &[&Plane], range: Range<usize>, nearest: &mut [Nearest]) {
    let mut distances = [0; BLOCK_ROWS];
    let mut hidden = Vec::new();
    for (segment, rows) in state.pieces(range, BLOCK_ROWS) {
        let planes = &segment.codes.heads()[rows.clone()];
        let base = (segment.first + rows.start) as u32;
        let distances = &mut distances[..rows.len()];
        hidden.clear();
        hidden.extend(segment.deleted.marked(rows.clone()).map(|row| row - rows.start));
        for (nearest, head) in nearest.iter_mut().zip(heads) {
            kernel.head(head, planes, distances);
            hidden.iter().for_each(|&row| distances[row] = HIDDEN);
            nearest.take(kernel, distances, base);
        }
    }
}

/// A distance that the `keep` nearest rows very likely stay below, from a sample of the rows; `NO_LIMIT` where
/// sampling would not pay.
fn guess_limit(state: &State, kernel: Kernel, head: &Plane, keep: usize, range: Range<usize>) -> u8 {
    if range.len() < MIN_SAMPLED || keep > range.len() / 4 {
        return NO_LIMIT;
    }
    let mut counts = [0_usize; NO_LIMIT as usize];
    let mut distances = [0; SAMPLE_ROWS];
    let mut sampled = 0;
    for (segment, rows) in state.pieces(range.clone(), SAMPLE_STRIDE) {
        let planes = &segment.codes.heads()[rows.start..rows.end.min(rows.start + SAMPLE_ROWS)];
        let distances = &mut distances[..planes.len()];
        kernel.head(head, planes, distances);
        distances.iter().for_each(|&distance| counts[usize::from(distance)] += 1);
        sampled += planes.len();
    }
    let expected = keep as f64 * sampled as f64 / range.len() as f64;
    // Four standard deviations above what is expected of independent rows.
    let wanted = (expected + 4.0 * expected.sqrt() + 8.0) as usize;
    let mut found = 0;
    let reach = counts.iter().position(|count| {
        found += count;
        found >= wanted
    });
    reach.map_or(NO_LIMIT, |reach| reach as u8 + 1)
}

/// Add the distances on the planes after the first.
fn refine(target: &Target, tail: &[u8], picks: &mut [Pick]) {
    if tail.is_empty() {
        return;
    }
    match target.is_split() {
        true => picks.par_chunks_mut(REFINE_ROWS).for_each(|picks| refine_span(target, tail, picks)),
        false => refine_span(target, tail, picks),
    }
}

fn refine_span(target: &Target, tail: &[u8], mut picks: &mut [Pick]) {
    for segment in &target.state.segments {
        let end = segment.first + segment.rows;
        let here = picks.partition_point(|&pick| (pick_row(pick) as usize) < end);
        let (now, later) = picks.split_at_mut(here);
        if !now.is_empty() {
            target.kernel.refine(tail, segment.codes.tails(), segment.first as u32, now);
        }
        picks = later;
    }
}

/// Score the picks on floats.
fn rerank(target: &Target, probe: &[f32], picks: &[Pick], best: &mut TopK) {
    let mut scores = vec![0.0; picks.len()];
    match target.is_split() {
        true => picks
            .par_chunks(RERANK_ROWS)
            .zip(scores.par_chunks_mut(RERANK_ROWS))
            .for_each(|(picks, scores)| score(target, probe, picks, scores)),
        false => score(target, probe, picks, &mut scores),
    }
    for (&pick, score) in picks.iter().zip(scores) {
        if best.wants(score) {
            let row = pick_row(pick);
            let (at, local) = target.state.locate(row as usize);
            let key = target.state.segments[at].keys.get(local);
            best.push(Candidate { score, key, index: target.number, row });
        }
    }
}

fn score(target: &Target, probe: &[f32], picks: &[Pick], scores: &mut [f32]) {
    let row = |pick: Pick| target.state.row(pick_row(pick) as usize);
    for (at, (&pick, score)) in picks.iter().zip(scores).enumerate() {
        if let Some(&ahead) = picks.get(at + RERANK_AHEAD) {
            fetch(bytemuck::cast_slice(row(ahead)));
        }
        let row = row(pick);
        target.kernel.dots(probe, row, target.state.dim, std::slice::from_mut(score));
    }
}
