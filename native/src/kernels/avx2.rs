//! AVX2: bits of each nibble by a byte shuffle, two rows of 128 bits per register.
//!
//! Source: the shuffle popcount of Muła, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions, 2018.

use std::arch::x86_64::*;

use super::{Ops, Pick, Plane, dot, popcnt, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "avx2",
    detect: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
    head,
    rows: distances,
    refine,
    below,
    dots: dot::avx2,
};

/// Rows per step of `head`: eight registers of two rows.
const STEP: usize = 16;

#[target_feature(enable = "avx2,popcnt")]
fn head(probe: &Plane, rows: &[Plane], out: &mut [u8]) {
    let (steps, rest) = rows.as_chunks::<STEP>();
    let (outs, out_rest) = out.as_chunks_mut::<STEP>();
    let needle = _mm256_broadcastsi128_si256(load128(probe));
    for (step, out) in steps.iter().zip(outs) {
        sixteen(needle, step, out);
    }
    popcnt::head(probe, rest, out_rest);
}

/// Each register yields four 64-bit sums, at most 64 each; eight registers' sums are packed into the bytes of one, then
/// the two halves of every row are added and the rows put in order.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen(needle: __m256i, rows: &[Plane; STEP], out: &mut [u8; STEP]) {
    let mut packed = _mm256_setzero_si256();
    for pair in rows.as_chunks::<2>().0.iter().rev() {
        let sums = popcount64(_mm256_xor_si256(load256(pair.as_flattened()), needle));
        packed = _mm256_or_si256(_mm256_slli_epi64::<8>(packed), sums);
    }
    let both = _mm256_add_epi8(packed, _mm256_shuffle_epi32::<0b01_00_11_10>(packed));
    let ordered = _mm_unpacklo_epi8(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
    // SAFETY: `out` is 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), ordered) }
}

/// Bits set in each 64-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
fn popcount64(bits: __m256i) -> __m256i {
    let table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let nibble = _mm256_set1_epi8(0x0f);
    let low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
    let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(bits), nibble));
    _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256())
}

#[target_feature(enable = "avx2,popcnt")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| row_distance(probe, row));
}

#[target_feature(enable = "avx2,popcnt")]
fn refine(probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tails, probe.len(), first, picks, |row| row_distance(probe, row));
}

#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn row_distance(probe: &[u8], row: &[u8]) -> u32 {
    let (probe_pairs, probe_rest) = probe.as_chunks::<32>();
    let (row_pairs, row_rest) = row.as_chunks::<32>();
    let mut sums = _mm256_setzero_si256();
    for (a, b) in probe_pairs.iter().zip(row_pairs) {
        sums = _mm256_add_epi64(sums, popcount64(_mm256_xor_si256(load256(a), load256(b))));
    }
    let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let total = _mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves));
    _mm_cvtsi128_si32(total) as u32 + rows::by_words(probe_rest, row_rest)
}

#[target_feature(enable = "avx2,popcnt")]
fn below(distances: &[u8], limit: u8, base: u32, out: &mut Vec<Pick>) {
    let Some(highest) = limit.checked_sub(1) else { return };
    let highest = _mm256_set1_epi8(highest as i8);
    let (steps, rest) = distances.as_chunks::<32>();
    for (step, base) in steps.iter().zip((base..).step_by(32)) {
        let bytes = load256(step);
        let is_below = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, highest), bytes);
        rows::push_mask(u64::from(_mm256_movemask_epi8(is_below) as u32), step, base, out);
    }
    scalar::below(rest, limit, base + (distances.len() - rest.len()) as u32, out);
}

#[inline]
#[target_feature(enable = "avx2")]
fn load256(bytes: &[u8]) -> __m256i {
    debug_assert_eq!(bytes.len(), 32);
    // SAFETY: all callers pass exactly 32 bytes (chunks of 32, or two planes).
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
fn load128(bytes: &Plane) -> __m128i {
    // SAFETY: a plane is 16 bytes, and SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
