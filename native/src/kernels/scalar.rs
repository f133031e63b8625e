//! The oracle: plain Rust for the baseline instruction set, on which no popcount instruction can be assumed.

use super::{BLOCK_ROWS, Block, HeadTable, Ops, Pick, TailWeights, dot, panels, pick, rows};

pub(super) const OPS: Ops = Ops {
    name: "scalar",
    detect: || true,
    head,
    rows: distances,
    refine,
    below,
    dots: dot::baseline,
    widen: rows::widen,
    products: panels::baseline,
    bytes: panels::bytes,
};

pub(super) fn head(table: &HeadTable, blocks: &[&Block], out: &mut [[u16; BLOCK_ROWS]]) {
    for (block, out) in blocks.iter().zip(out) {
        *out = [0; BLOCK_ROWS];
        for (bytes, halves) in block.0.iter().zip(table.0.as_chunks::<2>().0) {
            for (byte, out) in bytes.iter().zip(&mut *out) {
                *out += u16::from(halves[0][usize::from(byte & 15)]) + u16::from(halves[1][usize::from(byte >> 4)]);
            }
        }
    }
}

fn distances(probe: &[u8], codes: &[u8], out: &mut [u16]) {
    rows::each(codes, probe.len(), out, |row| rows::by_words(probe, row));
}

pub(super) fn refine(tail: &TailWeights, tails: &[u8], first: u32, picks: &mut [Pick]) {
    rows::refine(tail, tails, first, picks, |weights, row| {
        let of_byte = |(byte, weights): (&u8, &[i8; 8])| -> i32 {
            let set = weights.iter().enumerate().filter(|(bit, _)| byte >> bit & 1 == 1);
            set.map(|(_, weight)| i32::from(*weight)).sum()
        };
        row.iter().zip(weights.as_chunks().0).map(of_byte).sum()
    });
}

pub(super) fn below(distances: &[u16], limit: u16, base: u32, out: &mut Vec<Pick>) {
    for (&distance, row) in distances.iter().zip(base..) {
        if distance < limit {
            out.push(pick(u32::from(distance), row));
        }
    }
}
