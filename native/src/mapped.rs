//! Read-only maps of the shard's files.
//!
//! A file may be sparse and longer than what has been written; another handle appends to it with plain writes, which a
//! shared map sees. Whoever reads must keep to the elements that are known to be written. A file that is truncated while
//! it is mapped ends the process with SIGBUS: nothing in a shard truncates files, it writes new ones.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use bytemuck::AnyBitPattern;
use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file of little-endian values of type T, mapped. Empty files take no map.
pub struct Mapped<T> {
    map: Option<Mmap>,
    values: PhantomData<T>,
}

impl<T: AnyBitPattern> Mapped<T> {
    /// No values, of no file.
    pub fn none() -> Self {
        Self { map: None, values: PhantomData }
    }

    /// Map the first `len` values of the file. `Error::Io` if it is shorter or cannot be opened or mapped.
    pub fn open(path: &Path, len: usize) -> Result<Self> {
        let file = File::open(path).map_err(|cause| Error::io("open", path, &cause))?;
        Self::map(&file, path, len)
    }

    /// Map a file of whose values `expected` must be the first; they are read, not paged in, to compare.
    pub fn open_equal(path: &Path, expected: &[T]) -> Result<Option<Self>>
    where
        T: bytemuck::NoUninit,
    {
        let file = File::open(path).map_err(|cause| Error::io("open", path, &cause))?;
        let mapped = Self::map(&file, path, expected.len())?;
        let is_same = starts_with(&file, bytemuck::cast_slice(expected));
        Ok(is_same.map_err(|cause| Error::io("read", path, &cause))?.then_some(mapped))
    }

    fn map(file: &File, path: &Path, len: usize) -> Result<Self> {
        let needed = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::value(format!("{}: {len} values are too many to map", path.display())))?;
        let found = file.metadata().map_err(|cause| Error::io("inspect", path, &cause))?.len();
        if found < needed as u64 {
            let cause = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("expected at least {needed} bytes, the file has {found}"),
            );
            return Err(Error::io("map", path, &cause));
        }
        if needed == 0 {
            return Ok(Self::none());
        }
        // SAFETY: the map is read-only; bytes that `values` gives out are written before and never changed (module doc).
        let map = unsafe { memmap2::MmapOptions::new().len(needed).map(file) };
        let map = map.map_err(|cause| Error::io("map", path, &cause))?;
        Ok(Self { map: Some(map), values: PhantomData })
    }

    /// Have the kernel begin to read a range of bytes. It is advice: where it is not taken, reading waits.
    pub fn summon(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise_range(memmap2::Advice::WillNeed, bytes.start, bytes.len());
        }
    }

    /// All values; a map starts on a page, so they are aligned.
    pub fn values(&self) -> &[T] {
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }
}

fn starts_with(file: &File, mut expected: &[u8]) -> io::Result<bool> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut chunk = [0; 1 << 13];
    while !expected.is_empty() {
        let chunk = &mut chunk[..expected.len().min(1 << 13)];
        reader.read_exact(chunk)?;
        let (head, rest) = expected.split_at(chunk.len());
        if chunk != head {
            return Ok(false);
        }
        expected = rest;
    }
    Ok(true)
}
