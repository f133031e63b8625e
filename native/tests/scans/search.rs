//! `search` against brute force: cascade and exact scans with ties, deletes, empty and tiny indexes, several segments
//! and indexes, any k, on every kernel and with one thread or several.

use crate::gallery::{self, Gallery, LISTS, Random};
use _native::kernels::Kernel;
use _native::{Cascade, Found, Index, Stage, Wanted, search};
use proptest::prelude::*;

const DIM: usize = 24;
const PLANES: usize = 3;
const BITS: usize = PLANES * 128;
const KNEE: f32 = 2.0;

/// How an index is searched: None exactly, else with a bound of that offset and slope for all stages.
type Plan = Option<(f32, f32)>;

/// Leaves nothing out.
const ALL: Plan = Some((-1e9, 0.0));

type Entry = (f32, u64, i32, i64);

/// What is asked for, and how: k, the least score, which rows are let pass, and the plan of every gallery.
#[derive(Clone)]
struct Asked {
    k: usize,
    least: f32,
    /// For every gallery None, or the bits of a filter.
    filters: Vec<Option<Vec<u8>>>,
    plans: Vec<Plan>,
}

impl Asked {
    fn plain(k: usize, plans: &[Plan]) -> Self {
        Self { k, least: f32::NEG_INFINITY, filters: vec![None; plans.len()], plans: plans.to_vec() }
    }

    fn lets_pass(&self, gallery: usize, row: usize) -> bool {
        self.filters[gallery]
            .as_ref()
            .is_none_or(|bits| bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1))
    }
}

/// The best of some rows of all galleries for one probe.
fn best(galleries: &[&Gallery], probe: &[f32], asked: &Asked, is_in: impl Fn(usize, usize) -> bool) -> Vec<Entry> {
    let mut list: Vec<Entry> = Vec::new();
    for (i, gallery) in galleries.iter().enumerate() {
        let rows = gallery.live().into_iter().filter(|&row| asked.lets_pass(i, row) && is_in(i, row));
        list.extend(rows.map(|row| (gallery::score(probe, gallery.row(row)), gallery.keys[row], i as i32, row as i64)));
    }
    list.retain(|entry| entry.0 >= asked.least);
    list.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    list.truncate(asked.k);
    list
}

/// The lists of a search, without padding, which is checked.
fn lists(found: &Found, n: usize, k: usize) -> Vec<Vec<Entry>> {
    let entries = (0..n * k).map(|i| (found.scores[i], found.keys[i], found.indexes[i], found.rows[i]));
    let entries: Vec<Entry> = entries.collect();
    let mut lists = Vec::new();
    for list in entries.chunks(k) {
        let (there, padding) = list.split_at(list.iter().take_while(|entry| entry.2 >= 0).count());
        assert!(padding.iter().all(|entry| entry.0.is_nan() && (entry.1, entry.2, entry.3) == (0, -1, -1)));
        lists.push(there.to_vec());
    }
    lists
}

fn bits(found: &Found) -> (Vec<u32>, &[u64], &[i32], &[i64]) {
    (found.scores.iter().map(|score| score.to_bits()).collect(), &found.keys, &found.indexes, &found.rows)
}

/// One array of each kind per index; indexes of one plan share theirs, as shards of one model do.
struct Arrays {
    values: Vec<f32>,
    lists: Vec<f32>,
    bounds: Vec<Vec<f32>>,
}

impl Arrays {
    fn new(random: &mut Random, n: usize, plans: &[Plan]) -> Self {
        let bounds = plans.iter().map(|plan| {
            let (offset, slope) = plan.unwrap_or((0.0, 0.0));
            [offset, slope, offset, slope, offset, slope].repeat(n)
        });
        let (bounds, values) = (bounds.collect(), random.floats(n * BITS, false));
        // Of the size that agreements of codes have.
        let lists = random.floats(n * LISTS, false).iter().map(|agreement| agreement * 60.0).collect();
        Self { values, lists, bounds }
    }

    fn stages<'a>(&'a self, plans: &[Plan]) -> Vec<Stage<'a>> {
        let stage = |(plan, bounds): (&Plan, &'a Vec<f32>)| match plan {
            Some(_) => Stage::Cascade(Cascade { values: &self.values, lists: &self.lists, bounds, knee: KNEE }),
            None => Stage::Exact,
        };
        plans.iter().zip(&self.bounds).map(stage).collect()
    }
}

/// Searches on every kernel and with several numbers of threads; all must give the same bits. What comes back must be the
/// best of the rows that were scored, and among those are all that the bounds promise.
fn run_all_ways(random: &mut Random, galleries: &[&Gallery], probes: &[f32], asked: &Asked) {
    let (n, k) = (probes.len() / DIM, asked.k);
    let arrays = Arrays::new(random, n, &asked.plans);
    let indexes: Vec<&Index> = galleries.iter().map(|gallery| &gallery.index).collect();
    let stages = arrays.stages(&asked.plans);
    let filters: Vec<Option<&[u8]>> = asked.filters.iter().map(Option::as_deref).collect();
    let wanted = Wanted { k, least: asked.least, filters: &filters };
    let run = |kernel| search(&indexes, probes, DIM, &stages, &wanted, kernel).expect("a search");
    let first = run(Kernel::named("scalar").expect("always there"));
    for kernel in Kernel::available() {
        assert_eq!(bits(&run(kernel)), bits(&first), "{kernel:?}");
    }
    for threads in [1, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let got = pool.install(|| run(Kernel::in_use()));
        assert_eq!(bits(&got), bits(&first), "{threads} threads");
    }
    for (probe, list) in lists(&first, n, k).iter().enumerate() {
        check_list(galleries, &probes[probe * DIM..][..DIM], &arrays, probe, asked, list);
    }
}

fn check_list(galleries: &[&Gallery], probe: &[f32], arrays: &Arrays, number: usize, asked: &Asked, list: &[Entry]) {
    let values = &arrays.values[number * BITS..][..BITS];
    let lists = &arrays.lists[number * LISTS..][..LISTS];
    let floor = if list.len() == asked.k { f64::from(list[asked.k - 1].0) } else { f64::from(asked.least) };
    // Distances are whole numbers: each of 32 look-ups and of 256 weights is off by half a step at most, and what agrees is
    // twice as much off as what differs.
    let costs: Vec<f32> = values[..128].chunks(4).map(|four| four.iter().map(|v| v.abs()).sum()).collect();
    let head_error = f64::from(costs.iter().copied().fold(0.0, f32::max)) / 31.0 * 34.0;
    let largest = values[128..].iter().map(|v| v.abs()).fold(0.0, f32::max);
    let full_error = head_error + f64::from(largest) / 127.0 * 260.0;
    let is_promised = |i: usize, row: usize| {
        let Some((offset, slope)) = asked.plans[i] else { return true };
        let least = f64::from(offset) + f64::from(slope) * floor;
        let (head, full) = galleries[i].agreement(values, row);
        let list = galleries[i].list(row).map_or(f64::INFINITY, |list| f64::from(lists[list]));
        // An infinite least of a slope 0 is no number: everything is promised then.
        least.is_nan() || (list >= least + 1e-3 && head >= least + head_error && full >= least + full_error)
    };
    let returned = |i: usize, row: usize| list.iter().any(|entry| (entry.2, entry.3) == (i as i32, row as i64));
    let expected = best(galleries, probe, asked, |i, row| is_promised(i, row) || returned(i, row));
    assert_eq!(list, expected);
}

fn sizes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    // Long enough for lists, or not.
    let rows = prop_oneof![3 => 0..90_usize, 1 => 256..500_usize];
    prop::collection::vec(prop::collection::vec(rows, 0..4), 0..4)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = prop_oneof![Just(None), Just(ALL), (-60.0..60.0_f32, 0.0..30.0_f32).prop_map(Some)];
    prop::collection::vec(plan, 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_brute_force(
        segments in sizes(), n in 0..6_usize, k in 1..40_usize, is_coarse: bool, seed: u64, plans in plans(),
        deleted in 0..4_u64, least in prop_oneof![2 => Just(f32::NEG_INFINITY), 1 => -3.0..9.0_f32],
        filtered in prop::collection::vec(prop::option::of(0..100_u64), 3), dropped in 0..8_usize,
    ) {
        let mut random = Random::new(seed);
        let mut galleries: Vec<Gallery> = segments.iter()
            .map(|rows| Gallery::new(&mut random, rows, DIM, PLANES, is_coarse, deleted * 25)).collect();
        for (gallery, segments) in galleries.iter_mut().zip(&segments) {
            (0..segments.len()).filter(|at| dropped >> at & 1 == 1).for_each(|at| gallery.drop_segment(at));
        }
        let probes = random.floats(n * DIM, is_coarse);
        let galleries: Vec<&Gallery> = galleries.iter().collect();
        let filter = |(gallery, share): (&&Gallery, &Option<u64>)| share.map(|share| gallery.filter(&mut random, share));
        let filters = galleries.iter().zip(&filtered).map(filter).collect();
        let plans = plans[..galleries.len()].to_vec();
        run_all_ways(&mut random, &galleries, &probes, &Asked { k, least, filters, plans });
    }
}

/// Large enough that the pilot is a part of the rows, and that one probe's rows are split into ranges.
#[test]
fn a_split_search_agrees_with_brute_force() {
    let mut random = Random::new(7);
    let large = Gallery::new(&mut random, &[60_000, 50_000, 40_000, 1, 0, 65_536, 4_464], DIM, PLANES, false, 3);
    let small = Gallery::new(&mut random, &[10], DIM, PLANES, true, 0);
    for n in [1, 3] {
        let probes = random.floats(n * DIM, false);
        for plan in [(40.0, 0.1), (-10.0, 1.0)] {
            run_all_ways(&mut random, &[&large, &small], &probes, &Asked::plain(50, &[Some(plan), None]));
            let asked = Asked::plain(7, &[Some(plan), Some(plan)]);
            run_all_ways(&mut random, &[&small, &large], &probes, &asked);
            // One row in ten, and so few that they are followed one by one.
            for share in [10, 0] {
                let filters = vec![None, Some(large.filter(&mut random, share))];
                run_all_ways(&mut random, &[&small, &large], &probes, &Asked { filters, ..asked.clone() });
            }
            run_all_ways(&mut random, &[&small, &large], &probes, &Asked { k: 900, least: 5.0, ..asked });
        }
    }
}

#[test]
fn a_misleading_sample_costs_a_second_scan_and_no_row() {
    let mut random = Random::new(11);
    let gallery = Gallery::banded(&mut random, 40_000, DIM, PLANES);
    let probes = random.floats(3 * DIM, false);
    for plan in [(0.0, 0.0), (-1e9, 0.0), (1e9, 0.0)] {
        run_all_ways(&mut random, &[&gallery], &probes, &Asked::plain(10, &[Some(plan)]));
    }
}

/// More probes than one group takes.
#[test]
fn a_batch_agrees_with_brute_force() {
    let mut random = Random::new(8);
    let gallery = Gallery::new(&mut random, &[2_500, 700], DIM, PLANES, false, 5);
    let probes = random.floats(61 * DIM, false);
    run_all_ways(&mut random, &[&gallery], &probes, &Asked::plain(10, &[Some((5.0, 1.0))]));
    run_all_ways(&mut random, &[&gallery], &probes, &Asked::plain(10, &[None]));
}

/// What leaves nothing out is an exact search.
#[test]
fn bounds_that_leave_nothing_out_give_the_exact_list() {
    let mut random = Random::new(12);
    let gallery = Gallery::new(&mut random, &[9_000], DIM, PLANES, true, 10);
    let probes = random.floats(5 * DIM, true);
    let arrays = Arrays::new(&mut random, 5, &[ALL]);
    let wanted = Wanted { k: 30, least: f32::NEG_INFINITY, filters: &[None] };
    let run = |stages: &[Stage]| {
        search(&[&gallery.index], &probes, DIM, stages, &wanted, Kernel::in_use()).expect("a search")
    };
    assert_eq!(bits(&run(&arrays.stages(&[ALL]))), bits(&run(&[Stage::Exact])));
}

#[test]
fn one_index_given_twice_is_searched_twice() {
    let mut random = Random::new(9);
    let gallery = Gallery::new(&mut random, &[40], DIM, PLANES, true, 0);
    let probes = random.floats(2 * DIM, true);
    run_all_ways(&mut random, &[&gallery, &gallery], &probes, &Asked::plain(12, &[None, Some((0.0, 9.0))]));
}

/// A list that is cut off by ties is cut at the lowest key.
#[test]
fn equal_scores_come_by_key() {
    let mut random = Random::new(10);
    let gallery = Gallery::constant(&mut random, 500, DIM, PLANES);
    let mut expected = gallery.keys.clone();
    expected.sort_unstable();
    let values = random.floats(BITS, false);
    let bounds = [-1e9, 0.0].repeat(3);
    let cascade = Stage::Cascade(Cascade { values: &values, lists: &[0.0; LISTS], bounds: &bounds, knee: KNEE });
    let wanted = Wanted { k: 20, least: f32::NEG_INFINITY, filters: &[None] };
    for stage in [Stage::Exact, cascade] {
        let found = search(&[&gallery.index], &[1.0; DIM], DIM, &[stage], &wanted, Kernel::in_use()).expect("a search");
        assert_eq!(found.keys, expected[..20]);
    }
}
