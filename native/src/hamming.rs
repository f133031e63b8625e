//! All distances between probes and codes, for calibration.

use rayon::prelude::*;

use crate::error::{Error, Result, filled};
use crate::kernels::{Kernel, PLANE_BYTES};

/// Bytes of codes that stay in the cache while several probes meet them.
const BLOCK_BYTES: usize = 1 << 18;

/// Distances of n probes to m codes of `width` bytes each: `out[probe * m + code]`.
///
/// `Error::Value` unless `width` is whole planes and at most 65,520 bits; `Error::Memory` if the result does not fit.
pub fn hamming(probes: &[u8], codes: &[u8], width: usize, kernel: Kernel) -> Result<Vec<u16>> {
    if width == 0 || !width.is_multiple_of(PLANE_BYTES) || width * 8 > usize::from(u16::MAX) {
        let most = usize::from(u16::MAX) / 8 / PLANE_BYTES * PLANE_BYTES;
        return Err(Error::value(format!("codes: expected rows of 16, 32, ... {most} bytes, got {width}")));
    }
    let (n, m) = (probes.len() / width, codes.len() / width);
    let len = n.checked_mul(m).ok_or_else(|| Error::Memory(format!("no memory for {n} x {m} distances")))?;
    let mut out = filled(len, 0, "distances")?;
    if len == 0 {
        return Ok(out);
    }
    let step = (BLOCK_BYTES / width).max(1);
    out.par_chunks_mut(m).zip(probes.par_chunks_exact(width)).for_each(|(out, probe)| {
        let blocks = out.par_chunks_mut(step).zip(codes.par_chunks(step * width));
        blocks.for_each(|(out, codes)| kernel.rows(probe, codes, out));
    });
    Ok(out)
}
