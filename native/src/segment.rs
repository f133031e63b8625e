//! One segment: its mapped floats, keys, deleted rows and codes.

use std::path::Path;

use crate::bitmap::Bitmap;
use crate::codes::{Codes, Layout};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::mapped::Mapped;

pub struct Segment {
    /// Number of its first row in the index.
    pub first: usize,
    pub rows: usize,
    pub capacity: usize,
    pub keys: Keys,
    pub deleted: Bitmap,
    pub codes: Codes,
    floats: Mapped<f32>,
    dim: usize,
}

impl Segment {
    /// Map the file of a segment of `capacity` rows of `dim` floats, none of which is readable yet.
    pub fn open(path: &Path, dim: usize, capacity: usize) -> Result<Self> {
        let len = capacity
            .checked_mul(dim)
            .ok_or_else(|| Error::value(format!("open_segment: {capacity} rows of {dim} floats are too many")))?;
        let floats = Mapped::open(path, len)?;
        let keys = Keys::Memory(Vec::new());
        let codes = Codes::new(Layout::default());
        Ok(Self { first: 0, rows: 0, capacity, keys, deleted: Bitmap::default(), codes, floats, dim })
    }

    /// Rows `from..to` of the segment, which must have been appended.
    #[inline]
    pub fn floats(&self, from: usize, to: usize) -> &[f32] {
        assert!(to <= self.rows, "rows are readable once appended");
        &self.floats.values()[from * self.dim..to * self.dim]
    }

    /// True once its keys are in a file: no row will be added.
    pub fn is_sealed(&self) -> bool {
        matches!(self.keys, Keys::Mapped(_))
    }

    /// Bytes of memory by capacity: codes, bitmap and unmapped keys.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.deleted.bytes() + self.keys.bytes()
    }
}
