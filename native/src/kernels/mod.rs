//! Hamming distances and dot products on the instruction set of this processor.
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
#[cfg(target_arch = "x86_64")]
mod popcnt;
mod rows;
mod scalar;

use std::sync::OnceLock;

use crate::error::{Error, Result};

pub use dot::LANES;
pub use rows::fetch;

/// Bytes of one code plane: 128 bits.
pub const PLANE_BYTES: usize = 16;

/// One plane of one row.
pub type Plane = [u8; PLANE_BYTES];

/// The distance that marks a row which must not be picked; above any distance of one plane.
pub const HIDDEN: u8 = u8::MAX;

/// A row and its distance in one word, so that comparing words compares (distance, row).
pub type Pick = u64;

#[inline(always)]
pub fn pick(distance: u32, row: u32) -> Pick {
    u64::from(distance) << 32 | u64::from(row)
}

#[inline(always)]
pub fn pick_distance(pick: Pick) -> usize {
    (pick >> 32) as usize
}

#[inline(always)]
pub fn pick_row(pick: Pick) -> u32 {
    pick as u32
}

/// What each instruction set provides. Every function needs the features that `detect` looks for, and nothing else.
struct Ops {
    name: &'static str,
    detect: fn() -> bool,
    head: unsafe fn(&Plane, &[Plane], &mut [u8]),
    rows: unsafe fn(&[u8], &[u8], &mut [u16]),
    refine: unsafe fn(&[u8], &[u8], u32, &mut [Pick]),
    below: unsafe fn(&[u8], u8, u32, &mut Vec<Pick>),
    dots: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
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

    /// Distances of one plane to the same plane of many rows: `out[i] = |probe xor rows[i]|`, at most 128.
    pub fn head(&self, probe: &Plane, rows: &[Plane], out: &mut [u8]) {
        assert_eq!(rows.len(), out.len(), "one distance per row");
        // SAFETY: a Kernel exists only where its features were detected; lengths are equal.
        unsafe { (self.0.head)(probe, rows, out) }
    }

    /// Distances of a whole code to `out.len()` codes stored row after row.
    pub fn rows(&self, probe: &[u8], codes: &[u8], out: &mut [u16]) {
        check_width(probe.len());
        assert_eq!(Some(codes.len()), out.len().checked_mul(probe.len()), "one distance per code");
        // SAFETY: a Kernel exists only where its features were detected; the codes fill `out` exactly.
        unsafe { (self.0.rows)(probe, codes, out) }
    }

    /// Add to each pick the distance of `probe` to its row in `tails`, whose first row is number `first`.
    pub fn refine(&self, probe: &[u8], tails: &[u8], first: u32, picks: &mut [Pick]) {
        check_width(probe.len());
        // SAFETY: a Kernel exists only where its features were detected; each row is looked up by a checked slice.
        unsafe { (self.0.refine)(probe, tails, first, picks) }
    }

    /// Append the rows nearer than `limit`, in order; row numbers count from `base`.
    pub fn below(&self, distances: &[u8], limit: u8, base: u32, out: &mut Vec<Pick>) {
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
