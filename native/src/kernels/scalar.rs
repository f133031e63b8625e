//! The oracle: plain Rust for the baseline instruction set, on which no popcount instruction can be assumed.

use super::{Ops, Pick, Plane, dot, pick, rows};

pub(super) const OPS: Ops =
    Ops { name: "scalar", detect: || true, head, rows: distances, refine, below, dots: dot::baseline };

fn head(probe: &Plane, rows: &[Plane], out: &mut [u8]) {
    for (row, out) in rows.iter().zip(out) {
        *out = rows::one_plane(probe, row);
    }
}

fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| rows::by_words(probe, row));
}

fn refine(probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tails, probe.len(), first, picks, |row| rows::by_words(probe, row));
}

pub(super) fn below(distances: &[u8], limit: u8, base: u32, out: &mut Vec<Pick>) {
    for (&distance, row) in distances.iter().zip(base..) {
        if distance < limit {
            out.push(pick(u32::from(distance), row));
        }
    }
}
