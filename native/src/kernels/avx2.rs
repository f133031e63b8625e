//! AVX2: a byte shuffle looks up half bytes, of 32 rows at once in a block, or their bits for the Hamming distance.
//!
//! Sources: André, Kermarrec and Le Scouarnec, Quicker ADC, 2019 (tables in registers); the shuffle popcount of Muła, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions, 2018.

use std::arch::x86_64::*;

use super::{BLOCK_ROWS, Block, HeadTable, Ops, Pick, TailWeights, dot, panels, rows, scalar};

pub(super) const OPS: Ops = Ops {
    name: "avx2",
    detect: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
    head,
    rows: distances,
    refine,
    below,
    dots: dot::avx2,
    widen,
    products: panels::avx2,
    bytes,
};

/// Blocks of one step of `head`, which share the loads of the tables.
const STEP: usize = 2;

#[target_feature(enable = "avx2")]
fn head(table: &HeadTable, blocks: &[&Block], out: &mut [[u16; BLOCK_ROWS]]) {
    let (steps, rest) = blocks.as_chunks::<STEP>();
    let (outs, out_rest) = out.as_chunks_mut::<STEP>();
    for (blocks, out) in steps.iter().zip(outs) {
        look_up(table, blocks, out);
    }
    for (block, out) in rest.iter().zip(out_rest) {
        look_up(table, std::array::from_ref(block), std::array::from_mut(out));
    }
}

/// One byte of 32 rows is one register, whose halves are looked up by two shuffles. Eight look-ups are added in bytes,
/// then widened: even and odd rows apart, put in order at the end.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up<const N: usize>(table: &HeadTable, blocks: &[&Block; N], out: &mut [[u16; BLOCK_ROWS]; N]) {
    let nibble = _mm256_set1_epi8(0x0f);
    let low_bytes = _mm256_set1_epi16(0x00ff);
    let mut even = [_mm256_setzero_si256(); N];
    let mut odd = [_mm256_setzero_si256(); N];
    for (four, tables) in table.0.as_chunks::<8>().0.iter().enumerate() {
        let mut sums = [_mm256_setzero_si256(); N];
        for (byte, halves) in tables.as_chunks::<2>().0.iter().enumerate() {
            let low_table = _mm256_broadcastsi128_si256(load128(&halves[0]));
            let high_table = _mm256_broadcastsi128_si256(load128(&halves[1]));
            for (sums, block) in sums.iter_mut().zip(blocks) {
                let bytes = load256(&block.0[4 * four + byte]);
                let low = _mm256_and_si256(bytes, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
                *sums = _mm256_add_epi8(*sums, _mm256_shuffle_epi8(low_table, low));
                *sums = _mm256_add_epi8(*sums, _mm256_shuffle_epi8(high_table, high));
            }
        }
        for at in 0..N {
            even[at] = _mm256_add_epi16(even[at], _mm256_and_si256(sums[at], low_bytes));
            odd[at] = _mm256_add_epi16(odd[at], _mm256_srli_epi16::<8>(sums[at]));
        }
    }
    for at in 0..N {
        store_rows(even[at], odd[at], &mut out[at]);
    }
}

/// Even and odd rows' sums in the order of rows.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_rows(even: __m256i, odd: __m256i, out: &mut [u16; BLOCK_ROWS]) {
    let low = _mm256_unpacklo_epi16(even, odd);
    let high = _mm256_unpackhi_epi16(even, odd);
    let (first, last) = out.split_at_mut(BLOCK_ROWS / 2);
    // SAFETY: both halves of `out` are 32 bytes.
    unsafe {
        _mm256_storeu_si256(first.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x20>(low, high));
        _mm256_storeu_si256(last.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x31>(low, high));
    }
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

#[target_feature(enable = "avx2")]
fn refine(tail: &TailWeights, tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tail, tails, first, picks, |weights, row| weight_sum(weights, row));
}

/// Each of 32 bits becomes a byte that lets its weight through or not; pairs are added in 16 bits, of which 128 steps fit.
#[inline]
#[target_feature(enable = "avx2")]
fn weight_sum(weights: &[i8], row: &[u8]) -> i32 {
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let mut sums = _mm256_setzero_si256();
    for (word, weights) in row.as_chunks::<4>().0.iter().zip(weights.as_chunks::<32>().0) {
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*word)), spread);
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        // SAFETY: 32 weights are 32 bytes.
        let weights = unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_and_si256(is_set, weights));
        sums = _mm256_add_epi16(sums, pairs);
    }
    let quads = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    let halves = _mm_add_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256::<1>(quads));
    let two = _mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b01>(two)))
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

#[target_feature(enable = "avx2")]
fn below(distances: &[u16], limit: u16, base: u32, out: &mut Vec<Pick>) {
    let Some(highest) = limit.checked_sub(1) else { return };
    let highest = _mm256_set1_epi16(highest as i16);
    let (steps, rest) = distances.as_chunks::<32>();
    for (step, base) in steps.iter().zip((base..).step_by(32)) {
        let [first, last] = [0, 16].map(|at| load256(bytemuck::cast_slice(&step[at..at + 16])));
        let is_below = |words| _mm256_cmpeq_epi16(_mm256_min_epu16(words, highest), words);
        let packed = _mm256_packs_epi16(is_below(first), is_below(last));
        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        rows::push_mask(_mm256_movemask_epi8(ordered) as u32, step, base, out);
    }
    scalar::below(rest, limit, base + (distances.len() - rest.len()) as u32, out);
}

#[inline]
#[target_feature(enable = "avx2")]
fn load256(bytes: &[u8]) -> __m256i {
    debug_assert_eq!(bytes.len(), 32);
    // SAFETY: all callers pass exactly 32 bytes (chunks of 32, or a row of a block).
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
fn load128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes, and SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn widen(narrow: &[u16], wide: &mut [f32]) {
    rows::widen(narrow, wide);
}

#[target_feature(enable = "avx2")]
fn bytes(left: &[i8], right: &[i8]) -> i32 {
    panels::bytes(left, right)
}
