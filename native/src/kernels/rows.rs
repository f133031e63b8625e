//! The loops that all instruction sets share, inlined into each with its own row distance.

use super::{Pick, TailWeights, pick, pick_distance, pick_row};

/// How many picks ahead a row is asked for; hides a trip to memory behind about 16 short rows
/// (`cargo bench -- refine`).
const AHEAD: usize = 16;

#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// `out[i] = distance(row i)` over rows of `width` bytes.
#[inline(always)]
pub(super) fn each(codes: &[u8], width: usize, out: &mut [u16], distance: impl Fn(&[u8]) -> u32) {
    for (row, out) in codes.chunks_exact(width).zip(out) {
        *out = distance(row) as u16;
    }
}

/// From the distance of its first plane to that of its whole code, for every pick, fetching rows ahead of their use.
/// `sum` adds up the weights of the bits of a row.
#[inline(always)]
pub(super) fn refine(
    tail: &TailWeights,
    tails: &[u8],
    first: u32,
    picks: &mut [Pick],
    sum: impl Fn(&[i8], &[u8]) -> i32,
) {
    let width = tail.width();
    for at in 0..picks.len() {
        if let Some(&ahead) = picks.get(at + AHEAD) {
            let start = (pick_row(ahead) - first) as usize * width;
            fetch(&tails[start..start + width]);
        }
        let row = pick_row(picks[at]);
        let start = (row - first) as usize * width;
        let sum = sum(&tail.weights, &tails[start..start + width]);
        picks[at] = pick(tail.whole(pick_distance(picks[at]), sum), row);
    }
}

/// Ask for every cache line of a row.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn fetch(row: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in row.chunks(CACHE_LINE) {
        // SAFETY: the address is one of `row`, a prefetch is a hint, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    if let Some(last) = row.last() {
        // SAFETY: as above; a row that starts inside a line reaches into one more.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(last).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn fetch(_row: &[u8]) {}

/// Distance by 64-bit words; what `count_ones` compiles to depends on the function it is inlined into.
#[inline(always)]
pub(super) fn by_words(probe: &[u8], row: &[u8]) -> u32 {
    let (probe, _) = probe.as_chunks::<8>();
    let (row, _) = row.as_chunks::<8>();
    probe.iter().zip(row).map(|(a, b)| (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).count_ones()).sum()
}

/// Append the lanes set in `mask`, lowest first, of distances that start at row `base`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn push_mask(mut mask: u32, distances: &[u16], base: u32, out: &mut Vec<Pick>) {
    while mask != 0 {
        let lane = mask.trailing_zeros();
        out.push(pick(u32::from(distances[lane as usize]), base + lane));
        mask &= mask - 1;
    }
}

/// bfloat16 is the upper half of a float32; vectorized for whatever it is inlined into.
#[inline(always)]
pub(super) fn widen(narrow: &[u16], wide: &mut [f32]) {
    for (narrow, wide) in narrow.iter().zip(wide) {
        *wide = f32::from_bits(u32::from(*narrow) << 16);
    }
}
