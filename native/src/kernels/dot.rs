//! Dot products whose bits do not depend on the instruction set.
//!
//! One body for all: products are added into `LANES` lanes in the order of the elements, a last partial stretch into
//! the first lanes, and the lanes by halving. No fused multiply-add, which would round differently from one processor
//! to the next. Several probes are taken per row to load the row once; that does not change any probe's own order.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Partial sums of one dot product: two 512-bit, four 256-bit or eight 128-bit registers.
pub const LANES: usize = 32;

pub(super) fn baseline(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<[f32; 4], 1, 8>(probes, rows, dim, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<__m256, 2, 4>(probes, rows, dim, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn avx512(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    body::<__m512, 4, 2>(probes, rows, dim, out);
}

/// A register of floats. Its methods may only run where its instructions exist, hence the private trait: the wrappers
/// above are its only users, and it is inlined into them.
trait Register: Copy {
    fn zero() -> Self;
    /// The `number`-th register's worth of a stretch.
    fn load(stretch: &[f32; LANES], number: usize) -> Self;
    /// `self + a * b`, rounded twice.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn store(self, stretch: &mut [f32; LANES], number: usize);
}

impl Register for [f32; 4] {
    #[inline(always)]
    fn zero() -> Self {
        [0.0; 4]
    }

    #[inline(always)]
    fn load(stretch: &[f32; LANES], number: usize) -> Self {
        stretch.as_chunks::<4>().0[number]
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + a[lane] * b[lane])
    }

    #[inline(always)]
    fn store(self, stretch: &mut [f32; LANES], number: usize) {
        stretch.as_chunks_mut::<4>().0[number] = self;
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! register {
    ($register:ty, $floats:literal, $zero:ident, $load:ident, $add:ident, $mul:ident, $store:ident) => {
        impl Register for $register {
            #[inline(always)]
            fn zero() -> Self {
                // SAFETY: only used where the instructions exist (see the trait).
                unsafe { $zero() }
            }

            #[inline(always)]
            fn load(stretch: &[f32; LANES], number: usize) -> Self {
                // SAFETY: as above; the chunk is as long as the register.
                unsafe { $load(stretch.as_chunks::<$floats>().0[number].as_ptr()) }
            }

            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add(self, $mul(a, b)) }
            }

            #[inline(always)]
            fn store(self, stretch: &mut [f32; LANES], number: usize) {
                // SAFETY: as above; the chunk is as long as the register.
                unsafe { $store(stretch.as_chunks_mut::<$floats>().0[number].as_mut_ptr(), self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
register!(__m256, 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_add_ps, _mm256_mul_ps, _mm256_storeu_ps);
#[cfg(target_arch = "x86_64")]
register!(__m512, 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_add_ps, _mm512_mul_ps, _mm512_storeu_ps);

/// `out[p * rows + row]`, taking P probes at a time, with R registers for the lanes of each.
#[inline(always)]
fn body<V: Register, const P: usize, const R: usize>(probes: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    let stride = rows.len() / dim;
    let mut done = 0;
    while (done + P) * dim <= probes.len() {
        let group: [&[f32]; P] = std::array::from_fn(|p| &probes[(done + p) * dim..][..dim]);
        for (at, row) in rows.chunks_exact(dim).enumerate() {
            let scores = several::<V, P, R>(row, group);
            for (p, score) in scores.into_iter().enumerate() {
                out[(done + p) * stride + at] = score;
            }
        }
        done += P;
    }
    for (probe, out) in probes.chunks_exact(dim).zip(out.chunks_mut(stride.max(1))).skip(done) {
        for (row, out) in rows.chunks_exact(dim).zip(out) {
            [*out] = several::<V, 1, R>(row, [probe]);
        }
    }
}

#[inline(always)]
fn several<V: Register, const P: usize, const R: usize>(row: &[f32], probes: [&[f32]; P]) -> [f32; P] {
    let mut sums = [[V::zero(); R]; P];
    let (steps, rest) = row.as_chunks::<LANES>();
    let whole: [&[[f32; LANES]]; P] = probes.map(|probe| &probe.as_chunks::<LANES>().0[..steps.len()]);
    for (at, step) in steps.iter().enumerate() {
        for (sums, whole) in sums.iter_mut().zip(whole) {
            for (number, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add_product(V::load(step, number), V::load(&whole[at], number));
            }
        }
    }
    let mut lanes = [[0.0; LANES]; P];
    for ((lanes, sums), probe) in lanes.iter_mut().zip(sums).zip(probes) {
        for (number, sum) in sums.into_iter().enumerate() {
            sum.store(lanes, number);
        }
        for (lane, (x, y)) in lanes.iter_mut().zip(rest.iter().zip(&probe[row.len() - rest.len()..])) {
            *lane += x * y;
        }
    }
    lanes.map(by_halving)
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
