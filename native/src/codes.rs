//! The code planes of a segment's rows in memory.
//!
//! The first plane is interleaved in blocks of 32 rows, byte by byte, for the table look-ups of the scan; the other
//! planes of a row lie together, so that scoring a survivor touches one or two cache lines. A segment that is loaded at
//! once is allocated to the byte; one that grows keeps at most an eighth in reserve.

use crate::kernels::{BLOCK_ROWS, Block, PLANE_BYTES};

pub struct Codes {
    planes: usize,
    rows: usize,
    heads: Vec<Block>,
    tails: Vec<u8>,
}

impl Codes {
    pub fn new(planes: usize) -> Self {
        Self { planes, rows: 0, heads: Vec::new(), tails: Vec::new() }
    }

    /// Bytes of one row as it comes from outside: its planes one after another.
    pub fn width(&self) -> usize {
        self.planes * PLANE_BYTES
    }

    /// The first plane of all rows; the last block is filled up with zeros.
    pub fn heads(&self) -> &[Block] {
        &self.heads
    }

    /// The other planes, row after row.
    pub fn tails(&self) -> &[u8] {
        &self.tails
    }

    pub fn bytes(&self) -> usize {
        self.heads.capacity() * size_of::<Block>() + self.tails.capacity()
    }

    /// Add whole rows, each its planes one after another.
    pub fn append(&mut self, codes: &[u8]) {
        if self.planes == 0 {
            return;
        }
        let width = self.width();
        let rows = self.rows + codes.len() / width;
        grow(&mut self.heads, rows.div_ceil(BLOCK_ROWS));
        grow(&mut self.tails, rows * (width - PLANE_BYTES));
        self.heads.resize(rows.div_ceil(BLOCK_ROWS), Block::ZERO);
        for (code, row) in codes.chunks_exact(width).zip(self.rows..) {
            let (head, tail) = code.split_at(PLANE_BYTES);
            let block = &mut self.heads[row / BLOCK_ROWS];
            for (bytes, byte) in block.0.iter_mut().zip(head) {
                bytes[row % BLOCK_ROWS] = *byte;
            }
            self.tails.extend_from_slice(tail);
        }
        self.rows = rows;
    }
}

/// Make room for `len` values: exactly that in an empty vector, else an eighth more than there was.
pub fn grow<T>(values: &mut Vec<T>, len: usize) {
    if len > values.capacity() {
        let with_slack = if values.is_empty() { len } else { len.max(values.len() + values.len() / 8) };
        values.reserve_exact(with_slack - values.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(codes: &Codes, row: usize) -> Vec<u8> {
        codes.heads()[row / BLOCK_ROWS].0.iter().map(|bytes| bytes[row % BLOCK_ROWS]).collect()
    }

    #[test]
    fn appending_in_pieces_stores_what_appending_at_once_does() {
        let bytes: Vec<u8> = (0..103 * 48).map(|i| (i * 7 % 251) as u8).collect();
        let mut whole = Codes::new(3);
        whole.append(&bytes);
        let mut pieces = Codes::new(3);
        for piece in bytes.chunks(48 * 5) {
            pieces.append(piece);
        }
        assert_eq!(whole.heads().len(), 4);
        for (row, code) in bytes.chunks(48).enumerate() {
            assert_eq!(head(&whole, row), code[..16]);
            assert_eq!(head(&pieces, row), code[..16]);
            assert_eq!(whole.tails()[row * 32..][..32], code[16..]);
        }
        assert_eq!(whole.tails(), pieces.tails());
    }

    #[test]
    fn a_whole_segment_takes_no_slack_and_a_growing_one_an_eighth() {
        let mut whole = Codes::new(4);
        whole.append(&vec![1; 100_000 * 64]);
        assert_eq!(whole.bytes(), 100_000 * 64);
        let mut growing = Codes::new(4);
        for _ in 0..2_000 {
            growing.append(&[1; 64]);
        }
        assert!(growing.bytes() <= 2_000 * 64 * 9 / 8 + 1024, "{}", growing.bytes());
    }

    #[test]
    fn blocks_lie_on_cache_lines() {
        let mut codes = Codes::new(1);
        codes.append(&[0; 16 * 1000]);
        assert_eq!(codes.heads().as_ptr() as usize % 64, 0);
        assert!(codes.tails().is_empty());
    }
}
