//! Exhaustive scan of the floats.
//!
//! Rows are walked in blocks that stay in the cache while all probes of the group meet them.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::search::Target;
use crate::topk::{Candidate, TopK};

/// Bytes of floats in a block: half of a small L2 cache.
const BLOCK_BYTES: usize = 1 << 17;

/// Offer every live row to the best of every probe.
pub fn search(target: &Target, probes: &[f32], best: &mut [TopK]) -> Result<()> {
    if !target.is_split() {
        return scan(target, probes, 0..target.state.held, best);
    }
    let run = |range: Range<usize>| {
        let mut part: Vec<TopK> = best.iter().map(TopK::empty_like).collect();
        scan(target, probes, range, &mut part)?;
        Ok(part)
    };
    let parts: Vec<Vec<TopK>> = target.ranges().into_par_iter().map(run).collect::<Result<_>>()?;
    for part in parts {
        best.iter_mut().zip(part).for_each(|(best, part)| best.merge(part));
    }
    Ok(())
}

/// Offer every row that the filter lets pass, scored one by one.
pub fn follow(target: &Target, probes: &[f32], best: &mut [TopK]) -> Result<()> {
    let dim = target.state.dim;
    let mut scores = vec![0.0; best.len()];
    for row in target.allowed_rows() {
        let Some((segment, local)) = target.state.find(row) else { continue };
        if target.is_visible(segment, local) {
            target.kernel.dots(probes, segment.floats(local, local + 1)?, dim, &mut scores);
            for (best, &score) in best.iter_mut().zip(&scores) {
                best.push(Candidate { score, key: segment.keys.get(local), index: target.number, row: row as u32 });
            }
        }
    }
    Ok(())
}

/// A range of the rows that are there, see `State::pieces`.
fn scan(target: &Target, probes: &[f32], range: Range<usize>, best: &mut [TopK]) -> Result<()> {
    let dim = target.state.dim;
    let step = (BLOCK_BYTES / (dim * size_of::<f32>())).clamp(4, 1024);
    let mut scores = vec![0.0; best.len() * step];
    for (segment, rows) in target.state.pieces(range, step) {
        let scores = &mut scores[..best.len() * rows.len()];
        target.kernel.dots(probes, segment.floats(rows.start, rows.end)?, dim, scores);
        for (best, scores) in best.iter_mut().zip(scores.chunks_exact(rows.len())) {
            for (&score, local) in scores.iter().zip(rows.clone()) {
                if best.wants(score) && target.is_visible(segment, local) {
                    let row = (segment.first + local) as u32;
                    best.push(Candidate { score, key: segment.keys.get(local), index: target.number, row });
                }
            }
        }
    }
    Ok(())
}
