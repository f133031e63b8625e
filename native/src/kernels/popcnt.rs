//! One POPCNT instruction per 64-bit word. Baseline x86-64 has none, hence the detection.

use super::{Ops, dot, panels, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "popcnt",
    detect: || is_x86_feature_detected!("popcnt"),
    head: scalar::head,
    rows: distances,
    refine: scalar::refine,
    below: scalar::below,
    dots: dot::baseline,
    widen: rows::widen,
    products: panels::baseline,
    bytes: panels::bytes,
};

#[target_feature(enable = "popcnt")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| rows::by_words(probe, row));
}
