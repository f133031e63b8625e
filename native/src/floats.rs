//! The float rows of a segment: mapped, and compared with their checksums, block by block, before they are read.
//!
//! An open segment has no checksums: its rows were written by this process or were named by the database after a sync. A
//! block is compared the first time that any of it is read, so that opening a shard reads no floats.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::checksums::Checksums;
use crate::error::{Error, Result};
use crate::kernels;
use crate::mapped::Mapped;

pub struct Floats {
    values: Mapped<f32>,
    path: PathBuf,
    checksums: Option<Checksums>,
}

impl Floats {
    /// Map the first `len` values of a file.
    pub fn open(path: &Path, len: usize) -> Result<Self> {
        Ok(Self { values: Mapped::open(path, len)?, path: path.into(), checksums: None })
    }

    /// No values, of no file.
    pub fn none() -> Self {
        Self { values: Mapped::none(), path: PathBuf::new(), checksums: None }
    }

    /// Values, all of which are as they were sealed: `Error::Corrupt` if they are not.
    #[inline]
    pub fn read(&self, range: Range<usize>) -> Result<&[f32]> {
        let values = self.values.values();
        let found = &values[range.clone()];
        if let Some(checksums) = &self.checksums {
            let bytes = range.start * size_of::<f32>()..range.end * size_of::<f32>();
            let compared = checksums.check(bytemuck::cast_slice(values), bytes);
            compared.map_err(|offset| Error::Corrupt { path: self.path.clone(), offset })?;
        }
        Ok(found)
    }

    /// Ask for values ahead of their use. Nothing is read, so nothing is compared.
    #[inline]
    pub fn fetch(&self, range: Range<usize>) {
        kernels::fetch(bytemuck::cast_slice(&self.values.values()[range]));
    }

    /// Have the kernel begin to read the block that a value is in, if it has never been compared and so may be on the disk
    /// only: many blocks are then under way at once, where reading them would wait for one after another.
    #[inline]
    pub fn summon(&self, value: usize) {
        if let Some(block) = self.checksums.as_ref().and_then(|sums| sums.uncompared(value * size_of::<f32>())) {
            self.values.summon(block);
        }
    }

    /// From now on compare what is read.
    pub fn seal(&mut self, checksums: Option<Checksums>) {
        self.checksums = checksums;
    }

    /// Bytes of memory by capacity; the values are the page cache's.
    pub fn bytes(&self) -> usize {
        self.checksums.as_ref().map_or(0, Checksums::bytes)
    }
}
