//! Sums of products of signed bytes, of every row on the left with every row on the right: what an all-pairs join does
//! for each pair. Sums are exact, so all instruction sets give the same.
//!
//! The rows on the right lie in panels of sixteen, four bytes of each side by side, so that one register holds the same
//! four bytes of sixteen rows, and a row on the left is broadcast four bytes at a time. As in matrix multiplication,
//! several rows on the left meet several panels while their sums stay in registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Rows are whole steps of so many times four bytes.
pub const STEP: usize = 16;

/// Four bytes of each of sixteen rows: a register. Their highest bits are flipped, which adds 128: the instruction that
/// multiplies bytes wants those of one side unsigned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Quad([[u8; 4]; PANEL_ROWS]);

const FLIP: u8 = 0x80;

impl Quad {
    /// Of rows of zeros.
    pub const ZERO: Quad = Quad([[FLIP; 4]; PANEL_ROWS]);

    pub fn set(&mut self, row: usize, bytes: [i8; 4]) {
        self.0[row] = bytes.map(|byte| byte as u8 ^ FLIP);
    }

    fn get(&self, row: usize) -> [i8; 4] {
        self.0[row].map(|byte| (byte ^ FLIP) as i8)
    }
}

/// Panels of sixteen rows: quad q of a panel has bytes 4 q to 4 q + 3 of its rows, and has as many quads as its rows have.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    pub quads: &'a [Quad],
    /// Quads of a panel.
    pub width: usize,
}

/// What the sum with each row of a panel has to reach.
pub type Limits = [i32; PANEL_ROWS];

/// A row on the left. total: the sum of its bytes. start: is added to all its sums.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub bytes: &'a [[i8; 4]],
    pub total: i32,
    pub start: i32,
}

/// The number of a row on the left, the row on the right, and their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub left: u32,
    pub right: u32,
    pub sum: i32,
}

/// The sum of products of two rows of bytes; vectorized for whatever it is inlined into.
#[inline(always)]
pub(super) fn bytes(left: &[i8], right: &[i8]) -> i32 {
    left.iter().zip(right).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

pub(super) fn baseline(left: &[Left], panels: Panels, least: &[Limits], out: &mut Vec<Hit>) {
    for ((panel, least), base) in panels.quads.chunks_exact(panels.width).zip(least).zip((0..).step_by(PANEL_ROWS)) {
        for (row, number) in left.iter().zip(0..) {
            let sum = |lane: usize| -> i32 {
                let of_quad = |(bytes, quad): (&[i8; 4], &Quad)| self::bytes(bytes, &quad.get(lane));
                row.start + row.bytes.iter().zip(panel).map(of_quad).sum::<i32>()
            };
            let sums: Limits = std::array::from_fn(sum);
            push(&sums, least, number, base, out);
        }
    }
}

#[inline(always)]
fn push(sums: &Limits, least: &Limits, left: u32, base: u32, out: &mut Vec<Hit>) {
    let reached = (0..PANEL_ROWS).filter(|&lane| sums[lane] >= least[lane]);
    out.extend(reached.map(|lane| Hit { left, right: base + lane as u32, sum: sums[lane] }));
}

/// Rows on the left whose sums with four panels fit into the registers.
#[cfg(target_arch = "x86_64")]
const ROWS_512: usize = 6;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn avx512(left: &[Left], panels: Panels, least: &[Limits], out: &mut Vec<Hit>) {
    let (fours, rest) = least.as_chunks::<4>();
    let mut panel = 0;
    for least in fours {
        meet_512(left, panels, panel, least, out);
        panel += 4;
    }
    for least in rest {
        meet_512(left, panels, panel, std::array::from_ref(least), out);
        panel += 1;
    }
}

/// All rows on the left with P panels from one on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn meet_512<const P: usize>(left: &[Left], panels: Panels, first: usize, least: &[Limits; P], out: &mut Vec<Hit>) {
    let base = (first * PANEL_ROWS) as u32;
    let panels = std::array::from_fn(|p| &panels.quads[(first + p) * panels.width..][..panels.width]);
    // SAFETY: sixteen integers are 64 bytes.
    let least = least.map(|least| unsafe { _mm512_loadu_si512(least.as_ptr().cast()) });
    let (groups, rest) = left.as_chunks::<ROWS_512>();
    let mut number = 0;
    for group in groups {
        tile_512(group, panels, &least, number, base, out);
        number += ROWS_512 as u32;
    }
    for row in rest {
        tile_512(std::array::from_ref(row), panels, &least, number, base, out);
        number += 1;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile_512<const L: usize, const P: usize>(
    left: &[Left; L],
    panels: [&[Quad]; P],
    least: &[__m512i; P],
    number: u32,
    base: u32,
    out: &mut Vec<Hit>,
) {
    let panels: [&[[Quad; STEP]]; P] = panels.map(|panel| panel.as_chunks().0);
    let rows: [&[[[i8; 4]; STEP]]; L] = std::array::from_fn(|l| left[l].bytes.as_chunks().0);
    // What flipping the bits on the right has added to every product is taken off beforehand.
    let mut sums: [[__m512i; P]; L] =
        std::array::from_fn(|l| [_mm512_set1_epi32(left[l].start - i32::from(FLIP) * left[l].total); P]);
    for step in 0..panels[0].len() {
        let panels = panels.map(|panel| &panel[step]);
        let rows = rows.map(|row| &row[step]);
        // Of a fixed length, or else the sums do not stay in registers.
        for quad in 0..STEP {
            // SAFETY: a quad is 64 bytes.
            let rights: [__m512i; P] =
                std::array::from_fn(|p| unsafe { _mm512_load_si512(std::ptr::from_ref(&panels[p][quad]).cast()) });
            for (sums, row) in sums.iter_mut().zip(rows) {
                let value = _mm512_set1_epi32(i32::from_ne_bytes(row[quad].map(|byte| byte as u8)));
                for (sum, right) in sums.iter_mut().zip(rights) {
                    *sum = _mm512_dpbusd_epi32(*sum, right, value);
                }
            }
        }
    }
    for (sums, number) in sums.iter().zip(number..) {
        let masks: [__mmask16; P] = std::array::from_fn(|p| _mm512_cmpge_epi32_mask(sums[p], least[p]));
        if masks.iter().fold(0, |all, mask| all | mask) == 0 {
            continue;
        }
        for (p, mut mask) in masks.into_iter().enumerate() {
            let mut values: Limits = [0; PANEL_ROWS];
            // SAFETY: sixteen integers are 64 bytes.
            unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), sums[p]) };
            while mask != 0 {
                let lane = mask.trailing_zeros();
                let right = base + (p * PANEL_ROWS) as u32 + lane;
                out.push(Hit { left: number, right, sum: values[lane as usize] });
                mask &= mask - 1;
            }
        }
    }
}

/// Rows on the left whose sums with a panel fit into the registers.
#[cfg(target_arch = "x86_64")]
const ROWS_256: usize = 4;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2(left: &[Left], panels: Panels, least: &[Limits], out: &mut Vec<Hit>) {
    let (groups, rest) = left.as_chunks::<ROWS_256>();
    for ((panel, least), base) in panels.quads.chunks_exact(panels.width).zip(least).zip((0..).step_by(PANEL_ROWS)) {
        let mut number = 0;
        for group in groups {
            tile_256(group, panel, least, number, base, out);
            number += ROWS_256 as u32;
        }
        for row in rest {
            tile_256(std::array::from_ref(row), panel, least, number, base, out);
            number += 1;
        }
    }
}

/// The instruction wants one side unsigned and adds pairs in sixteen bits, which 127 * 127 * 2 does not overflow: the right
/// side gives its amounts, and its signs to the left.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn tile_256<const L: usize>(
    left: &[Left; L],
    panel: &[Quad],
    least: &Limits,
    number: u32,
    base: u32,
    out: &mut Vec<Hit>,
) {
    let flip = _mm256_set1_epi8(FLIP as i8);
    let ones = _mm256_set1_epi16(1);
    let rows: [&[[i8; 4]]; L] = std::array::from_fn(|l| &left[l].bytes[..panel.len()]);
    let mut sums: [[__m256i; 2]; L] = std::array::from_fn(|l| [_mm256_set1_epi32(left[l].start); 2]);
    for (at, quad) in panel.iter().enumerate() {
        // SAFETY: each half of a quad is 32 bytes.
        let load = |half: usize| unsafe { _mm256_load_si256(quad.0[8 * half..][..8].as_ptr().cast()) };
        let rights = [0, 1].map(|half| _mm256_xor_si256(load(half), flip));
        let amounts = rights.map(|right| _mm256_abs_epi8(right));
        for (sums, row) in sums.iter_mut().zip(rows) {
            let value = _mm256_set1_epi32(i32::from_ne_bytes(row[at].map(|byte| byte as u8)));
            for half in 0..2 {
                let pairs = _mm256_maddubs_epi16(amounts[half], _mm256_sign_epi8(value, rights[half]));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    for (sums, number) in sums.iter().zip(number..) {
        let mut values: Limits = [0; PANEL_ROWS];
        for (half, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: eight integers are 32 bytes.
            unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), sums[half]) };
        }
        push(&values, least, number, base, out);
    }
}
