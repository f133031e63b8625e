//! A probe as the cascade sees it: what each bit of a code costs where it differs, and how far a row may be.
//!
//! A probe keeps its projections as numbers; a row has only their signs. The distance of a row is the sum of the
//! magnitudes of the probe's projections on the bits that differ, so it falls as the cosine rises. Both stages count it in
//! whole numbers, the first plane in coarser steps than all planes. Their relation to the cosine is what the model has
//! calibrated: `Bound`.

use crate::kernels::{HeadTable, MAX_ENTRY, PLANE_BYTES, TAIL_UNIT, TailWeights};

/// Values of a bound: offset and slope of the lists, of the first plane, and of all planes.
pub const BOUND_VALUES: usize = 6;

const PLANE_BITS: usize = PLANE_BYTES * 8;

/// The lowest agreement (bits that agree minus bits that differ, weighted) that a row of some cosine has, but for the
/// misses that the recall allows: `offset + slope * cosine`.
#[derive(Clone, Copy)]
struct Bound {
    offset: f64,
    slope: f64,
}

/// One probe against the codes of one model.
pub struct Query {
    pub head: HeadTable,
    pub tail: TailWeights,
    list_bound: Bound,
    head_bound: Bound,
    full_bound: Bound,
    /// Sum of the magnitudes on the first plane, and on all.
    head_total: f64,
    full_total: f64,
    /// Units of distance to one of agreement, on the first plane and on all.
    head_scale: f64,
    full_scale: f64,
    /// Cosines above it count half: there the calibration is an extrapolation.
    knee: f64,
}

impl Query {
    /// values: the probe's projections minus thresholds, one for each bit of a code, at least a plane of them.
    pub fn new(values: &[f32], bounds: &[f32; BOUND_VALUES], knee: f32) -> Self {
        let (head, tail) = values.split_at(PLANE_BITS);
        let halves: Vec<[f32; 16]> = head.as_chunks::<4>().0.iter().map(costs).collect();
        let farthest = halves.iter().flatten().copied().fold(0.0, f32::max);
        let head_scale = if farthest > 0.0 { f32::from(MAX_ENTRY) / farthest } else { 0.0 };
        let mut table = HeadTable([[0; 16]; 2 * PLANE_BYTES]);
        for (tables, costs) in table.0.as_chunks_mut::<2>().0.iter_mut().zip(halves.as_chunks::<2>().0) {
            // The first four bits of a byte are its high half.
            tables[0] = costs[1].map(|cost| (cost * head_scale).round() as u8);
            tables[1] = costs[0].map(|cost| (cost * head_scale).round() as u8);
        }
        let largest = tail.iter().map(|value| value.abs()).fold(0.0, f32::max);
        let tail_scale = if largest > 0.0 { f32::from(i8::MAX) / largest } else { head_scale };
        let total = |values: &[f32]| values.iter().map(|value| f64::from(value.abs())).sum();
        let [list_bound, head_bound, full_bound] =
            [0, 2, 4].map(|at| Bound { offset: bounds[at].into(), slope: bounds[at + 1].into() });
        Self {
            head: table,
            tail: weights(tail, tail_scale, head_scale),
            list_bound,
            head_bound,
            full_bound,
            head_total: total(head),
            full_total: total(values),
            head_scale: f64::from(head_scale),
            full_scale: f64::from(tail_scale) * f64::from(TAIL_UNIT),
            knee: f64::from(knee),
        }
    }

    /// Rows whose cosine may reach `score` are in lists whose centroid agrees by this or more.
    pub fn list_limit(&self, score: f32) -> f32 {
        if score == f32::NEG_INFINITY {
            return f32::NEG_INFINITY;
        }
        (self.list_bound.offset + self.list_bound.slope * self.effective(score)) as f32
    }

    /// Rows whose cosine may reach `score` are nearer than this on the first plane.
    pub fn head_limit(&self, score: f32) -> u16 {
        limit(self.head_bound, self.head_total, self.head_scale, self.effective(score)).min(f64::from(u16::MAX)) as u16
    }

    /// The same on all planes.
    pub fn full_limit(&self, score: f32) -> u32 {
        limit(self.full_bound, self.full_total, self.full_scale, self.effective(score)).min(f64::from(u32::MAX)) as u32
    }

    fn effective(&self, score: f32) -> f64 {
        let score = f64::from(score);
        score.min(self.knee + (score - self.knee) / 2.0)
    }
}

/// The least distance at which a row cannot be of that cosine; infinite where nothing may be left out.
fn limit(bound: Bound, total: f64, scale: f64, cosine: f64) -> f64 {
    if scale == 0.0 || cosine == f64::NEG_INFINITY {
        return f64::INFINITY;
    }
    let agreement = bound.offset + bound.slope * cosine;
    (((total - agreement) * scale / 2.0).floor() + 1.0).max(0.0)
}

/// What each value of four bits costs. The first bit is the highest one.
fn costs(values: &[f32; 4]) -> [f32; 16] {
    let mut costs = [0.0; 16];
    for (bits, cost) in costs.iter_mut().enumerate() {
        for (at, value) in values.iter().enumerate() {
            if (bits >> (3 - at) & 1 == 1) != (*value > 0.0) {
                *cost += value.abs();
            }
        }
    }
    costs
}

fn weights(values: &[f32], scale: f32, head_scale: f32) -> TailWeights {
    let mut weights = vec![0; values.len()];
    let mut base = 0;
    for (weights, values) in weights.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks::<8>().0) {
        // A code has its first bit highest in the byte.
        for (weight, value) in weights.iter_mut().rev().zip(values) {
            let steps = (value * scale).round() as i8;
            *weight = -steps;
            base += i32::from(steps.max(0));
        }
    }
    let head_unit =
        if head_scale > 0.0 { f64::from(scale) / f64::from(head_scale) * f64::from(TAIL_UNIT) } else { 0.0 };
    TailWeights { weights, base, head_unit: head_unit.round() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{BLOCK_ROWS, Block, Kernel, pick, pick_distance};
    use proptest::prelude::*;

    /// The weighted distance, bit by bit.
    fn distance(values: &[f32], code: &[u8]) -> f64 {
        let differs = |at: usize| (code[at / 8] >> (7 - at % 8) & 1 == 1) != (values[at] > 0.0);
        values.iter().enumerate().filter(|(at, _)| differs(*at)).map(|(_, value)| f64::from(value.abs())).sum()
    }

    proptest! {
        #[test]
        fn tables_add_up_to_the_weighted_distance(
            values in prop::collection::vec(-1.0..1.0_f32, 384), code in prop::collection::vec(0..=255_u8, 48),
        ) {
            let query = Query::new(&values, &[0.0; 6], 1.0);
            let mut block = Block::ZERO;
            for (bytes, byte) in block.0.iter_mut().zip(&code) {
                bytes[7] = *byte;
            }
            let mut out = [[0; BLOCK_ROWS]];
            Kernel::in_use().head(&query.head, &[&block], &mut out);
            let head = f64::from(out[0][7]) / query.head_scale;
            prop_assert!((head - distance(&values[..128], &code[..16])).abs() <= 16.0 / query.head_scale);
            let mut picks = [pick(u32::from(out[0][7]), 0)];
            Kernel::in_use().refine(&query.tail, &code[16..], 0, &mut picks);
            let full = f64::from(pick_distance(picks[0])) / query.full_scale;
            let most = 16.5 / query.head_scale + 128.0 * f64::from(TAIL_UNIT) / query.full_scale;
            prop_assert!((full - distance(&values, &code)).abs() <= most);
        }

        #[test]
        fn limits_fall_as_the_score_rises(
            values in prop::collection::vec(-1.0..1.0_f32, 256), scores in (-1.0..1.0_f32, -1.0..1.0_f32),
            offset in -3.0..0.0_f32, slope in 0.0..9.0_f32,
        ) {
            let query = Query::new(&values, &[offset, slope, offset, slope, offset, slope], 0.4);
            let (low, high) = (scores.0.min(scores.1), scores.0.max(scores.1));
            prop_assert!(query.head_limit(low) >= query.head_limit(high));
            prop_assert!(query.full_limit(low) >= query.full_limit(high));
            prop_assert!(query.list_limit(low) <= query.list_limit(high));
        }
    }

    #[test]
    fn a_row_at_the_bound_is_inside() {
        // All weights are 1 / 128, and one row differs in 32 bits: its agreement is 64 / 128.
        let query = Query::new(&[1.0 / 128.0; 256], &[0.0, 1.0, 0.0, 1.0, 0.0, 2.0], 1.0);
        let farthest = MAX_ENTRY / 4;
        assert!(query.head_limit(0.5) > 32 * u16::from(farthest));
        assert_eq!(query.head_limit(f32::NEG_INFINITY), u16::MAX);
        assert_eq!(query.full_limit(f32::NEG_INFINITY), u32::MAX);
        assert_eq!((query.list_limit(f32::NEG_INFINITY), query.list_limit(0.5)), (f32::NEG_INFINITY, 0.5));
    }

    #[test]
    fn a_probe_without_any_projection_leaves_nothing_out() {
        let query = Query::new(&[0.0; 128], &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 1.0);
        assert_eq!((query.head_limit(0.9), query.full_limit(0.9)), (u16::MAX, u32::MAX));
        assert!(query.tail.weights.is_empty());
    }
}
