//! Segments that were dropped: their rows keep their numbers, and nothing of them is visited, held or given out. That scans
//! find the rest is a part of the tests of searches.

use crate::gallery::{Gallery, LISTS, Random};
use _native::kernels::Kernel;
use _native::{Error, Index, Layout, Stage, Wanted, search};

const DIM: usize = 24;
const PLANES: usize = 3;
const LAYOUT: Layout = Layout { planes: PLANES, lists: LISTS };

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("a refusal").to_string()
}

#[test]
fn a_dropped_segment_leaves_numbers_and_nothing_else() {
    let mut random = Random::new(1);
    let mut gallery = Gallery::new(&mut random, &[600, 70, 900], DIM, PLANES, false, 0);
    let held = |rows: usize| gallery_bytes(rows) + (LISTS + 1) * 4;
    let before = gallery.index.read().bytes();
    assert!(message(gallery.index.drop_segment(0)).contains("600 of the 600 rows of segment 0 are live"));
    gallery.drop_segment(0);
    gallery.index.drop_segment(0).expect("dropped already");
    {
        let state = gallery.index.read();
        assert_eq!((state.rows, state.held, state.live), (1_570, 970, 970));
        assert!(state.bytes() + held(600) <= before, "{} of {before}", state.bytes());
        assert_eq!(state.list_rows.iter().sum::<u32>(), 900);
    }
    assert_eq!(gallery.index.delete(&[0, 599, 0]).expect("rows in range"), 0);
    assert_eq!(gallery.index.delete(&[599, 600]).expect("rows in range"), 1);
    assert!(gallery.index.keys(0).expect("a segment").is_empty());
    assert_eq!(gallery.index.keys(1).expect("a segment"), gallery.keys[600..670]);
    assert_eq!(gallery.index.gather(&[601]).expect("a row"), gallery.row(601));
    let refused = gallery.index.gather(&[601, 599]);
    assert!(
        matches!(refused, Err(Error::Row(ref why)) if why.contains("row 599") && why.contains("segment 0 was dropped"))
    );
}

/// Codes and the two bytes of the order, without bitmaps.
fn gallery_bytes(rows: usize) -> usize {
    rows * (PLANES * 16 + 2)
}

#[test]
fn rows_are_deleted_before_a_segment_is_dropped() {
    let mut random = Random::new(2);
    let gallery = Gallery::new(&mut random, &[40, 30], DIM, PLANES, false, 0);
    gallery.index.delete(&(0..39).collect::<Vec<_>>()).expect("rows in range");
    assert!(message(gallery.index.drop_segment(0)).contains("1 of the 40 rows"));
    assert!(message(gallery.index.drop_segment(2)).contains("segment 2 does not exist; there are 2"));
    assert_eq!(gallery.index.read().live, 31);
}

#[test]
fn nothing_is_added_to_a_dropped_segment() {
    let mut random = Random::new(3);
    let mut gallery = Gallery::new(&mut random, &[40, 30], DIM, PLANES, false, 0);
    gallery.drop_segment(1);
    assert!(message(gallery.index.append(&[1], Some(&[0; PLANES * 16 + 2]))).contains("room for 0"));
    let path = gallery.floats_path(0);
    assert!(message(gallery.index.seal(1, path, &[])).contains("sealed already"));
    let number = gallery.index.open_segment(path, 40).expect("a segment");
    assert_eq!(number, 2);
    assert_eq!(gallery.index.append(&[1], Some(&[0; PLANES * 16 + 2])).expect("room"), 70);
    assert_eq!(gallery.index.gather(&[70]).expect("a row"), gallery.row(0));
}

/// What is opened again after drops, with the same rows in the same places, is searched as before.
#[test]
fn skipped_rows_are_those_of_a_dropped_segment() {
    let mut random = Random::new(4);
    let mut gallery = Gallery::new(&mut random, &[300, 500, 800, 100, 0, 60], DIM, PLANES, true, 0);
    [0, 1, 3].into_iter().for_each(|at| gallery.drop_segment(at));
    let again = Index::new(DIM).expect("a dimension");
    for (segment, dropped) in [true, true, false, true, false, false].into_iter().enumerate() {
        let rows = gallery.rows_of(segment);
        if dropped {
            assert_eq!(again.skip(rows.len()).expect("room"), segment);
        } else {
            again.open_segment(gallery.floats_path(segment), rows.len()).expect("a segment");
            assert_eq!(again.append(&gallery.keys[rows.clone()], None).expect("rows"), rows.start);
        }
    }
    let probes = random.floats(3 * DIM, true);
    let wanted = Wanted { k: 900, least: f32::NEG_INFINITY, filters: &[None] };
    let run = |index| search(&[index], &probes, DIM, &[Stage::Exact], &wanted, Kernel::in_use()).expect("a search");
    let (found, expected) = (run(&again), run(&gallery.index));
    assert_eq!((found.rows, found.keys), (expected.rows, expected.keys));
    let state = (again.read(), gallery.index.read());
    assert_eq!((state.0.rows, state.0.held, state.0.live), (state.1.rows, state.1.held, state.1.live));
}

#[test]
fn a_dropped_segment_takes_an_empty_array_of_codes() {
    let index = Index::new(DIM).expect("a dimension");
    assert_eq!(index.skip(50).expect("room"), 0);
    index.set_codes(LAYOUT, &[&[]]).expect("no rows");
    assert!(message(index.set_codes(LAYOUT, &[&[0; 50 * (PLANES * 16 + 2)]])).contains("of [0] bytes"));
    assert_eq!((index.read().rows, index.read().live, index.read().bytes()), (50, 0, 0));
    assert!(message(index.skip(u32::MAX as usize - 49)).contains("room for 4294967245"));
}
