//! The loops that all instruction sets share, inlined into each with its own row distance.

use super::{HEAD_UNIT, Pick, pick, pick_distance, pick_row};

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

/// From the distance of its first plane to that of its whole code, for every pick: `HEAD_UNIT` times the one, and what
/// `table` says of each byte of the row in `tails`, whose first row is number `first`.
pub fn refine(table: &[[u16; 256]], tails: &[u8], first: u32, picks: &mut [Pick]) {
    let width = table.len();
    for at in 0..picks.len() {
        if let Some(&ahead) = picks.get(at + AHEAD) {
            let start = (pick_row(ahead) - first) as usize * width;
            fetch(&tails[start..start + width]);
        }
        let row = pick_row(picks[at]);
        let start = (row - first) as usize * width;
        let rest: u32 = tails[start..start + width].iter().zip(table).map(|(b, t)| u32::from(t[usize::from(*b)])).sum();
        picks[at] = pick(pick_distance(picks[at]) * HEAD_UNIT + rest, row);
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
