//! `pairs` against brute force: one set of rows and two, of any shape, with outliers, in pieces, with every kernel.

use crate::gallery::{self, Random};
use _native::kernels::Kernel;
use _native::{Pair, Rows, Side, Sketch, Visits, Widths, pairs};
use proptest::prelude::*;

/// Rows of unit norm whose later coordinates are the smaller, the steeper; some lie on an axis, some are equal.
fn rows(random: &mut Random, count: usize, dim: usize, steepness: f32) -> Vec<f32> {
    let mut all: Vec<f32> = Vec::with_capacity(count * dim);
    for row in 0..count {
        let mut values = random.floats(dim, false);
        values.iter_mut().enumerate().for_each(|(at, value)| *value *= (-steepness * at as f32).exp());
        match random.next() % 8 {
            0 if row > 0 => {
                let earlier = random.next() as usize % row;
                values.copy_from_slice(&all[earlier * dim..][..dim]);
                values[0] += 0.05;
            }
            1 => values[random.next() as usize % dim] += 9.0,
            _ => values[0] += 0.01,
        }
        let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        all.extend(values.iter().map(|value| value / norm));
    }
    all
}

/// The coordinates are the first values of a row: an orthonormal basis like any other.
fn sketch(rows: &[f32], dim: usize, scale: f64, widths: Widths) -> Sketch {
    let mut sketch = Sketch::new(scale, widths).expect("widths that can be");
    let width = widths.coordinates().min(dim);
    let coordinates: Vec<f32> = rows.chunks_exact(dim).flat_map(|row| &row[..width]).copied().collect();
    let squares: Vec<f32> = rows.chunks_exact(dim).map(|row| row.iter().map(|value| value * value).sum()).collect();
    let half = squares.len() / 2;
    sketch.append(&coordinates[..half * width], width, &squares[..half]).expect("unit rows");
    sketch.append(&coordinates[half * width..], width, &squares[half..]).expect("unit rows");
    sketch
}

fn expected(left: &[f32], right: Option<&[f32]>, dim: usize, least: f32) -> Vec<Pair> {
    let mut found = Vec::new();
    for (i, a) in left.chunks_exact(dim).enumerate() {
        for (j, b) in right.unwrap_or(left).chunks_exact(dim).enumerate() {
            let score = gallery::score(a, b);
            if score >= least && (right.is_some() || i < j) {
                found.push((i as u32, j as u32, score));
            }
        }
    }
    found
}

fn in_pieces(rows: &[f32], dim: usize, piece: usize) -> Rows<'_> {
    Rows::new(rows.chunks(piece * dim).collect(), dim, None).expect("whole rows")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn finds_what_brute_force_finds(
        sizes in (0..230_usize, 0..90_usize), dim in prop_oneof![1..8_usize, 60..70_usize, 120..200_usize],
        head in 1..4_usize, tail in 0..3_usize, scale in 20.0..900.0_f64, least in -0.9..1.0_f32,
        steepness in prop_oneof![Just(0.0_f32), 0.0..0.2_f32], piece in 1..50_usize, seed: u64,
    ) {
        let mut random = Random::new(seed);
        let (left, right) = (rows(&mut random, sizes.0, dim, steepness), rows(&mut random, sizes.1, dim, steepness));
        let widths = Widths { head: head * 64, tail: tail * 64 };
        let (one, two) = (sketch(&left, dim, scale, widths), sketch(&right, dim, scale, widths));
        for kernel in Kernel::available() {
            let a = Side { sketch: &one, floats: in_pieces(&left, dim, piece) };
            let b = Side { sketch: &two, floats: in_pieces(&right, dim, piece) };
            prop_assert_eq!(pairs(&a, None, least, None, kernel).unwrap(), expected(&left, None, dim, least), "{:?}", kernel);
            let both = pairs(&a, Some(&b), least, None, kernel).unwrap();
            prop_assert_eq!(both, expected(&left, Some(&right), dim, least), "{:?}", kernel);
        }
    }

    #[test]
    fn visits_look_at_nothing_else(
        sizes in (1..150_usize, 1..90_usize), cuts in prop::collection::vec(0..90_usize, 0..6), share in 1..5_u64,
        least in -0.5..0.9_f32, seed: u64,
    ) {
        let (dim, widths) = (40, Widths { head: 64, tail: 64 });
        let mut random = Random::new(seed);
        let (left, right) = (rows(&mut random, sizes.0, dim, 0.1), rows(&mut random, sizes.1, dim, 0.1));
        let mut lists: Vec<i64> = cuts.iter().map(|cut| *cut.min(&sizes.1) as i64).chain([0, sizes.1 as i64]).collect();
        lists.sort_unstable();
        let (mut visits, mut visitors, mut wanted) = (vec![0_i64], Vec::new(), Vec::new());
        for list in lists.windows(2) {
            for place in (0..sizes.0 as u32).filter(|_| random.next().is_multiple_of(share)) {
                visitors.push(place);
                wanted.extend((list[0]..list[1]).map(|at| (place, at as u32)));
            }
            visits.push(visitors.len() as i64);
        }
        // The rows of the right sketch lie backwards.
        let turned: Vec<f32> = right.chunks_exact(dim).rev().flatten().copied().collect();
        let order: Vec<u32> = (0..sizes.1 as u32).rev().collect();
        let (one, two) = (sketch(&left, dim, 100.0, widths), sketch(&right, dim, 100.0, widths));
        let a = Side { sketch: &one, floats: in_pieces(&left, dim, 9) };
        let b = Side { sketch: &two, floats: Rows::new(vec![&turned], dim, Some(&order)).unwrap() };
        let visits = Visits { lists: &lists, visits: &visits, visitors: &visitors };
        let mut all = expected(&left, Some(&turned), dim, least);
        all.retain(|(i, j, _)| wanted.contains(&(*i, sizes.1 as u32 - 1 - *j)));
        for kernel in Kernel::available() {
            prop_assert_eq!(&pairs(&a, Some(&b), least, Some(&visits), kernel).unwrap(), &all, "{:?}", kernel);
        }
    }
}

#[test]
fn rows_that_are_not_of_unit_norm_are_refused() {
    let mut sketch = Sketch::new(100.0, Widths { head: 64, tail: 0 }).expect("widths that can be");
    for (row, square) in [([1.0, 1.0], 2.0), ([f32::NAN, 0.0], 1.0), ([0.0, 0.0], f32::NAN)] {
        let refused = sketch.append(&row, 2, &[square]);
        assert!(refused.is_err_and(|error| error.to_string().contains("norm 1")));
    }
    assert_eq!(sketch.rows(), 0);
}

#[test]
fn sides_that_do_not_fit_are_refused() {
    let mut random = Random::new(7);
    let floats = rows(&mut random, 20, 8, 0.1);
    let (one, two) = [64, 128].map(|head| sketch(&floats, 8, 100.0, Widths { head, tail: 0 })).into();
    let side = |sketch, rows: usize| Side { sketch, floats: in_pieces(&floats[..rows * 8], 8, 20) };
    let run =
        |a: &Side, b: &Side, least| pairs(a, Some(b), least, None, Kernel::in_use()).expect_err("refused").to_string();
    assert!(run(&side(&one, 20), &side(&two, 20), 0.5).contains("one scale and widths"));
    assert!(run(&side(&one, 20), &side(&one, 19), 0.5).contains("floats of 20 rows, got 19"));
    assert!(run(&side(&one, 20), &side(&one, 20), 1.5).contains("at most 1"));
    let lists = Visits { lists: &[0, 30], visits: &[0, 1], visitors: &[0] };
    let refused = pairs(&side(&one, 20), None, 0.5, Some(&lists), Kernel::in_use());
    assert!(refused.is_err_and(|error| error.to_string().contains("ascending bounds")));
}
