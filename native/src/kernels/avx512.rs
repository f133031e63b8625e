//! AVX-512 VPOPCNTDQ: one instruction counts eight words, four rows of 128 bits.

use std::arch::x86_64::*;

use super::{Ops, Pick, Plane, dot, popcnt, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "avx512",
    detect: || {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vpopcntdq")
            && is_x86_feature_detected!("popcnt")
    },
    head,
    rows: distances,
    refine,
    below,
    dots: dot::avx512,
};

/// Rows per step of `head`: eight registers of four rows.
const STEP: usize = 32;

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq,popcnt")]
fn head(probe: &Plane, rows: &[Plane], out: &mut [u8]) {
    let (steps, rest) = rows.as_chunks::<STEP>();
    let (outs, out_rest) = out.as_chunks_mut::<STEP>();
    // SAFETY: a plane is 16 bytes.
    let needle = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(probe.as_ptr().cast()) });
    for (step, out) in steps.iter().zip(outs) {
        thirty_two(needle, step, out);
    }
    popcnt::head(probe, rest, out_rest);
}

/// Counts of 64-bit words are at most 64, so those of eight registers are packed into the bytes of one; then the two
/// halves of every row are added and the rows put in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
fn thirty_two(needle: __m512i, rows: &[Plane; STEP], out: &mut [u8; STEP]) {
    let mut packed = _mm512_setzero_si512();
    for four in rows.as_chunks::<4>().0.iter().rev() {
        // SAFETY: four planes are 64 bytes.
        let bits = unsafe { _mm512_loadu_si512(four.as_ptr().cast()) };
        let counts = _mm512_popcnt_epi64(_mm512_xor_si512(bits, needle));
        packed = _mm512_or_si512(_mm512_slli_epi64::<8>(packed), counts);
    }
    let both = _mm512_add_epi8(packed, _mm512_shuffle_epi32::<0b01_00_11_10>(packed));
    // Register i holds rows i, 4 + i, 8 + i, ... in its low eight bytes.
    let r0 = _mm512_castsi512_si128(both);
    let r1 = _mm512_extracti32x4_epi32::<1>(both);
    let r2 = _mm512_extracti32x4_epi32::<2>(both);
    let r3 = _mm512_extracti32x4_epi32::<3>(both);
    let (r01, r23) = (_mm_unpacklo_epi8(r0, r1), _mm_unpacklo_epi8(r2, r3));
    let (low, high) = out.split_at_mut(16);
    // SAFETY: `out` is 32 bytes, so both halves are 16.
    unsafe {
        _mm_storeu_si128(low.as_mut_ptr().cast(), _mm_unpacklo_epi16(r01, r23));
        _mm_storeu_si128(high.as_mut_ptr().cast(), _mm_unpackhi_epi16(r01, r23));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq,popcnt")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| row_distance(probe, row));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq,popcnt")]
fn refine(probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tails, probe.len(), first, picks, |row| row_distance(probe, row));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
fn row_distance(probe: &[u8], row: &[u8]) -> u32 {
    let mut sums = _mm512_setzero_si512();
    for (a, b) in probe.chunks(64).zip(row.chunks(64)) {
        let bits = _mm512_xor_si512(load_words(a), load_words(b));
        sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(bits));
    }
    _mm512_reduce_add_epi64(sums) as u32
}

/// Up to eight whole words; the rest of the register is zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_words(bytes: &[u8]) -> __m512i {
    let words = (bytes.len() / 8).min(8);
    let mask = (0xff_u32 >> (8 - words)) as __mmask8;
    // SAFETY: only the words inside `bytes` are read; a masked load does not touch the others.
    unsafe { _mm512_maskz_loadu_epi64(mask, bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn below(distances: &[u8], limit: u8, base: u32, out: &mut Vec<Pick>) {
    let limits = _mm512_set1_epi8(limit as i8);
    let (steps, rest) = distances.as_chunks::<64>();
    for (step, base) in steps.iter().zip((base..).step_by(64)) {
        // SAFETY: a step is 64 bytes.
        let bytes = unsafe { _mm512_loadu_si512(step.as_ptr().cast()) };
        rows::push_mask(_mm512_cmplt_epu8_mask(bytes, limits), step, base, out);
    }
    scalar::below(rest, limit, base + (distances.len() - rest.len()) as u32, out);
}
