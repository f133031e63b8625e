//! The code planes of a segment's rows in memory.
//!
//! The first plane is interleaved in blocks of 32 rows, byte by byte, for the table look-ups of the scan; the other
//! planes of a row lie together, so that scoring a survivor touches one or two cache lines. A segment that is loaded at
//! once is allocated to the byte; one that grows keeps at most an eighth in reserve. Rows of a sealed segment lie in
//! order of their lists, those of an open one as they came.

use crate::kernels::{BLOCK_ROWS, Block, PLANE_BYTES};
use crate::lists::Order;

/// How a row of codes comes from outside: its planes one after another, then, if there are lists, the number of its list
/// as a little-endian u16.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Layout {
    pub planes: usize,
    pub lists: usize,
}

impl Layout {
    /// Bits of one row.
    pub fn bits(self) -> usize {
        self.planes * PLANE_BYTES * 8
    }

    /// Bytes of one row.
    pub fn width(self) -> usize {
        self.planes * PLANE_BYTES + if self.lists > 0 { size_of::<u16>() } else { 0 }
    }

    /// The same, unless numbers overflow.
    pub fn checked_width(self) -> Option<usize> {
        self.planes
            .checked_mul(PLANE_BYTES)
            .and_then(|planes| planes.checked_add(size_of::<u16>()))
            .map(|_| self.width())
    }

    /// The list of one row, 0 where there are none.
    fn list(self, row: &[u8]) -> u16 {
        row[self.planes * PLANE_BYTES..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    /// The first row whose list does not exist, and that list.
    pub fn wrong_list(self, codes: &[u8]) -> Option<(usize, u16)> {
        if self.lists == 0 {
            return None;
        }
        let lists = codes.chunks_exact(self.width()).map(|row| self.list(row));
        lists.enumerate().find(|(_, list)| usize::from(*list) >= self.lists)
    }
}

pub struct Codes {
    layout: Layout,
    rows: usize,
    heads: Vec<Block>,
    tails: Vec<u8>,
    /// The list of each row, while the segment is open.
    lists: Vec<u16>,
    order: Option<Order>,
}

impl Codes {
    pub fn new(layout: Layout) -> Self {
        Self { layout, rows: 0, heads: Vec::new(), tails: Vec::new(), lists: Vec::new(), order: None }
    }

    /// The codes of a sealed segment, in order of their lists where that pays.
    pub fn sealed(layout: Layout, codes: &[u8]) -> Self {
        let mut sealed = Self::new(layout);
        if layout.planes == 0 {
            return sealed;
        }
        let width = layout.width();
        let rows = codes.chunks_exact(width);
        let planes = |row: usize| &codes[row * width..][..layout.planes * PLANE_BYTES];
        let order = Order::of(rows.clone().map(|row| layout.list(row)), layout.lists);
        match &order {
            None => sealed.push((0..rows.len()).map(planes)),
            Some(order) => sealed.push(order.rows().map(planes)),
        }
        sealed.order = order;
        sealed
    }

    /// Put the rows of a segment that has been sealed in order of their lists, where that pays.
    pub fn seal(&mut self) {
        let lists = std::mem::take(&mut self.lists);
        let Some(order) = Order::of(lists.into_iter(), self.layout.lists) else { return };
        let mut ordered = Self::new(self.layout);
        let mut code = vec![0; self.layout.planes * PLANE_BYTES];
        grow(&mut ordered.heads, self.heads.len());
        grow(&mut ordered.tails, self.tails.len());
        for row in order.rows() {
            self.copy_row(row, &mut code);
            ordered.push(std::iter::once(code.as_slice()));
        }
        ordered.order = Some(order);
        *self = ordered;
    }

    /// The first plane of the rows at all positions; the last block is filled up with zeros.
    pub fn heads(&self) -> &[Block] {
        &self.heads
    }

    /// The other planes, position after position.
    pub fn tails(&self) -> &[u8] {
        &self.tails
    }

    /// The order of a sealed segment's rows; None where positions are row numbers.
    pub fn order(&self) -> Option<&Order> {
        self.order.as_ref()
    }

    /// The row at a position.
    #[inline(always)]
    pub fn row(&self, position: usize) -> usize {
        match &self.order {
            None => position,
            Some(order) => order.row(position),
        }
    }

    pub fn bytes(&self) -> usize {
        let order = self.order.as_ref().map_or(0, Order::bytes);
        let lists = self.lists.capacity() * size_of::<u16>();
        self.heads.capacity() * size_of::<Block>() + self.tails.capacity() + lists + order
    }

    /// Add whole rows to an open segment.
    pub fn append(&mut self, codes: &[u8]) {
        if self.layout.planes == 0 {
            return;
        }
        let layout = self.layout;
        let rows = codes.chunks_exact(layout.width());
        self.push(rows.clone().map(|row| &row[..layout.planes * PLANE_BYTES]));
        if layout.lists > 0 {
            grow(&mut self.lists, self.rows);
            self.lists.extend(rows.map(|row| layout.list(row)));
        }
    }

    /// Add the planes of rows.
    fn push<'a>(&mut self, planes: impl ExactSizeIterator<Item = &'a [u8]>) {
        let rows = self.rows + planes.len();
        grow(&mut self.heads, rows.div_ceil(BLOCK_ROWS));
        grow(&mut self.tails, rows * (self.layout.planes - 1) * PLANE_BYTES);
        self.heads.resize(rows.div_ceil(BLOCK_ROWS), Block::ZERO);
        for (code, row) in planes.zip(self.rows..) {
            let (head, tail) = code.split_at(PLANE_BYTES);
            let block = &mut self.heads[row / BLOCK_ROWS];
            for (bytes, byte) in block.0.iter_mut().zip(head) {
                bytes[row % BLOCK_ROWS] = *byte;
            }
            self.tails.extend_from_slice(tail);
        }
        self.rows = rows;
    }

    /// The planes of the row at a position.
    fn copy_row(&self, position: usize, code: &mut [u8]) {
        let (head, tail) = code.split_at_mut(PLANE_BYTES);
        let block = &self.heads[position / BLOCK_ROWS];
        for (byte, bytes) in head.iter_mut().zip(&block.0) {
            *byte = bytes[position % BLOCK_ROWS];
        }
        tail.copy_from_slice(&self.tails[position * tail.len()..][..tail.len()]);
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

    const PLANES_3: Layout = Layout { planes: 3, lists: 0 };

    fn head(codes: &Codes, row: usize) -> Vec<u8> {
        codes.heads()[row / BLOCK_ROWS].0.iter().map(|bytes| bytes[row % BLOCK_ROWS]).collect()
    }

    #[test]
    fn appending_in_pieces_stores_what_appending_at_once_does() {
        let bytes: Vec<u8> = (0..103 * 48).map(|i| (i * 7 % 251) as u8).collect();
        let mut whole = Codes::new(PLANES_3);
        whole.append(&bytes);
        let mut pieces = Codes::new(PLANES_3);
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
        let mut whole = Codes::new(Layout { planes: 4, lists: 0 });
        whole.append(&vec![1; 100_000 * 64]);
        assert_eq!(whole.bytes(), 100_000 * 64);
        let mut growing = Codes::new(Layout { planes: 4, lists: 0 });
        for _ in 0..2_000 {
            growing.append(&[1; 64]);
        }
        assert!(growing.bytes() <= 2_000 * 64 * 9 / 8 + 1024, "{}", growing.bytes());
    }

    #[test]
    fn blocks_lie_on_cache_lines() {
        let mut codes = Codes::new(Layout { planes: 1, lists: 0 });
        codes.append(&[0; 16 * 1000]);
        assert_eq!(codes.heads().as_ptr() as usize % 64, 0);
        assert!(codes.tails().is_empty());
    }

    #[test]
    fn a_segment_that_is_sealed_is_the_one_that_is_loaded() {
        let layout = Layout { planes: 2, lists: 5 };
        let row = |i: usize| {
            let code = (0..32).map(|b| (i * 31 + b * 7) as u8);
            code.chain((i as u16 * 3 % 5).to_le_bytes()).collect::<Vec<u8>>()
        };
        let rows: Vec<u8> = (0..403).flat_map(row).collect();
        let mut grown = Codes::new(layout);
        rows.chunks(34 * 10).for_each(|piece| grown.append(piece));
        assert!(grown.order().is_none());
        grown.seal();
        let loaded = Codes::sealed(layout, &rows);
        for codes in [&grown, &loaded] {
            let order = codes.order().expect("lists of 80 rows");
            for list in 0..5 {
                for position in order.range(list) {
                    let expected = row(codes.row(position));
                    assert_eq!(
                        (head(codes, position), &codes.tails()[position * 16..][..16]),
                        (expected[..16].to_vec(), &expected[16..32])
                    );
                    assert_eq!(usize::from(u16::from_le_bytes([expected[32], expected[33]])), list);
                }
            }
        }
        assert_eq!(grown.bytes(), loaded.bytes());
    }

    #[test]
    fn a_list_that_does_not_exist_is_found() {
        let layout = Layout { planes: 1, lists: 3 };
        let rows: Vec<u8> =
            [0_u16, 2, 3, 1].iter().flat_map(|list| [[0; 16].as_slice(), &list.to_le_bytes()].concat()).collect();
        assert_eq!(layout.wrong_list(&rows), Some((2, 3)));
        assert_eq!(layout.wrong_list(&rows[..36]), None);
        assert_eq!(Layout { planes: 1, lists: 0 }.wrong_list(&[9; 16]), None);
    }
}
