//! `join` against brute force: one index with itself and two, deleted rows, ranges, with lists and without codes.

use crate::gallery::{self, Gallery, LISTS, Random};
use _native::kernels::Kernel;
use _native::{Index, Model, Pairs, Projection, Sides, join};
use proptest::prelude::*;
use std::ops::Range;

const DIM: usize = 24;
const PLANES: usize = 3;

/// Leaves nothing out.
const ALL: [(f64, f64); 3] = [(-1e9, 0.0); 3];

fn projection(random: &mut Random) -> Projection {
    let bits = PLANES * 128;
    let (weights, thresholds) = (random.floats(DIM * bits, false), random.floats(bits, false));
    let (mean, centroids) = (random.floats(DIM, false), random.floats(LISTS * 128, false));
    Projection::new(&weights, &thresholds, &mean, &centroids).expect("shapes that fit")
}

fn expected(left: &Gallery, right: Option<&Gallery>, rows: Range<usize>, least: f32) -> Pairs {
    let mut pairs = Pairs::default();
    let live = right.unwrap_or(left).live();
    for i in left.live().into_iter().filter(|row| rows.contains(row)) {
        for &j in live.iter().filter(|j| right.is_some() || **j > i) {
            let score = gallery::score(left.row(i), right.unwrap_or(left).row(j));
            if score >= least {
                pairs.left.push(i as i64);
                pairs.right.push(j as i64);
                pairs.scores.push(score);
            }
        }
    }
    pairs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn finds_what_brute_force_finds(
        left in prop::collection::vec(prop_oneof![0..60_usize, 256..400_usize], 0..4),
        right in prop::collection::vec(0..200_usize, 0..3),
        seed: u64, cut in (0..400_usize, 0..400_usize), least in -1.0..9.0_f32, with_codes: bool, is_coarse: bool,
        dropped in 0..8_usize,
    ) {
        let mut random = Random::new(seed);
        let load = |random: &mut Random, segments: &[usize]| {
            let mut gallery = Gallery::new(random, segments, DIM, PLANES, is_coarse, 10);
            (0..segments.len()).filter(|at| dropped >> at & 1 == 1).for_each(|at| gallery.drop_segment(at));
            gallery
        };
        let (left, right) = (load(&mut random, &left), load(&mut random, &right));
        let total = left.keys.len();
        let rows = cut.0.min(cut.1).min(total)..cut.0.max(cut.1).min(total);
        let projection = projection(&mut random);
        let model = with_codes.then_some(Model { projection: &projection, lines: ALL, knee: 1.0 });
        for right in [None, Some(&right)] {
            let sides = Sides { left: &left.index, right: right.map(|right| &right.index) };
            let want = expected(&left, right, rows.clone(), least);
            for kernel in Kernel::available() {
                prop_assert_eq!(&join(sides, rows.clone(), model, least, kernel).expect("a join"), &want);
            }
        }
    }
}

/// Several segments in order of lists, more probes than a group.
#[test]
fn pairs_across_segments_are_found_once() {
    let mut random = Random::new(5);
    let gallery = Gallery::new(&mut random, &[600, 0, 700, 0, 300], DIM, PLANES, false, 5);
    let projection = projection(&mut random);
    let model = Some(Model { projection: &projection, lines: ALL, knee: 1.0 });
    let sides = Sides { left: &gallery.index, right: None };
    let want = expected(&gallery, None, 0..1_600, 6.0);
    assert!(want.left.len() > 100);
    assert_eq!(join(sides, 0..1_600, model, 6.0, Kernel::in_use()).expect("a join"), want);
    // What a caller does in pieces is the same.
    let pieces =
        [0..500, 500..501, 501..1_600].map(|rows| join(sides, rows, model, 6.0, Kernel::in_use()).expect("a join"));
    assert_eq!(pieces.iter().flat_map(|pairs| pairs.right.clone()).collect::<Vec<_>>(), want.right);
}

/// Limits leave out, and never add or change.
#[test]
fn limits_leave_out_pairs() {
    let mut random = Random::new(6);
    let gallery = Gallery::new(&mut random, &[500, 200], DIM, PLANES, false, 0);
    let projection = projection(&mut random);
    let sides = Sides { left: &gallery.index, right: None };
    let run = |offset: f64| {
        let lines = [(-1e9, 0.0), (offset, 0.0), (offset, 0.0)];
        let model = Some(Model { projection: &projection, lines, knee: 1.0 });
        let pairs = join(sides, 0..700, model, 2.0, Kernel::in_use()).expect("a join");
        pairs.left.into_iter().zip(pairs.right).collect::<std::collections::BTreeSet<_>>()
    };
    let (all, some, none) = (run(-1e9), run(0.0), run(1e9));
    assert!(none.is_subset(&some) && some.is_subset(&all));
    assert!(none.len() < some.len() && some.len() < all.len());
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random::new(7);
    let gallery = Gallery::new(&mut random, &[40], DIM, PLANES, false, 0);
    let other = Index::new(DIM + 1).expect("a dimension");
    let sides = Sides { left: &gallery.index, right: None };
    let projection = projection(&mut random);
    let model = Model { projection: &projection, lines: ALL, knee: 1.0 };
    let message = |result: _native::Result<Pairs>| result.expect_err("a refusal").to_string();
    let kernel = Kernel::in_use();
    assert!(message(join(sides, 0..41, None, 0.0, kernel)).contains("rows 0 to 41"));
    assert!(message(join(sides, 0..4, None, f32::NAN, kernel)).contains("least"));
    assert!(message(join(sides, 0..4, Some(Model { knee: f32::NAN, ..model }), 0.0, kernel)).contains("knee"));
    let sides = Sides { right: Some(&other), ..sides };
    assert!(message(join(sides, 0..4, None, 0.0, kernel)).contains("one dimension"));
    let empty = Index::new(DIM).expect("a dimension");
    let sides = Sides { right: Some(&empty), ..sides };
    assert!(message(join(sides, 0..4, Some(model), 0.0, kernel)).contains("of the model"));
}
