//! One POPCNT instruction per 64-bit word. Baseline x86-64 has none, hence the detection.

use super::{Ops, Pick, Plane, dot, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "popcnt",
    detect: || is_x86_feature_detected!("popcnt"),
    head,
    rows: distances,
    refine,
    below: scalar::below,
    dots: dot::baseline,
};

#[target_feature(enable = "popcnt")]
pub(super) fn head(probe: &Plane, rows: &[Plane], out: &mut [u8]) {
    for (row, out) in rows.iter().zip(out) {
        *out = rows::one_plane(probe, row);
    }
}

#[target_feature(enable = "popcnt")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| rows::by_words(probe, row));
}

#[target_feature(enable = "popcnt")]
fn refine(probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tails, probe.len(), first, picks, |row| rows::by_words(probe, row));
}
