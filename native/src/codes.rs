//! The code planes of a segment's rows in memory.
//!
//! The first plane of all rows is contiguous, since it is scanned from end to end; the other planes of a row lie
//! together, so that scoring a survivor touches one or two cache lines. A segment that is loaded at once is allocated
//! to the byte; one that grows keeps at most an eighth in reserve.

use bytemuck::{Pod, Zeroable};

use crate::kernels::{PLANE_BYTES, Plane};

/// Four rows of the first plane: a cache line, so that no vector load of the scan straddles two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_ROWS * PLANE_BYTES]);

const LINE_ROWS: usize = 4;

pub struct Codes {
    planes: usize,
    rows: usize,
    heads: Vec<Line>,
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

    /// Bytes of one row of `tails`.
    pub fn tail_width(&self) -> usize {
        self.width().saturating_sub(PLANE_BYTES)
    }

    /// The first plane of all rows.
    pub fn heads(&self) -> &[Plane] {
        &bytemuck::cast_slice::<Line, Plane>(&self.heads)[..self.rows]
    }

    /// The other planes, row after row.
    pub fn tails(&self) -> &[u8] {
        &self.tails
    }

    pub fn bytes(&self) -> usize {
        self.heads.capacity() * size_of::<Line>() + self.tails.capacity()
    }

    /// Add whole rows, each its planes one after another.
    pub fn append(&mut self, codes: &[u8]) {
        if self.planes == 0 {
            return;
        }
        let width = self.width();
        let rows = self.rows + codes.len() / width;
        grow(&mut self.heads, rows.div_ceil(LINE_ROWS));
        grow(&mut self.tails, rows * (width - PLANE_BYTES));
        self.heads.resize(rows.div_ceil(LINE_ROWS), Line::zeroed());
        let heads = bytemuck::cast_slice_mut::<Line, Plane>(&mut self.heads);
        for (row, head) in codes.chunks_exact(width).zip(&mut heads[self.rows..]) {
            let (first, tail) = row.split_at(PLANE_BYTES);
            head.copy_from_slice(first);
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

    fn filled(codes: &Codes) -> (Vec<u8>, Vec<u8>) {
        (codes.heads().as_flattened().to_vec(), codes.tails().to_vec())
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
        assert_eq!(filled(&whole), filled(&pieces));
        assert_eq!(whole.heads().len(), 103);
        assert_eq!(whole.heads()[102], bytes[102 * 48..][..16]);
        assert_eq!(whole.tails()[102 * 32..], bytes[102 * 48 + 16..]);
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
        assert!(growing.bytes() <= 2_000 * 64 * 9 / 8 + 64, "{}", growing.bytes());
    }

    #[test]
    fn heads_lie_on_cache_lines() {
        let mut codes = Codes::new(1);
        codes.append(&[0; 16 * 1000]);
        assert_eq!(codes.heads().as_ptr() as usize % 64, 0);
        assert!(codes.tails().is_empty());
    }
}
