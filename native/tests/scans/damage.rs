//! A flipped bit in the floats of a sealed segment: an error that names file and block, or the right answer; after a repair
//! always the right answer.

use crate::gallery::{Gallery, LISTS, Random};
use _native::kernels::Kernel;
use _native::{CHECKSUM_BLOCK, Cascade, Error, Found, Result, Stage, Wanted, search};
use proptest::prelude::*;

/// Rows of 96 bytes, so that some lie in two blocks.
const DIM: usize = 24;
const PLANES: usize = 2;
const ROWS: [usize; 3] = [3_000, 100, 2_000];

/// True if it is the error of that block of that segment; any other is a failure.
fn is_refused<T>(result: &Result<T>, gallery: &Gallery, segment: usize, block: usize) -> bool {
    match result {
        Ok(_) => false,
        Err(Error::Corrupt { path, offset }) => {
            assert_eq!((path.as_path(), *offset as usize), (gallery.floats_path(segment), block * CHECKSUM_BLOCK));
            true
        }
        Err(other) => panic!("{other}"),
    }
}

fn run(gallery: &Gallery, probes: &[f32], values: Option<&[f32]>, offset: f32) -> Result<Found> {
    let n = probes.len() / DIM;
    let (lists, bounds) = (vec![0.0; n * LISTS], [-1e9, 0.0, offset, 0.0, offset, 0.0].repeat(n));
    let stage = match values {
        None => Stage::Exact,
        Some(values) => Stage::Cascade(Cascade { values, lists: &lists, bounds: &bounds, knee: 1.0 }),
    };
    let wanted = Wanted { k: 10, least: f32::NEG_INFINITY, filters: &[None] };
    search(&[&gallery.index], probes, DIM, &[stage], &wanted, Kernel::in_use())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_score_is_wrong(
        seed: u64, place in 0..5_000 * DIM * 4, n in 1..4_usize, offset in prop_oneof![Just(1e9), -60.0..60.0_f32],
        threads in 1..4_usize,
    ) {
        let mut random = Random::new(seed);
        let sound = Gallery::new(&mut random, &ROWS, DIM, PLANES, false, 2);
        let (probes, values) = (random.floats(n * DIM, false), random.floats(n * PLANES * 128, false));
        let damaged = Gallery::new(&mut Random::new(seed), &ROWS, DIM, PLANES, false, 2);
        let (segment, at) = if place < 3_000 * DIM * 4 { (0, place) } else { (2, place - 3_000 * DIM * 4) };
        let block = at / CHECKSUM_BLOCK;
        damaged.flip(segment, at);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            for _ in 0..2 {
                let got = run(&damaged, &probes, Some(&values), offset);
                assert!(is_refused(&got, &damaged, segment, block) || is_same(&got, &run(&sound, &probes, Some(&values), offset)));
                assert!(is_refused(&run(&damaged, &probes, None, 0.0), &damaged, segment, block));
            }
            damaged.flip(segment, at);
            for (values, offset) in [(Some(values.as_slice()), offset), (None, 0.0)] {
                assert!(is_same(&run(&damaged, &probes, values, offset), &run(&sound, &probes, values, offset)));
            }
        });
    }
}

fn is_same(a: &Result<Found>, b: &Result<Found>) -> bool {
    let bits = |found: &Found| found.scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
    let (a, b) = (a.as_ref().expect("sound floats"), b.as_ref().expect("sound floats"));
    (&a.rows, bits(a)) == (&b.rows, bits(b))
}

/// Large enough that one probe's rows are split over cores: the error of one of them ends the call.
#[test]
fn a_split_search_fails_as_a_whole() {
    let mut random = Random::new(3);
    let gallery = Gallery::new(&mut random, &[65_536, 1, 65_536, 0, 20_000], DIM, PLANES, false, 0);
    let (probes, values) = (random.floats(DIM, false), random.floats(PLANES * 128, false));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    gallery.flip(2, 40_000 * DIM * 4);
    let block = 40_000 * DIM * 4 / CHECKSUM_BLOCK;
    for values in [None, Some(values.as_slice())] {
        assert!(is_refused(&pool.install(|| run(&gallery, &probes, values, -1e9)), &gallery, 2, block));
    }
}

#[test]
fn a_filter_that_is_followed_is_refused_where_it_leads_to_the_block() {
    let mut random = Random::new(4);
    let gallery = Gallery::new(&mut random, &[3_000], DIM, PLANES, false, 0);
    gallery.flip(0, 0);
    let probes = random.floats(DIM, false);
    let with = |row: usize| {
        let mut bits = vec![0; 375];
        bits[row / 8] = 1 << (row % 8);
        let filters = [Some(bits.as_slice())];
        let wanted = Wanted { k: 1, least: f32::NEG_INFINITY, filters: &filters };
        search(&[&gallery.index], &probes, DIM, &[Stage::Exact], &wanted, Kernel::in_use())
    };
    // Row 682 is the last that begins in the first block.
    assert!(is_refused(&with(5), &gallery, 0, 0) && is_refused(&with(682), &gallery, 0, 0));
    assert_eq!(with(683).expect("a row of the second block").rows, [683]);
}

#[test]
fn rows_are_gathered_but_for_those_of_the_block() {
    let mut random = Random::new(5);
    let gallery = Gallery::new(&mut random, &[3_000], DIM, PLANES, false, 50);
    gallery.flip(0, CHECKSUM_BLOCK + 7);
    for row in [0, 681, 682, 683, 1_364, 1_365, 1_366, 2_999_i64] {
        let (first, last) = (row as usize * 96 / CHECKSUM_BLOCK, (row as usize * 96 + 95) / CHECKSUM_BLOCK);
        let got = gallery.index.gather(&[2_999, row]);
        match is_refused(&got, &gallery, 0, 1) {
            true => assert!(first <= 1 && last >= 1),
            false => assert_eq!(got.expect("sound floats")[DIM..], *gallery.row(row as usize)),
        }
    }
}
