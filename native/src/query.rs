//! A probe as the cascade sees it: what each bit of a code costs where it differs, and how far a row may be.
//!
//! A probe keeps its projections as numbers; a row has only their signs. The distance of a row is the sum of the
//! magnitudes of the probe's projections on the bits that differ, so it falls as the cosine rises. Both stages count it in
//! whole numbers: the first plane in steps of `1 / scale`, all planes in steps that are `HEAD_UNIT` times finer. Their
//! relation to the cosine is what the model has calibrated: `Bound`.

use crate::kernels::{HEAD_UNIT, HeadTable, MAX_ENTRY, PLANE_BYTES, TailTable};

/// Values of a bound: offset and slope of the first plane, then of all planes.
pub const BOUND_VALUES: usize = 4;

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
    pub tail: TailTable,
    head_bound: Bound,
    full_bound: Bound,
    /// Sum of the magnitudes on the first plane, and on all.
    head_total: f64,
    full_total: f64,
    scale: f64,
    /// Cosines above it count half: there the calibration is an extrapolation.
    knee: f64,
}

impl Query {
    /// values: the probe's projections minus thresholds, one for each bit of a code, at least a plane of them.
    pub fn new(values: &[f32], bounds: &[f32; BOUND_VALUES], knee: f32) -> Self {
        let halves: Vec<[f32; 16]> = values.as_chunks::<4>().0.iter().map(costs).collect();
        let farthest = halves[..2 * PLANE_BYTES].iter().map(|costs| most(costs)).fold(0.0, f32::max);
        let scale = if farthest > 0.0 { f32::from(MAX_ENTRY) / farthest } else { 0.0 };
        let (head, tail) = halves.split_at(2 * PLANE_BYTES);
        let mut table = HeadTable([[0; 16]; 2 * PLANE_BYTES]);
        for (halves, costs) in table.0.as_chunks_mut::<2>().0.iter_mut().zip(head.as_chunks::<2>().0) {
            // The first four bits of a byte are its high half.
            halves[0] = costs[1].map(|cost| whole(cost * scale) as u8);
            halves[1] = costs[0].map(|cost| whole(cost * scale) as u8);
        }
        let total = |values: &[f32]| values.iter().map(|value| f64::from(value.abs())).sum();
        let [head_offset, head_slope, full_offset, full_slope] = bounds.map(f64::from);
        Self {
            head: table,
            tail: tail.as_chunks::<2>().0.iter().map(|costs| byte_table(costs, scale * HEAD_UNIT as f32)).collect(),
            head_bound: Bound { offset: head_offset, slope: head_slope },
            full_bound: Bound { offset: full_offset, slope: full_slope },
            head_total: total(&values[..PLANE_BITS]),
            full_total: total(values),
            scale: f64::from(scale),
            knee: f64::from(knee),
        }
    }

    /// Rows whose cosine may reach `score` are nearer than this on the first plane.
    pub fn head_limit(&self, score: f32) -> u16 {
        self.limit(self.head_bound, self.head_total, self.scale, score).min(f64::from(u16::MAX)) as u16
    }

    /// The same on all planes.
    pub fn full_limit(&self, score: f32) -> u32 {
        let scale = self.scale * f64::from(HEAD_UNIT);
        self.limit(self.full_bound, self.full_total, scale, score).min(f64::from(u32::MAX)) as u32
    }

    /// At least 0; infinite where nothing may be left out.
    fn limit(&self, bound: Bound, total: f64, scale: f64, score: f32) -> f64 {
        let score = f64::from(score);
        if scale == 0.0 || score == f64::NEG_INFINITY {
            return f64::INFINITY;
        }
        let score = score.min(self.knee + (score - self.knee) / 2.0);
        let agreement = bound.offset + bound.slope * score;
        (((total - agreement) * scale / 2.0).floor() + 1.0).max(0.0)
    }
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

fn most(costs: &[f32; 16]) -> f32 {
    costs.iter().copied().fold(0.0, f32::max)
}

/// The nearest whole number of what is not negative.
fn whole(value: f32) -> u32 {
    (value + 0.5) as u32
}

fn byte_table([high, low]: &[[f32; 16]; 2], scale: f32) -> [u16; 256] {
    let steps = |cost: f32| whole(cost * scale).min(u32::from(u16::MAX / 2)) as u16;
    let (high, low) = (high.map(steps), low.map(steps));
    std::array::from_fn(|byte| high[byte >> 4] + low[byte & 15])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{BLOCK_ROWS, Block, Kernel, pick, pick_distance, refine};
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
            let query = Query::new(&values, &[0.0; 4], 1.0);
            let mut block = Block::ZERO;
            for (bytes, byte) in block.0.iter_mut().zip(&code) {
                bytes[7] = *byte;
            }
            let mut out = [[0; BLOCK_ROWS]];
            Kernel::in_use().head(&query.head, &[block], &mut out);
            let head = f64::from(out[0][7]) / query.scale;
            prop_assert!((head - distance(&values[..128], &code[..16])).abs() <= 32.0 * 0.5 / query.scale);
            let mut picks = [pick(u32::from(out[0][7]), 0)];
            refine(&query.tail, &code[16..], 0, &mut picks);
            let full = f64::from(pick_distance(picks[0])) / query.scale / f64::from(HEAD_UNIT);
            prop_assert!((full - distance(&values, &code)).abs() <= 20.0 / query.scale);
        }

        #[test]
        fn limits_fall_as_the_score_rises(
            values in prop::collection::vec(-1.0..1.0_f32, 256), scores in (-1.0..1.0_f32, -1.0..1.0_f32),
            offset in -3.0..0.0_f32, slope in 0.0..9.0_f32,
        ) {
            let query = Query::new(&values, &[offset, slope, offset, slope], 0.4);
            let (low, high) = (scores.0.min(scores.1), scores.0.max(scores.1));
            prop_assert!(query.head_limit(low) >= query.head_limit(high));
            prop_assert!(query.full_limit(low) >= query.full_limit(high));
        }
    }

    #[test]
    fn a_row_at_the_bound_is_inside() {
        // All weights are 1 / 128, and one row differs in 32 bits: its agreement is 64 / 128.
        let query = Query::new(&[1.0 / 128.0; 256], &[0.0, 1.0, 0.0, 2.0], 1.0);
        let farthest = MAX_ENTRY / 4;
        assert!(query.head_limit(0.5) > 32 * u16::from(farthest));
        assert_eq!(query.head_limit(f32::NEG_INFINITY), u16::MAX);
        assert_eq!(query.full_limit(f32::NEG_INFINITY), u32::MAX);
    }

    #[test]
    fn a_probe_without_any_projection_leaves_nothing_out() {
        let query = Query::new(&[0.0; 128], &[0.0, 1.0, 0.0, 1.0], 1.0);
        assert_eq!((query.head_limit(0.9), query.full_limit(0.9)), (u16::MAX, u32::MAX));
        assert!(query.tail.is_empty());
    }
}
