//! `search` against brute force: cascade and exact scans with ties, deletes, empty and tiny indexes, several segments
//! and indexes, any k, on every kernel and with one thread or several.

mod gallery;

use _native::kernels::Kernel;
use _native::{Found, Index, Stage, search};
use gallery::{Gallery, Random};
use proptest::prelude::*;

const DIM: usize = 24;
const PLANES: usize = 3;

/// Everything of the gallery scored and sorted: `keep[i]` says how many rows of index i each stage keeps, None is exact.
fn brute_force(
    galleries: &[&Gallery],
    probes: &[f32],
    codes: &[Vec<u8>],
    keep: &[Option<(usize, usize)>],
    k: usize,
) -> Found {
    let mut found = Found { indexes: vec![], rows: vec![], scores: vec![], keys: vec![] };
    for (n, probe) in probes.chunks(DIM).enumerate() {
        let mut list: Vec<(f32, u64, i32, i64)> = Vec::new();
        for (i, (gallery, keep)) in galleries.iter().zip(keep).enumerate() {
            let rows = match keep {
                None => gallery.live(),
                Some((head, full)) => gallery.survivors(&codes[i][n * PLANES * 16..][..PLANES * 16], *head, *full, k),
            };
            list.extend(
                rows.iter()
                    .map(|&row| (gallery::score(probe, gallery.row(row)), gallery.keys[row], i as i32, row as i64)),
            );
        }
        list.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        for place in 0..k {
            let (score, key, index, row) = list.get(place).copied().unwrap_or((f32::NAN, 0, -1, -1));
            found.indexes.push(index);
            found.rows.push(row);
            found.scores.push(score);
            found.keys.push(key);
        }
    }
    found
}

fn assert_same(got: &Found, expected: &Found, what: &str) {
    let bits = |found: &Found| found.scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
    assert_eq!(got.rows, expected.rows, "rows, {what}");
    assert_eq!(got.indexes, expected.indexes, "indexes, {what}");
    assert_eq!(got.keys, expected.keys, "keys, {what}");
    assert_eq!(bits(got), bits(expected), "scores, {what}");
}

fn stages<'a>(codes: &'a [Vec<u8>], keep: &[Option<(usize, usize)>]) -> Vec<Stage<'a>> {
    let stage = |(codes, keep): (&'a Vec<u8>, &Option<(usize, usize)>)| match *keep {
        Some((head, full)) => Stage { codes: Some(codes), head, full },
        None => Stage { codes: None, head: 0, full: 0 },
    };
    codes.iter().zip(keep).map(stage).collect()
}

fn run_all_ways(galleries: &[&Gallery], probes: &[f32], codes: &[Vec<u8>], keep: &[Option<(usize, usize)>], k: usize) {
    let expected = brute_force(galleries, probes, codes, keep, k);
    let indexes: Vec<&Index> = galleries.iter().map(|gallery| &gallery.index).collect();
    let stages = stages(codes, keep);
    for kernel in Kernel::available() {
        let got = search(&indexes, probes, DIM, &stages, k, kernel).expect("a search");
        assert_same(&got, &expected, &format!("{kernel:?}"));
    }
    for threads in [1, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let got = pool.install(|| search(&indexes, probes, DIM, &stages, k, Kernel::in_use())).expect("a search");
        assert_same(&got, &expected, &format!("{threads} threads"));
    }
}

fn sizes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(0..90_usize, 0..4), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn agrees_with_brute_force(
        segments in sizes(), n in 0..6_usize, k in 1..40_usize, is_coarse: bool, seed: u64,
        keep in prop::collection::vec(prop::option::of((0..200_usize, 0..100_usize)), 3), deleted in 0..4_u64,
    ) {
        let mut random = Random::new(seed);
        let galleries: Vec<Gallery> = segments.iter()
            .map(|rows| Gallery::new(&mut random, rows, DIM, PLANES, is_coarse, deleted * 25)).collect();
        let probes = random.floats(n * DIM, is_coarse);
        let codes: Vec<Vec<u8>> = galleries.iter().map(|_| random.codes(n * PLANES * 16, is_coarse)).collect();
        let galleries: Vec<&Gallery> = galleries.iter().collect();
        run_all_ways(&galleries, &probes, &codes, &keep[..galleries.len()], k);
    }
}

/// Large enough that one probe's rows are split into ranges and its survivors into spans, and that lists are pruned.
#[test]
fn a_split_search_agrees_with_brute_force() {
    let mut random = Random::new(7);
    let large = Gallery::new(&mut random, &[150_000, 1, 0, 70_000], DIM, PLANES, true, 3);
    let small = Gallery::new(&mut random, &[10], DIM, PLANES, true, 0);
    for n in [1, 3] {
        let probes = random.floats(n * DIM, true);
        let codes = [random.codes(n * PLANES * 16, true), random.codes(n * PLANES * 16, true)];
        run_all_ways(&[&large, &small], &probes, &codes, &[Some((9_000, 700)), None], 50);
        run_all_ways(&[&large, &small], &probes, &codes, &[None, Some((5, 5))], 7);
    }
}

#[test]
fn a_misleading_sample_costs_a_second_scan_and_no_survivor() {
    let mut random = Random::new(11);
    let gallery = Gallery::banded(&mut random, 40_000, DIM, PLANES);
    let probes = random.floats(3 * DIM, false);
    let codes = [[0, 0xff, 0x0f].map(|byte| [byte; PLANES * 16]).concat()];
    for keep in [(9_000, 500), (700, 100), (20, 20)] {
        run_all_ways(&[&gallery], &probes, &codes, &[Some(keep)], 10);
    }
}

/// More probes than one group takes.
#[test]
fn a_batch_agrees_with_brute_force() {
    let mut random = Random::new(8);
    let gallery = Gallery::new(&mut random, &[2_500, 700], DIM, PLANES, false, 5);
    let probes = random.floats(61 * DIM, false);
    let codes = [random.codes(61 * PLANES * 16, false)];
    run_all_ways(&[&gallery], &probes, &codes, &[Some((300, 40))], 10);
    run_all_ways(&[&gallery], &probes, &codes, &[None], 10);
}

#[test]
fn one_index_given_twice_is_searched_twice() {
    let mut random = Random::new(9);
    let gallery = Gallery::new(&mut random, &[40], DIM, PLANES, true, 0);
    let probes = random.floats(2 * DIM, true);
    let codes = [random.codes(2 * PLANES * 16, true), random.codes(2 * PLANES * 16, true)];
    run_all_ways(&[&gallery, &gallery], &probes, &codes, &[None, Some((9, 3))], 12);
}

/// A list that is cut off by ties is cut at the lowest key.
#[test]
fn equal_scores_come_by_key() {
    let mut random = Random::new(10);
    let gallery = Gallery::constant(&mut random, 500, DIM, PLANES);
    let found =
        search(&[&gallery.index], &[1.0; DIM], DIM, &[Stage { codes: None, head: 0, full: 0 }], 20, Kernel::in_use());
    let mut expected = gallery.keys.clone();
    expected.sort_unstable();
    assert_eq!(found.expect("a search").keys, expected[..20]);
}
