//! Weighted and Hamming distances and dot products on the instruction set of this processor.
//!
//! One file per instruction set; dispatch happens here and nowhere else. A `Kernel` can only be had for instructions
//! that were detected, and its methods check every length before a pointer exists, so they are safe to call. All kernels
//! give the same bits; `scalar` is the oracle of the tests.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
#[cfg(target_arch = "x86_64")]
mod popcnt;
mod rows;
mod scalar;

use std::sync::OnceLock;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};

pub use dot::LANES;
pub use panels::{Hit, Left, Limits, PANEL_ROWS, Panels, Quad};
pub use rows::fetch;

/// Bytes of one code plane: 128 bits.
pub const PLANE_BYTES: usize = 16;

/// Rows of one block.
pub const BLOCK_ROWS: usize = 32;

/// The first plane of 32 rows, byte by byte: `block.0[b][row]`. One vector load takes the same byte of all of them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Block(pub [[u8; BLOCK_ROWS]; PLANE_BYTES]);

impl Block {
    pub const ZERO: Block = Block([[0; BLOCK_ROWS]; PLANE_BYTES]);
}

/// What each value of each half byte of a first plane costs: `table.0[2 * b]` for the low half of byte b, `[2 * b + 1]`
/// for the high half. No entry exceeds `MAX_ENTRY`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct HeadTable(pub [[u8; 16]; 2 * PLANE_BYTES]);

/// Eight entries add up within a byte, which is how far the kernels count in bytes.
pub const MAX_ENTRY: u8 = 31;

/// The farthest that a first plane can be.
pub const MAX_HEAD: u16 = MAX_ENTRY as u16 * 2 * PLANE_BYTES as u16;

/// The distance that marks a row which must not be picked.
pub const HIDDEN: u16 = u16::MAX;

/// What each bit of the planes after the first adds to the distance of a row.
///
/// A bit that is set adds its weight, which is negative where the probe's own bit is set; `base` is what a row without
/// any bit has. Weights lie in the order of a little-endian word's bits: those of byte b are at 8 b, lowest bit first.
#[derive(Clone)]
pub struct TailWeights {
    pub weights: Vec<i8>,
    pub base: i32,
    /// What one unit of a first plane's distance is, in units of the whole distance.
    pub head_unit: u32,
}

/// What one unit of a weight is, in units of the whole distance.
pub const TAIL_UNIT: u32 = 256;

impl TailWeights {
    /// Bytes of a row.
    pub fn width(&self) -> usize {
        self.weights.len() / 8
    }

    /// The whole distance from that of the first plane and the sum of the weights of the bits that are set.
    #[inline(always)]
    fn whole(&self, head: u32, sum: i32) -> u32 {
        head * self.head_unit + (self.base + sum).max(0) as u32 * TAIL_UNIT
    }
}

/// A row and its distance in one word, so that comparing words compares (distance, row).
pub type Pick = u64;

#[inline(always)]
pub fn pick(distance: u32, row: u32) -> Pick {
    u64::from(distance) << 32 | u64::from(row)
}

#[inline(always)]
pub fn pick_distance(pick: Pick) -> u32 {
    (pick >> 32) as u32
}

#[inline(always)]
pub fn pick_row(pick: Pick) -> u32 {
    pick as u32
}

/// What each instruction set provides. Every function needs the features that `detect` looks for, and nothing else.
struct Ops {
    name: &'static str,
    detect: fn() -> bool,
    head: unsafe fn(&HeadTable, &[&Block], &mut [[u16; BLOCK_ROWS]]),
    rows: unsafe fn(&[u8], &[u8], &mut [u16]),
    refine: unsafe fn(&TailWeights, &[u8], u32, &mut [Pick]),
    below: unsafe fn(&[u16], u16, u32, &mut Vec<Pick>),
    dots: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
    widen: unsafe fn(&[u16], &mut [f32]),
    products: unsafe fn(&[Left], Panels, &[Limits], &mut Vec<Hit>),
    bytes: unsafe fn(&[i8], &[i8]) -> i32,
}

/// Fastest first.
static ALL: &[Ops] = &[
    #[cfg(target_arch = "x86_64")]
    avx512::OPS,
    #[cfg(target_arch = "x86_64")]
    avx2::OPS,
    #[cfg(target_arch = "x86_64")]
    popcnt::OPS,
    #[cfg(target_arch = "aarch64")]
    neon::OPS,
    scalar::OPS,
];

static IN_USE: OnceLock<Kernel> = OnceLock::new();

/// A kernel that this processor can run.
#[derive(Clone, Copy)]
pub struct Kernel(&'static Ops);

impl Kernel {
    /// The kernels that this processor can run, fastest first; "scalar" is always the last.
    pub fn available() -> Vec<Kernel> {
        ALL.iter().filter(|ops| (ops.detect)()).map(Kernel).collect()
    }

    /// The kernel in use: the one chosen by `choose`, else the fastest from the first call on.
    pub fn in_use() -> Kernel {
        *IN_USE.get_or_init(|| Self::available().first().copied().unwrap_or(Kernel(&ALL[ALL.len() - 1])))
    }

    /// Choose the process's kernel; `Error::Value` if another is in use already.
    pub fn choose(name: &str) -> Result<()> {
        let wanted = Self::named(name)?;
        let current = *IN_USE.get_or_init(|| wanted);
        if current.name() == wanted.name() {
            return Ok(());
        }
        Err(Error::value(format!("kernel {name:?} was asked for, but {:?} is in use in this process", current.name())))
    }

    /// The kernel of that name; `Error::Value` if there is none or this processor lacks its instructions.
    pub fn named(name: &str) -> Result<Kernel> {
        let known = ["avx512", "avx2", "popcnt", "neon", "scalar"];
        let here = Self::available();
        if let Some(kernel) = here.iter().find(|kernel| kernel.name() == name) {
            return Ok(*kernel);
        }
        let names: Vec<_> = here.iter().map(Kernel::name).collect();
        let why = if known.contains(&name) { "this processor cannot run it" } else { "no kernel has that name" };
        Err(Error::value(format!("kernel: expected one of {names:?}, got {name:?} ({why})")))
    }

    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Distances of the first planes of whole blocks, wherever they are, by table.
    pub fn head(&self, table: &HeadTable, blocks: &[&Block], out: &mut [[u16; BLOCK_ROWS]]) {
        assert_eq!(blocks.len(), out.len(), "one distance per row");
        debug_assert!(table.0.as_flattened().iter().all(|entry| *entry <= MAX_ENTRY));
        // SAFETY: a Kernel exists only where its features were detected; lengths are equal.
        unsafe { (self.0.head)(table, blocks, out) }
    }

    /// Distances of a whole code to `out.len()` codes stored row after row.
    pub fn rows(&self, probe: &[u8], codes: &[u8], out: &mut [u16]) {
        check_width(probe.len());
        assert_eq!(Some(codes.len()), out.len().checked_mul(probe.len()), "one distance per code");
        // SAFETY: a Kernel exists only where its features were detected; the codes fill `out` exactly.
        unsafe { (self.0.rows)(probe, codes, out) }
    }

    /// From the distance of its first plane to that of its whole code, for every pick; `tails` are the other planes of the
    /// rows from number `first` on.
    pub fn refine(&self, tail: &TailWeights, tails: &[u8], first: u32, picks: &mut [Pick]) {
        assert!(tail.weights.len().is_multiple_of(PLANE_BYTES * 8), "whole planes");
        // SAFETY: a Kernel exists only where its features were detected; each row is looked up by a checked slice.
        unsafe { (self.0.refine)(tail, tails, first, picks) }
    }

    /// Append the rows nearer than `limit`, in order; row numbers count from `base`.
    pub fn below(&self, distances: &[u16], limit: u16, base: u32, out: &mut Vec<Pick>) {
        // SAFETY: a Kernel exists only where its features were detected.
        unsafe { (self.0.below)(distances, limit, base, out) }
    }

    /// Dot products of p probes and r rows of `dim` floats each: `out[p * r + row]`. The order of the additions is
    /// fixed (see `dot.rs`), so every kernel gives the same bits, whatever the number of rows and probes.
    pub fn dots(&self, probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
        assert!(dim > 0 && probes.len().is_multiple_of(dim) && rows.len().is_multiple_of(dim), "whole rows");
        assert_eq!(out.len(), (probes.len() / dim) * (rows.len() / dim), "one score per probe and row");
        // SAFETY: a Kernel exists only where its features were detected.
        unsafe { (self.0.dots)(probes, rows, dim, out) }
    }

    /// Append the pairs of a row on the left and one on the right whose sum of products is at least what the right row
    /// asks for, in no order. Bytes are from -127 to 127.
    pub fn products(&self, left: &[Left], panels: Panels, least: &[Limits], out: &mut Vec<Hit>) {
        assert!(panels.width > 0 && panels.width.is_multiple_of(panels::STEP), "whole steps");
        assert!(panels.quads.len() == least.len() * panels.width, "one limit per row");
        assert!(left.iter().all(|row| row.bytes.len() == panels.width), "rows of one width");
        // SAFETY: a Kernel exists only where its features were detected.
        unsafe { (self.0.products)(left, panels, least, out) }
    }

    /// The sum of products of two rows of bytes.
    pub fn bytes(&self, left: &[i8], right: &[i8]) -> i32 {
        assert_eq!(left.len(), right.len(), "rows of one width");
        // SAFETY: a Kernel exists only where its features were detected.
        unsafe { (self.0.bytes)(left, right) }
    }

    /// bfloat16 to float32.
    pub fn widen(&self, narrow: &[u16], wide: &mut [f32]) {
        assert_eq!(narrow.len(), wide.len(), "one float for each");
        // SAFETY: a Kernel exists only where its features were detected.
        unsafe { (self.0.widen)(narrow, wide) }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn check_width(width: usize) {
    assert!(width > 0 && width.is_multiple_of(PLANE_BYTES), "a code is whole planes, not {width} bytes");
}

#[cfg(test)]
mod tests;
