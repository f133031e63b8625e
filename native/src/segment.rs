//! One segment: its mapped floats, keys, deleted rows and codes.

use std::path::Path;

use crate::bitmap::Bitmap;
use crate::checksums::Checksums;
use crate::codes::{Codes, Layout};
use crate::error::{Error, Result};
use crate::floats::Floats;
use crate::keys::Keys;

pub struct Segment {
    /// Number of its first row in the index.
    pub first: usize,
    /// Rows that are there. One that was dropped has none, although its numbers stay used.
    pub rows: usize,
    pub capacity: usize,
    pub keys: Keys,
    pub deleted: Bitmap,
    pub codes: Codes,
    floats: Floats,
    dim: usize,
}

impl Segment {
    /// Map the file of a segment of `capacity` rows of `dim` floats, none of which is readable yet.
    pub fn open(path: &Path, dim: usize, capacity: usize) -> Result<Self> {
        let len = capacity
            .checked_mul(dim)
            .ok_or_else(|| Error::value(format!("open_segment: {capacity} rows of {dim} floats are too many")))?;
        let floats = Floats::open(path, len)?;
        let keys = Keys::Memory(Vec::new());
        let codes = Codes::new(Layout::default());
        Ok(Self { first: 0, rows: 0, capacity, keys, deleted: Bitmap::default(), codes, floats, dim })
    }

    /// What is left of a segment that was dropped: the number of its first row. It is sealed.
    pub fn dropped(first: usize, dim: usize, layout: Layout) -> Self {
        let (floats, keys, codes) = (Floats::none(), Keys::none(), Codes::new(layout));
        Self { first, rows: 0, capacity: 0, keys, deleted: Bitmap::default(), codes, floats, dim }
    }

    /// Rows `from..to` of the segment, which must have been appended. `Error::Corrupt` if they are not what was sealed.
    #[inline]
    pub fn floats(&self, from: usize, to: usize) -> Result<&[f32]> {
        assert!(to <= self.rows, "rows are readable once appended");
        self.floats.read(from * self.dim..to * self.dim)
    }

    /// Ask for a row ahead of its use.
    #[inline]
    pub fn fetch(&self, row: usize) {
        self.floats.fetch(row * self.dim..(row + 1) * self.dim);
    }

    /// Have the floats of a row read from the disk, if they may not have been; see `Floats::summon`.
    #[inline]
    pub fn summon(&self, row: usize) {
        self.floats.summon(row * self.dim);
    }

    /// No row will be added: take the keys from their file, compare floats with their checksums (see `crc32c_blocks`; none
    /// if empty) and put codes in order of their lists. Nothing is changed on an error.
    pub fn seal(&mut self, keys_path: &Path, floats_crc: &[u8]) -> Result<()> {
        let bytes = self.rows * self.dim * size_of::<f32>();
        let checksums = (!floats_crc.is_empty()).then(|| Checksums::new(floats_crc, bytes)).transpose();
        let checksums = checksums.map_err(|cause| Error::value(format!("seal: floats_crc: {cause}")))?;
        self.keys.map(keys_path)?;
        self.floats.seal(checksums);
        self.codes.seal();
        Ok(())
    }

    /// True once its keys are in a file: no row will be added.
    pub fn is_sealed(&self) -> bool {
        matches!(self.keys, Keys::Mapped(_))
    }

    /// Rows that have not been deleted.
    pub fn live(&self) -> usize {
        self.rows - self.deleted.count()
    }

    /// Bytes of memory by capacity: codes, bitmap, checksums and unmapped keys.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.deleted.bytes() + self.keys.bytes() + self.floats.bytes()
    }
}
