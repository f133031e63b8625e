//! NEON: bits of each byte by CNT, one row of 128 bits per register.
//!
//! No machine of the developers runs it: it is compiled for aarch64 (`cargo check --target aarch64-unknown-linux-gnu`),
//! and the kernel tests hold it against the scalar kernel wherever they run on such a processor.

use std::arch::aarch64::*;

use super::{Ops, Pick, Plane, dot, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "neon",
    detect: || std::arch::is_aarch64_feature_detected!("neon"),
    head,
    rows: distances,
    refine,
    below: scalar::below,
    dots: dot::baseline,
};

#[target_feature(enable = "neon")]
fn head(probe: &Plane, rows: &[Plane], out: &mut [u8]) {
    let needle = load(probe);
    for (row, out) in rows.iter().zip(out) {
        // Sixteen counts of at most 8: the sum is at most 128.
        *out = vaddvq_u8(vcntq_u8(veorq_u8(load(row), needle)));
    }
}

#[target_feature(enable = "neon")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| row_distance(probe, row));
}

#[target_feature(enable = "neon")]
fn refine(probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tails, probe.len(), first, picks, |row| row_distance(probe, row));
}

#[inline]
#[target_feature(enable = "neon")]
fn row_distance(probe: &[u8], row: &[u8]) -> u32 {
    let (probe, _) = probe.as_chunks::<16>();
    let (row, _) = row.as_chunks::<16>();
    let mut total = 0;
    for (a, b) in probe.iter().zip(row) {
        total += u32::from(vaddvq_u8(vcntq_u8(veorq_u8(load(a), load(b)))));
    }
    total
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &Plane) -> uint8x16_t {
    // SAFETY: a plane is 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}
