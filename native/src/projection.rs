//! What a search model makes of probes: their projections, their agreement with the centroids of lists, their bounds.
//!
//! A single probe is one pass over all weights, which is bound by memory: they are kept in half the bytes (bfloat16).
//! Rows are encoded elsewhere and with all their digits; a probe's values only weigh bits, which forgive a part in five
//! hundred.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::{Kernel, PLANE_BYTES};
use crate::query::BOUND_VALUES;

const PLANE_BITS: usize = PLANE_BYTES * 8;

/// Weights that are widened at a time, for all probes of a group.
const STEP_ROWS: usize = 8;

/// Probes that share one pass over the weights.
const GROUP: usize = 16;

/// Projection, thresholds, mean and centroids of one model.
pub struct Projection {
    dim: usize,
    /// (bits, dim), in bfloat16.
    weights: Vec<u16>,
    thresholds: Vec<f32>,
    mean: Vec<f32>,
    /// (lists, 128), in bfloat16.
    centroids: Vec<u16>,
}

/// Row by row for each probe, as `Stage::Cascade` takes them.
pub struct Projected {
    pub values: Vec<f32>,
    pub lists: Vec<f32>,
    pub bounds: Vec<f32>,
}

/// Agreement over norm is at least `offset + slope * (cosine - probe @ mean)`, for lists, first plane and all planes.
pub type Lines = [(f64, f64); BOUND_VALUES / 2];

impl Projection {
    /// weights: (dim, bits), row by row. thresholds: (bits). mean: (dim). centroids: (lists, 128).
    pub fn new(weights: &[f32], thresholds: &[f32], mean: &[f32], centroids: &[f32]) -> Result<Self> {
        let (dim, bits) = (mean.len(), thresholds.len());
        if dim == 0 || bits == 0 || !bits.is_multiple_of(PLANE_BITS) || weights.len() != dim * bits {
            let message = format!(
                "projection: expected ({dim}, whole planes) float32, got {} values and {bits} bits",
                weights.len()
            );
            return Err(Error::value(message));
        }
        if !centroids.len().is_multiple_of(PLANE_BITS) {
            return Err(Error::value(format!(
                "centroids: expected (lists, 128) float32, got {} values",
                centroids.len()
            )));
        }
        let mut narrowed = Vec::with_capacity(dim * bits);
        (0..bits).for_each(|bit| narrowed.extend((0..dim).map(|at| narrow(weights[at * bits + bit]))));
        Ok(Self {
            dim,
            weights: narrowed,
            thresholds: thresholds.to_vec(),
            mean: mean.to_vec(),
            centroids: centroids.iter().map(|value| narrow(*value)).collect(),
        })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn bits(&self) -> usize {
        self.thresholds.len()
    }

    pub fn lists(&self) -> usize {
        self.centroids.len() / PLANE_BITS
    }

    /// The projections of whole probes of `dim` floats.
    pub fn project(&self, probes: &[f32], lines: &Lines, kernel: Kernel) -> Projected {
        let n = probes.len() / self.dim;
        let mut projected = Projected {
            values: vec![0.0; n * self.bits()],
            lists: vec![0.0; n * self.lists()],
            bounds: vec![0.0; n * BOUND_VALUES],
        };
        let mut parts = Vec::with_capacity(n.div_ceil(GROUP));
        let (mut values, mut lists) = (projected.values.as_mut_slice(), projected.lists.as_mut_slice());
        let bounds = projected.bounds.chunks_mut(GROUP * BOUND_VALUES);
        for (probes, bounds) in probes.chunks(GROUP * self.dim).zip(bounds) {
            let count = probes.len() / self.dim;
            let (of_values, of_lists);
            (of_values, values) = values.split_at_mut(count * self.bits());
            (of_lists, lists) = lists.split_at_mut(count * self.lists());
            parts.push((probes, of_values, of_lists, bounds));
        }
        match parts.len() {
            0 | 1 => parts.into_iter().for_each(|(p, v, l, b)| self.group(p, lines, kernel, v, l, b)),
            _ => parts.into_par_iter().for_each(|(p, v, l, b)| self.group(p, lines, kernel, v, l, b)),
        }
        projected
    }

    fn group(
        &self,
        probes: &[f32],
        lines: &Lines,
        kernel: Kernel,
        values: &mut [f32],
        lists: &mut [f32],
        bounds: &mut [f32],
    ) {
        product(kernel, probes, self.dim, &self.weights, values);
        for values in values.chunks_exact_mut(self.bits()) {
            values.iter_mut().zip(&self.thresholds).for_each(|(value, threshold)| *value -= threshold);
        }
        let heads: Vec<f32> =
            values.chunks_exact(self.bits()).flat_map(|values| &values[..PLANE_BITS]).copied().collect();
        product(kernel, &heads, PLANE_BITS, &self.centroids, lists);
        let per_probe = probes.chunks_exact(self.dim).zip(values.chunks_exact(self.bits()));
        for ((probe, values), bounds) in per_probe.zip(bounds.chunks_exact_mut(BOUND_VALUES)) {
            let common = dot(probe, &self.mean);
            let head = dot(&values[..PLANE_BITS], &values[..PLANE_BITS]).sqrt();
            let full = dot(values, values).sqrt();
            for ((pair, (offset, slope)), norm) in bounds.chunks_exact_mut(2).zip(lines).zip([head, head, full]) {
                pair[0] = (norm * (offset - slope * common)) as f32;
                pair[1] = (norm * slope) as f32;
            }
        }
    }
}

/// `out[row][weight]` = rows @ weights, both of `dim` values a row.
fn product(kernel: Kernel, rows: &[f32], dim: usize, weights: &[u16], out: &mut [f32]) {
    let (n, width) = (rows.len() / dim, weights.len() / dim);
    let mut wide = vec![0.0; STEP_ROWS * dim];
    let mut scores = vec![0.0; STEP_ROWS * n];
    for (step, narrow) in weights.chunks(STEP_ROWS * dim).enumerate() {
        let (wide, count) = (&mut wide[..narrow.len()], narrow.len() / dim);
        let scores = &mut scores[..n * count];
        kernel.widen(narrow, wide);
        kernel.dots(rows, wide, dim, scores);
        for (scores, out) in scores.chunks_exact(count).zip(out.chunks_exact_mut(width)) {
            out[step * STEP_ROWS..][..count].copy_from_slice(scores);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The nearest bfloat16: the upper half of the bits, rounded to even.
fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_projection_is_the_product_but_for_rounding(
            n in 0..40_usize, lists in 0..12_usize, planes in 1..3_usize, seed in prop::collection::vec(-1.0..1.0_f32, 64),
        ) {
            let dim = 40;
            let some = |len: usize, salt: usize| -> Vec<f32> {
                (0..len).map(|at| seed[(at * 7 + salt + at / 64) % 64] / 8.0).collect()
            };
            let bits = planes * PLANE_BITS;
            let (weights, thresholds, mean) = (some(dim * bits, 1), some(bits, 2), some(dim, 3));
            let (centroids, probes) = (some(lists * PLANE_BITS, 4), some(n * dim, 5));
            let lines = [(0.1, 0.2), (-0.3, 0.4), (0.5, 0.6)];
            let projection = Projection::new(&weights, &thresholds, &mean, &centroids).expect("shapes that fit");
            let first = projection.project(&probes, &lines, Kernel::in_use());
            for kernel in Kernel::available() {
                let got = projection.project(&probes, &lines, kernel);
                prop_assert_eq!((&got.values, &got.lists, &got.bounds), (&first.values, &first.lists, &first.bounds));
            }
            for (p, probe) in probes.chunks(dim).enumerate() {
                let values = &first.values[p * bits..][..bits];
                for (bit, value) in values.iter().enumerate() {
                    let terms = || (0..dim).map(|at| f64::from(probe[at]) * f64::from(weights[at * bits + bit]));
                    let expected = terms().sum::<f64>() - f64::from(thresholds[bit]);
                    let most = terms().map(f64::abs).sum::<f64>() / 256.0 + 1e-6;
                    prop_assert!((f64::from(*value) - expected).abs() <= most);
                }
                for (list, agreement) in first.lists[p * lists..][..lists].iter().enumerate() {
                    let terms = || (0..PLANE_BITS).map(|at| f64::from(values[at]) * f64::from(centroids[list * PLANE_BITS + at]));
                    let most = terms().map(f64::abs).sum::<f64>() / 256.0 + 1e-6;
                    prop_assert!((f64::from(*agreement) - terms().sum::<f64>()).abs() <= most);
                }
                let common = dot(probe, &mean);
                let norms = [&values[..PLANE_BITS], &values[..PLANE_BITS], values].map(|part| dot(part, part).sqrt());
                for ((pair, (offset, slope)), norm) in first.bounds[p * 6..][..6].chunks(2).zip(lines).zip(norms) {
                    let at_half = f64::from(pair[0]) + 0.5 * f64::from(pair[1]);
                    prop_assert!((at_half - norm * (offset + slope * (0.5 - common))).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert!(Projection::new(&[0.0; 128], &[0.0; 128], &[0.0; 1], &[0.0; 128]).is_ok());
        assert!(Projection::new(&[0.0; 127], &[0.0; 128], &[0.0; 1], &[]).is_err());
        assert!(Projection::new(&[0.0; 64], &[0.0; 64], &[0.0; 1], &[]).is_err());
        assert!(Projection::new(&[0.0; 128], &[0.0; 128], &[0.0; 1], &[0.0; 100]).is_err());
    }
}
