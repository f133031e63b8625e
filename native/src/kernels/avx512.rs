//! AVX-512 VPOPCNTDQ: one instruction counts the bits of eight words; tables of the scan stay in registers.

use std::arch::x86_64::*;

use super::{BLOCK_ROWS, Block, HeadTable, Ops, PLANE_BYTES, Pick, TailWeights, avx2, dot, panels, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "avx512",
    detect: || {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vpopcntdq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("popcnt")
    },
    head,
    rows: distances,
    refine,
    below,
    dots: dot::avx512,
    widen,
    products: panels::avx512,
    bytes,
};

/// Two bytes of 32 rows fill a register, so half of the tables' registers serve the one and half the other byte. All
/// tables of a probe stay in sixteen registers.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
fn head(table: &HeadTable, blocks: &[&Block], out: &mut [[u16; BLOCK_ROWS]]) {
    let nibble = _mm512_set1_epi8(0x0f);
    let low_bytes = _mm512_set1_epi16(0x00ff);
    let pairs = table.0.as_chunks::<4>().0;
    let mut low_tables = [_mm512_setzero_si512(); PLANE_BYTES / 2];
    let mut high_tables = [_mm512_setzero_si512(); PLANE_BYTES / 2];
    for (at, pair) in pairs.iter().enumerate() {
        low_tables[at] = side_by_side(&pair[0], &pair[2]);
        high_tables[at] = side_by_side(&pair[1], &pair[3]);
    }
    for (block, out) in blocks.iter().zip(out) {
        let mut even = _mm512_setzero_si512();
        let mut odd = _mm512_setzero_si512();
        for four in 0..2 {
            let mut sums = _mm512_setzero_si512();
            for at in 4 * four..4 * four + 4 {
                // SAFETY: two rows of a block are 64 bytes.
                let bytes = unsafe { _mm512_loadu_si512(block.0[2 * at].as_ptr().cast()) };
                let low = _mm512_and_si512(bytes, nibble);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
                sums = _mm512_add_epi8(sums, _mm512_shuffle_epi8(low_tables[at], low));
                sums = _mm512_add_epi8(sums, _mm512_shuffle_epi8(high_tables[at], high));
            }
            even = _mm512_add_epi16(even, _mm512_and_si512(sums, low_bytes));
            odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(sums));
        }
        let fold = |sums| _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
        avx2::store_rows(fold(even), fold(odd), out);
    }
}

/// Each table twice, for the two lanes of its byte.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn side_by_side(first: &[u8; 16], second: &[u8; 16]) -> __m512i {
    // SAFETY: both are 16 bytes.
    let (first, second) = unsafe { (_mm_loadu_si128(first.as_ptr().cast()), _mm_loadu_si128(second.as_ptr().cast())) };
    let first = _mm512_castsi256_si512(_mm256_broadcastsi128_si256(first));
    _mm512_inserti64x4::<1>(first, _mm256_broadcastsi128_si256(second))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq,popcnt")]
fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| row_distance(probe, row));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn refine(tail: &TailWeights, tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tail, tails, first, picks, |weights, row| weight_sum(weights, row));
}

/// Eight bytes of a row are a mask register that turns into ones, which multiply their weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn weight_sum(weights: &[i8], row: &[u8]) -> i32 {
    let ones = _mm512_set1_epi8(1);
    let mut sums = _mm512_setzero_si512();
    for (word, weights) in row.as_chunks::<8>().0.iter().zip(weights.as_chunks::<64>().0) {
        // SAFETY: 64 weights are 64 bytes.
        let weights = unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) };
        let is_set = _mm512_maskz_mov_epi8(u64::from_le_bytes(*word), ones);
        sums = _mm512_dpbusd_epi32(sums, is_set, weights);
    }
    _mm512_reduce_add_epi32(sums)
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

#[target_feature(enable = "avx512f,avx512bw")]
fn below(distances: &[u16], limit: u16, base: u32, out: &mut Vec<Pick>) {
    let limits = _mm512_set1_epi16(limit as i16);
    let (steps, rest) = distances.as_chunks::<32>();
    for (step, base) in steps.iter().zip((base..).step_by(32)) {
        // SAFETY: a step is 64 bytes.
        let words = unsafe { _mm512_loadu_si512(step.as_ptr().cast()) };
        rows::push_mask(_mm512_cmplt_epu16_mask(words, limits), step, base, out);
    }
    scalar::below(rest, limit, base + (distances.len() - rest.len()) as u32, out);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn widen(narrow: &[u16], wide: &mut [f32]) {
    rows::widen(narrow, wide);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(left: &[i8], right: &[i8]) -> i32 {
    panels::bytes(left, right)
}
