//! What can go wrong below Python; `python.rs` turns each kind into one exception class.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

/// An error with the message that the caller will read: what was expected, what came, where.
#[derive(Debug)]
pub enum Error {
    /// A value, shape or state is at fault (ValueError).
    Value(String),
    /// A row number is out of range (IndexError).
    Row(String),
    /// The operating system refused, or a file is too short (OSError).
    Io(io::Error),
    /// There is no memory for the result (MemoryError).
    Memory(String),
    /// A block of a sealed file is not what was sealed (CorruptBlock).
    Corrupt { path: PathBuf, offset: u64 },
}

impl Error {
    pub fn value(message: impl Into<String>) -> Self {
        Self::Value(message.into())
    }

    /// An I/O error that names the file and what was being done to it.
    pub fn io(action: &str, path: &Path, cause: &io::Error) -> Self {
        Self::Io(io::Error::new(cause.kind(), format!("cannot {action} {}: {cause}", path.display())))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(message) | Self::Row(message) | Self::Memory(message) => f.write_str(message),
            Self::Io(cause) => cause.fmt(f),
            Self::Corrupt { path, offset } => {
                write!(f, "{}: wrong CRC32C in the block at byte {offset}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {}

/// A vector of `len` copies of `fill`, or `Error::Memory` where the allocator refuses.
pub fn filled<T: Clone>(len: usize, fill: T, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::Memory(format!("no memory for {what} of {len} values")))?;
    values.resize(len, fill);
    Ok(values)
}
