//! Every kernel that this processor can run against the scalar one, the scalar one against arithmetic.

use proptest::prelude::*;

use super::*;

const SIZES: &[usize] = &[0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 127, 128, 129, 1000, 1023];

/// Bytes that look random and are the same on every run.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn floats(len: usize, seed: u64) -> Vec<f32> {
    bytes(len * 2, seed).as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 7919.0).collect()
}

fn scalar() -> Kernel {
    Kernel::named("scalar").unwrap()
}

fn bit_by_bit(a: &[u8], b: &[u8]) -> u32 {
    let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (i % 8) & 1;
    (0..a.len() * 8).map(|i| u32::from(bit(a, i) != bit(b, i))).sum()
}

#[test]
fn scalar_is_always_there_and_last() {
    let names: Vec<_> = Kernel::available().iter().map(Kernel::name).collect();
    assert_eq!(names.last(), Some(&"scalar"));
    println!("kernels tested: {names:?}");
}

#[test]
fn scalar_counts_bits() {
    for planes in 1..=8 {
        let (probe, codes) = (bytes(16 * planes, 1), bytes(16 * planes * 9, 2));
        let mut out = vec![0; 9];
        scalar().rows(&probe, &codes, &mut out);
        let expected: Vec<_> = codes.chunks(16 * planes).map(|row| bit_by_bit(&probe, row) as u16).collect();
        assert_eq!(out, expected);
    }
}

#[test]
fn the_farthest_code_is_all_bits_away() {
    for kernel in Kernel::available() {
        let mut heads = vec![0; 100];
        kernel.head(&[0xff; 16], &[[0; 16]; 100], &mut heads);
        assert_eq!(heads, [128; 100], "{kernel:?}");
        let mut rows = [0; 3];
        kernel.rows(&[0xff; 128], &[0; 384], &mut rows);
        assert_eq!(rows, [1024; 3], "{kernel:?}");
    }
}

#[test]
fn heads_of_odd_sizes_and_starts() {
    let probe: Plane = bytes(16, 3).try_into().unwrap();
    let store = bytes(1100 * 16 + 64, 4);
    for kernel in Kernel::available() {
        for &size in SIZES {
            for start in [0, 1, 3, 8, 16, 33] {
                let rows = store[start..start + size * 16].as_chunks::<16>().0;
                let (mut got, mut expected) = (vec![0; size], vec![0; size]);
                kernel.head(&probe, rows, &mut got);
                scalar().head(&probe, rows, &mut expected);
                assert_eq!(got, expected, "{kernel:?} size {size} start {start}");
            }
        }
    }
}

#[test]
fn rows_of_odd_sizes_and_starts() {
    for planes in 1..=9 {
        let probe = bytes(planes * 16 + 1, 5);
        let store = bytes(1023 * planes * 16 + 8, 6);
        for kernel in Kernel::available() {
            for (&size, start) in SIZES.iter().zip((0..8).cycle()) {
                let codes = &store[start..start + size * planes * 16];
                let (mut got, mut expected) = (vec![0; size], vec![0; size]);
                kernel.rows(&probe[1..], codes, &mut got);
                scalar().rows(&probe[1..], codes, &mut expected);
                assert_eq!(got, expected, "{kernel:?} planes {planes} size {size} start {start}");
            }
        }
    }
}

proptest! {
    #[test]
    fn below_keeps_the_order(distances in prop::collection::vec(0..=255_u8, 0..300), limit in 0..=255_u8, base in 0..1000_u32) {
        let expected: Vec<Pick> = distances.iter().zip(base..).filter(|(d, _)| **d < limit)
            .map(|(d, row)| pick(u32::from(*d), row)).collect();
        for kernel in Kernel::available() {
            let mut got = Vec::new();
            kernel.below(&distances, limit, base, &mut got);
            prop_assert_eq!(&got, &expected, "{:?}", kernel);
        }
    }

    #[test]
    fn refine_adds_the_tail(planes in 1..6_usize, chosen in prop::collection::btree_set(0..200_u32, 0..80), seed: u64) {
        let (probe, tails) = (bytes(planes * 16, seed), bytes(200 * planes * 16, seed ^ 1));
        let first = 50;
        let picks: Vec<Pick> = chosen.iter().map(|row| pick(row % 129, row + first)).collect();
        let expected: Vec<Pick> = chosen.iter().map(|row| {
            let tail = &tails[*row as usize * planes * 16..][..planes * 16];
            pick(row % 129 + bit_by_bit(&probe, tail), row + first)
        }).collect();
        for kernel in Kernel::available() {
            let mut got = picks.clone();
            kernel.refine(&probe, &tails, first, &mut got);
            prop_assert_eq!(&got, &expected, "{:?}", kernel);
        }
    }

    #[test]
    fn dots_have_the_same_bits_everywhere(dim in 1..130_usize, p in 0..7_usize, r in 0..5_usize, seed: u64) {
        let (probes, rows) = (floats(p * dim, seed), floats(r * dim, seed ^ 1));
        let mut expected = vec![0.0; p * r];
        for (probe, out) in probes.chunks(dim).zip(expected.chunks_mut(r.max(1))) {
            for (row, out) in rows.chunks(dim).zip(out) {
                scalar().dots(probe, row, dim, std::slice::from_mut(out));
                let wide: f64 = probe.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let size: f64 = probe.iter().zip(row).map(|(a, b)| f64::from(a * b).abs()).sum();
                prop_assert!((f64::from(*out) - wide).abs() <= 1e-6 * size.max(1e-3));
            }
        }
        for kernel in Kernel::available() {
            let mut got = vec![0.0; p * r];
            kernel.dots(&probes, &rows, dim, &mut got);
            let bits = |scores: &[f32]| scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&got), bits(&expected), "{:?}", kernel);
        }
    }
}

#[test]
fn an_unknown_or_missing_kernel_is_named() {
    let message = Kernel::named("mmx").unwrap_err().to_string();
    assert!(message.contains("mmx") && message.contains("no kernel has that name"), "{message}");
    let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    assert!(Kernel::named(foreign).unwrap_err().to_string().contains("cannot run it"));
}

#[test]
fn a_kernel_is_chosen_once() {
    let first = Kernel::in_use();
    assert!(Kernel::choose(first.name()).is_ok());
    for other in Kernel::available().iter().filter(|kernel| kernel.name() != first.name()) {
        assert!(Kernel::choose(other.name()).unwrap_err().to_string().contains("is in use"));
    }
}
