//! The cascade: first plane of all rows, all planes of the nearest, floats of the nearest of those.
//!
//! Each stage keeps exactly the nearest by (distance, row), so the survivors are the same whatever the kernel, the
//! blocks or the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::index::State;
use crate::kernels::{HIDDEN, Kernel, PLANE_BYTES, Pick, Plane, pick_row};
use crate::search::Target;
use crate::select::{Nearest, keep_nearest};
use crate::topk::{Candidate, TopK};

/// Rows whose first planes are scanned for all probes of a group in turn: 32 KiB, which stay in the L1 cache.
const BLOCK_ROWS: usize = 2048;

/// Bits of one plane: the farthest that two of them can be.
const PLANE_BITS: usize = PLANE_BYTES * 8;

/// Work for one core at a time when one probe's survivors are split over several.
const REFINE_ROWS: usize = 4096;
const RERANK_ROWS: usize = 64;

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

fn scan(state: &State, kernel: Kernel, heads: &[&Plane], keep: usize, range: Range<usize>) -> Vec<Vec<Pick>> {
    let keep = keep.min(range.len());
    let mut nearest: Vec<Nearest> = heads.iter().map(|_| Nearest::new(keep)).collect();
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
    nearest.into_iter().map(Nearest::finish).collect()
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
    for (&pick, score) in picks.iter().zip(scores) {
        let row = target.state.row(pick_row(pick) as usize);
        target.kernel.dots(probe, row, target.state.dim, std::slice::from_mut(score));
    }
}
