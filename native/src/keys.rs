//! The tie keys of a segment's rows, in memory while it grows, mapped from its file once it is sealed.

use std::path::Path;

use crate::codes::grow;
use crate::error::{Error, Result};
use crate::mapped::Mapped;

pub enum Keys {
    Memory(Vec<u64>),
    Mapped(Mapped<u64>),
}

impl Keys {
    /// Those of a segment that was dropped.
    pub fn none() -> Self {
        Self::Mapped(Mapped::none())
    }

    #[inline]
    pub fn get(&self, row: usize) -> u64 {
        match self {
            Self::Memory(keys) => keys[row],
            Self::Mapped(keys) => keys.values()[row],
        }
    }

    pub fn values(&self) -> &[u64] {
        match self {
            Self::Memory(keys) => keys,
            Self::Mapped(keys) => keys.values(),
        }
    }

    /// Bytes in memory; mapped keys are the page cache's.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Memory(keys) => keys.capacity() * size_of::<u64>(),
            Self::Mapped(_) => 0,
        }
    }

    pub fn append(&mut self, more: &[u64]) -> Result<()> {
        match self {
            Self::Memory(keys) => {
                grow(keys, keys.len() + more.len());
                keys.extend_from_slice(more);
                Ok(())
            }
            Self::Mapped(_) => Err(Error::value("append: the last segment's keys are mapped, so it is sealed")),
        }
    }

    /// Replace the keys in memory by a file of the same ones. `Error::Value` if the file holds others.
    pub fn map(&mut self, path: &Path) -> Result<()> {
        let Self::Memory(keys) = self else {
            return Err(Error::value("seal: the segment is sealed already"));
        };
        let mapped = Mapped::open_equal(path, keys)?;
        let differ = || Error::value(format!("seal: {} does not hold the keys that were appended", path.display()));
        *self = Self::Mapped(mapped.ok_or_else(differ)?);
        Ok(())
    }
}
