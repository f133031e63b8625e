//! Face search in one process, below the Python package `shard`.
//!
//! Owns the rows of a shard in memory and on mapped pages: code planes, tie keys, deleted bitmaps, float rows; and what
//! runs over them: SIMD kernels, the cascade, the exact scan, the rerank. Floats of sealed files are compared with their
//! checksums before they are read. It knows nothing of identities, metadata, durability or the network, and it writes no
//! file.
//!
//! `unsafe` is allowed in `kernels` and `mapped` only; `pyo3` is used in `python` only.
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("the files of a shard are little-endian and are mapped as they are");

mod bitmap;
mod cascade;
mod checksums;
mod codes;
mod error;
mod exact;
mod floats;
mod hamming;
mod index;
pub mod kernels;
mod keys;
mod lists;
mod mapped;
mod pairs;
mod projection;
#[cfg(feature = "python")]
mod python;
mod query;
mod search;
mod segment;
mod select;
mod sketch;
mod topk;
mod visits;

pub use checksums::{CHECKSUM_BLOCK, checksum_block, crc32c_blocks};
pub use codes::Layout;
pub use error::{Error, Result};
pub use hamming::hamming;
pub use index::Index;
pub use pairs::{Pair, Rows, Side, Visits, pairs, possible};
pub use projection::{Lines, Projected, Projection};
pub use query::BOUND_VALUES;
pub use search::{Cascade, Found, Stage, Wanted, search};
pub use sketch::{Sketch, Widths};
pub use topk::Candidate;
