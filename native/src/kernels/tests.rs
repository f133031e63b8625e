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

/// Entries up to the largest there may be, so that sums reach their bounds.
fn table(seed: u64) -> HeadTable {
    let mut table = HeadTable([[0; 16]; 2 * PLANE_BYTES]);
    for (entry, byte) in table.0.as_flattened_mut().iter_mut().zip(bytes(512, seed)) {
        *entry = byte % (MAX_ENTRY + 1);
    }
    table
}

fn blocks(count: usize, seed: u64) -> Vec<Block> {
    bytes(count * size_of::<Block>(), seed).chunks(size_of::<Block>()).map(bytemuck::pod_read_unaligned).collect()
}

#[test]
fn the_farthest_code_is_all_bits_away() {
    for kernel in Kernel::available() {
        let mut heads = vec![[0; BLOCK_ROWS]; 3];
        kernel.head(&HeadTable([[MAX_ENTRY; 16]; 32]), &blocks(3, 1).iter().collect::<Vec<_>>(), &mut heads);
        assert_eq!(heads.as_flattened(), [MAX_HEAD; 96], "{kernel:?}");
        let mut rows = [0; 3];
        kernel.rows(&[0xff; 128], &[0; 384], &mut rows);
        assert_eq!(rows, [1024; 3], "{kernel:?}");
    }
}

#[test]
fn scalar_looks_up_both_halves_of_every_byte() {
    let (table, blocks) = (table(1), blocks(1, 2));
    let mut out = [[0; BLOCK_ROWS]];
    scalar().head(&table, &[&blocks[0]], &mut out);
    for (row, out) in out[0].iter().enumerate() {
        let value = |byte: usize| usize::from(blocks[0].0[byte][row]);
        let halves = |byte| [table.0[2 * byte][value(byte) % 16], table.0[2 * byte + 1][value(byte) / 16]];
        assert_eq!(*out, (0..PLANE_BYTES).flat_map(halves).map(u16::from).sum::<u16>());
    }
}

#[test]
fn heads_of_any_number_of_blocks() {
    let store = blocks(70, 4);
    for kernel in Kernel::available() {
        for (count, seed) in [0, 1, 2, 3, 4, 7, 64, 65, 69].into_iter().zip(0..) {
            for start in [0, 1] {
                let rows: Vec<&Block> = store[start..start + count].iter().rev().collect();
                let (mut got, mut expected) = (vec![[0; BLOCK_ROWS]; count], vec![[1; BLOCK_ROWS]; count]);
                kernel.head(&table(seed), &rows, &mut got);
                scalar().head(&table(seed), &rows, &mut expected);
                assert_eq!(got, expected, "{kernel:?} {count} blocks from {start}");
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
    fn below_keeps_the_order(distances in prop::collection::vec(prop_oneof![0..=992_u16, Just(HIDDEN)], 0..300), limit in 0..=994_u16, base in 0..1000_u32) {
        let expected: Vec<Pick> = distances.iter().zip(base..).filter(|(d, _)| **d < limit)
            .map(|(d, row)| pick(u32::from(*d), row)).collect();
        for kernel in Kernel::available() {
            let mut got = Vec::new();
            kernel.below(&distances, limit, base, &mut got);
            prop_assert_eq!(&got, &expected, "{:?}", kernel);
        }
    }

    #[test]
    fn refine_adds_the_tail(planes in 0..8_usize, chosen in prop::collection::btree_set(0..200_u32, 0..80), seed: u64) {
        let width = planes * PLANE_BYTES;
        let tails = bytes(200 * width, seed);
        let weights: Vec<i8> = bytes(width * 8, seed ^ 1).into_iter().map(|byte| (byte as i8).max(-127)).collect();
        let base = weights.iter().map(|weight| -i32::from(*weight).min(0)).sum();
        let tail = TailWeights { weights, base, head_unit: seed as u32 % 2_000 };
        let first = 50;
        let picks: Vec<Pick> = chosen.iter().map(|row| pick(row % 129, row + first)).collect();
        let expected: Vec<Pick> = chosen.iter().map(|row| {
            let row_bytes = &tails[*row as usize * width..][..width];
            let is_set = |at: usize| row_bytes[at / 8] >> (at % 8) & 1 == 1;
            let set = tail.weights.iter().enumerate().filter(|(at, _)| is_set(*at));
            let sum: i32 = set.map(|(_, weight)| i32::from(*weight)).sum();
            pick(row % 129 * tail.head_unit + (base + sum) as u32 * TAIL_UNIT, row + first)
        }).collect();
        for kernel in Kernel::available() {
            let mut got = picks.clone();
            kernel.refine(&tail, &tails, first, &mut got);
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

/// Rows of signed bytes as they are in sketches.
fn signed(len: usize, seed: u64) -> Vec<i8> {
    bytes(len, seed).into_iter().map(|byte| (byte as i8).max(-127)).collect()
}

#[test]
fn products_of_any_number_of_rows_and_panels() {
    for (steps, rows, panels, seed) in
        [(1, 1, 1, 1), (1, 6, 4, 2), (2, 7, 5, 3), (2, 13, 8, 4), (3, 25, 11, 5), (2, 0, 3, 6)]
    {
        let width = steps * panels::STEP;
        let (left, right) = (signed(rows * width * 4, seed), signed(panels * PANEL_ROWS * width * 4, seed ^ 9));
        let mut quads = vec![Quad::ZERO; panels * width];
        for (row, bytes) in right.as_chunks::<4>().0.chunks_exact(width).enumerate() {
            let panel = &mut quads[row / PANEL_ROWS * width..][..width];
            panel.iter_mut().zip(bytes).for_each(|(quad, bytes)| quad.set(row % PANEL_ROWS, *bytes));
        }
        let lefts: Vec<Left> = left
            .as_chunks::<4>()
            .0
            .chunks_exact(width)
            .zip(-9..)
            .map(|(bytes, start)| {
                let total = bytes.as_flattened().iter().map(|byte| i32::from(*byte)).sum();
                Left { bytes, total, start }
            })
            .collect();
        let limits: Vec<Limits> =
            (0..panels as i32).map(|panel| std::array::from_fn(|lane| panel * 900 - lane as i32 * 700)).collect();
        let mut expected = Vec::new();
        for (number, row) in lefts.iter().enumerate() {
            for (at, other) in right.chunks_exact(width * 4).enumerate() {
                let product = |(a, b): (&i8, &i8)| i32::from(*a) * i32::from(*b);
                let sum = row.start + row.bytes.as_flattened().iter().zip(other).map(product).sum::<i32>();
                if sum >= limits.as_flattened()[at] {
                    expected.push(Hit { left: number as u32, right: at as u32, sum });
                }
            }
        }
        assert!(rows == 0 || !expected.is_empty());
        for kernel in Kernel::available() {
            let mut got = Vec::new();
            kernel.products(&lefts, Panels { quads: &quads, width }, &limits, &mut got);
            got.sort_unstable();
            assert_eq!(got, expected, "{kernel:?} {steps} steps, {rows} rows, {panels} panels");
        }
    }
}

#[test]
fn the_largest_products_do_not_overflow() {
    let ends = [[-127_i8; 4], [127; 4]];
    for (left, right) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut quads = vec![Quad::ZERO; panels::STEP];
        quads.iter_mut().for_each(|quad| (0..PANEL_ROWS).for_each(|row| quad.set(row, ends[right])));
        let bytes = [ends[left]; panels::STEP];
        let total = 64 * i32::from(ends[left][0]);
        let sum = 64 * 127 * 127 * if left == right { 1 } else { -1 };
        for kernel in Kernel::available() {
            let mut got = Vec::new();
            let row = Left { bytes: &bytes, total, start: 0 };
            let panels = Panels { quads: &quads, width: panels::STEP };
            kernel.products(&[row], panels, &[[i32::MIN; PANEL_ROWS]], &mut got);
            assert_eq!(got.iter().map(|hit| hit.sum).collect::<Vec<_>>(), [sum; PANEL_ROWS], "{kernel:?}");
            assert_eq!(
                kernel.bytes(bytes.as_flattened(), [ends[right]; panels::STEP].as_flattened()),
                sum,
                "{kernel:?}"
            );
        }
    }
}
