//! NEON: bits of each byte by CNT, one row of 128 bits per register.
//!
//! No machine of the developers runs it: it is compiled for aarch64 (`cargo check --target aarch64-unknown-linux-gnu`),
//! and the kernel tests hold it against the scalar kernel wherever they run on such a processor.

use std::arch::aarch64::*;

use super::{BLOCK_ROWS, Block, HeadTable, Ops, Pick, TailWeights, dot, panels, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "neon",
    detect: || std::arch::is_aarch64_feature_detected!("neon"),
    head,
    rows: distances,
    refine,
    below: scalar::below,
    dots: dot::baseline,
    widen: rows::widen,
    products: panels::baseline,
    bytes: panels::bytes,
};

#[target_feature(enable = "neon")]
fn head(table: &HeadTable, blocks: &[&Block], out: &mut [[u16; BLOCK_ROWS]]) {
    for (block, out) in blocks.iter().zip(out) {
        for (half, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            look_up(table, block, half, out);
        }
    }
}

/// Sixteen rows of a block, eight look-ups in bytes before they are widened.
#[inline]
#[target_feature(enable = "neon")]
fn look_up(table: &HeadTable, block: &Block, half: usize, out: &mut [u16; 16]) {
    let (mut first, mut last) = (vdupq_n_u16(0), vdupq_n_u16(0));
    for (four, tables) in table.0.as_chunks::<8>().0.iter().enumerate() {
        let mut sums = vdupq_n_u8(0);
        for (byte, halves) in tables.as_chunks::<2>().0.iter().enumerate() {
            let bytes = load(&block.0[4 * four + byte].as_chunks::<16>().0[half]);
            sums = vaddq_u8(sums, vqtbl1q_u8(load(&halves[0]), vandq_u8(bytes, vdupq_n_u8(0x0f))));
            sums = vaddq_u8(sums, vqtbl1q_u8(load(&halves[1]), vshrq_n_u8::<4>(bytes)));
        }
        first = vaddw_u8(first, vget_low_u8(sums));
        last = vaddw_high_u8(last, sums);
    }
    let (low, high) = out.split_at_mut(8);
    // SAFETY: both halves of `out` are 16 bytes.
    unsafe {
        vst1q_u16(low.as_mut_ptr(), first);
        vst1q_u16(high.as_mut_ptr(), last);
    }
}

#[target_feature(enable = "neon")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| row_distance(probe, row));
}

#[target_feature(enable = "neon")]
fn refine(tail: &TailWeights, tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tail, tails, first, picks, |weights, row| weight_sum(weights, row));
}

/// Each of 16 bits becomes a byte that lets its weight through or not.
#[inline]
#[target_feature(enable = "neon")]
fn weight_sum(weights: &[i8], row: &[u8]) -> i32 {
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let mut sums = vdupq_n_s32(0);
    for (word, weights) in row.as_chunks::<2>().0.iter().zip(weights.as_chunks::<16>().0) {
        let is_set = vtstq_u8(vcombine_u8(vdup_n_u8(word[0]), vdup_n_u8(word[1])), bit);
        // SAFETY: 16 weights are 16 bytes.
        let weights = unsafe { vld1q_s8(weights.as_ptr()) };
        sums = vpadalq_s16(sums, vpaddlq_s8(vandq_s8(weights, vreinterpretq_s8_u8(is_set))));
    }
    vaddvq_s32(sums)
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
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}
