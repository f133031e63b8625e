//! Dot products whose bits do not depend on the instruction set.
//!
//! One body, compiled for each instruction set: products are added into `LANES` lanes in the order of the elements, a
//! last partial stretch into the first lanes, and the lanes by halving. No fused multiply-add, which would round
//! differently from one processor to the next. Several probes are taken per row to load the row once; that does not
//! change any probe's own order.

/// Partial sums of one dot product: two 512-bit, four 256-bit or eight 128-bit registers.
pub const LANES: usize = 32;

pub(super) fn baseline(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<1>(probes, rows, dim, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<2>(probes, rows, dim, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn avx512(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<4>(probes, rows, dim, out);
}

/// `out[p * r + row]`, taking P probes at a time.
#[inline(always)]
fn body<const P: usize>(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    let stride = rows.len() / dim;
    let mut done = 0;
    while (done + P) * dim <= probes.len() {
        let group: [&[f32]; P] = std::array::from_fn(|p| &probes[(done + p) * dim..][..dim]);
        for (at, row) in rows.chunks_exact(dim).enumerate() {
            for (p, score) in several(row, group).into_iter().enumerate() {
                out[(done + p) * stride + at] = score;
            }
        }
        done += P;
    }
    for (probe, out) in probes.chunks_exact(dim).zip(out.chunks_mut(stride.max(1))).skip(done) {
        for (row, out) in rows.chunks_exact(dim).zip(out) {
            [*out] = several(row, [probe]);
        }
    }
}

#[inline(always)]
fn several<const P: usize>(row: &[f32], probes: [&[f32]; P]) -> [f32; P] {
    let mut sums = [[0.0_f32; LANES]; P];
    let (steps, rest) = row.as_chunks::<LANES>();
    for (at, x) in steps.iter().enumerate() {
        for (sums, probe) in sums.iter_mut().zip(probes) {
            let y = &probe[at * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
    }
    for (sums, probe) in sums.iter_mut().zip(probes) {
        for (lane, x) in rest.iter().enumerate() {
            sums[lane] += x * probe[row.len() - rest.len() + lane];
        }
    }
    sums.map(by_halving)
}

#[inline(always)]
fn by_halving(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
