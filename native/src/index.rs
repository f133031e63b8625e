//! The rows of one shard behind a lock: searches read, changes write.

use std::ops::Range;
use std::path::Path;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::codes::Codes;
use crate::error::{Error, Result, filled};
use crate::kernels::PLANE_BYTES;
use crate::segment::Segment;

/// The most rows of one index: a row number is half of a 64-bit word in the scans.
const MAX_ROWS: usize = u32::MAX as usize;

/// The rows of one shard; safe to search while another thread changes it.
pub struct Index {
    dim: usize,
    state: RwLock<State>,
}

/// What the lock protects.
pub struct State {
    pub dim: usize,
    pub planes: usize,
    pub segments: Vec<Segment>,
    pub rows: usize,
    pub live: usize,
}

impl Index {
    pub fn new(dim: usize) -> Result<Self> {
        if dim == 0 || dim > MAX_ROWS {
            return Err(Error::value(format!("dim: expected 1 to {MAX_ROWS}, got {dim}")));
        }
        let state = State { dim, planes: 0, segments: Vec::new(), rows: 0, live: 0 };
        Ok(Self { dim, state: RwLock::new(state) })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A consistent view; changes wait until it is dropped.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Map a new last segment of `capacity` rows; returns its number.
    pub fn open_segment(&self, path: &Path, capacity: usize) -> Result<usize> {
        let mut segment = Segment::open(path, self.dim, capacity, 0, 0)?;
        let mut state = self.state.write();
        segment.first = state.rows;
        segment.codes = Codes::new(state.planes);
        state.segments.push(segment);
        Ok(state.segments.len() - 1)
    }

    /// Make the next rows of the last segment searchable; returns the first one's number.
    pub fn append(&self, keys: &[u64], codes: Option<&[u8]>) -> Result<usize> {
        let mut state = self.state.write();
        let first = state.rows;
        check_codes("append: codes", codes, keys.len(), state.planes)?;
        let Some(segment) = state.segments.last_mut() else {
            return Err(Error::value("append: there is no segment; call open_segment first"));
        };
        let room = (segment.capacity - segment.rows).min(MAX_ROWS - first);
        if keys.len() > room {
            let message = format!("append: {} rows do not fit; the last segment has room for {room}", keys.len());
            return Err(Error::value(message));
        }
        segment.keys.append(keys)?;
        segment.codes.append(codes.unwrap_or(&[]));
        segment.rows += keys.len();
        state.rows += keys.len();
        state.live += keys.len();
        Ok(first)
    }

    /// The keys of a segment's rows, as they were appended.
    pub fn keys(&self, segment: usize) -> Result<Vec<u64>> {
        let state = self.state.read();
        match state.segments.get(segment) {
            Some(found) => Ok(found.keys.values()[..found.rows].to_vec()),
            None => {
                Err(Error::value(format!("keys: segment {segment} does not exist; there are {}", state.segments.len())))
            }
        }
    }

    /// Take a segment's keys from its file from now on.
    pub fn map_keys(&self, segment: usize, path: &Path) -> Result<()> {
        let mut state = self.state.write();
        let count = state.segments.len();
        let Some(segment) = state.segments.get_mut(segment) else {
            return Err(Error::value(format!("map_keys: segment {segment} does not exist; there are {count}")));
        };
        segment.keys.map(path)
    }

    /// Replace all codes, one array of whole rows per segment; no planes and no arrays drop them.
    pub fn set_codes(&self, planes: usize, codes: &[&[u8]]) -> Result<()> {
        let width = planes.checked_mul(PLANE_BYTES).filter(|_| planes <= 1 << 16);
        let width = width.ok_or_else(|| Error::value(format!("set_codes: {planes} planes are too many")))?;
        if planes == 0 {
            return self.drop_codes(codes.len());
        }
        // Copied before the lock is taken, so that searches go on meanwhile.
        let mut fresh: Vec<Codes> = codes
            .iter()
            .map(|rows| {
                let mut codes = Codes::new(planes);
                codes.append(rows);
                codes
            })
            .collect();
        let mut state = self.state.write();
        let expected: Vec<usize> = state.segments.iter().map(|segment| segment.rows * width).collect();
        let got: Vec<usize> = codes.iter().map(|rows| rows.len()).collect();
        if expected != got {
            let message = format!("set_codes: expected one array per segment of {expected:?} bytes, got {got:?}");
            return Err(Error::value(message));
        }
        state.planes = planes;
        for (segment, fresh) in state.segments.iter_mut().zip(&mut fresh) {
            std::mem::swap(&mut segment.codes, fresh);
        }
        drop(state);
        drop(fresh);
        Ok(())
    }

    fn drop_codes(&self, arrays: usize) -> Result<()> {
        if arrays != 0 {
            return Err(Error::value(format!("set_codes: 0 planes take no arrays, got {arrays}")));
        }
        let mut state = self.state.write();
        state.planes = 0;
        for segment in &mut state.segments {
            segment.codes = Codes::new(0);
        }
        Ok(())
    }

    /// Hide rows from every search; returns how many were live. Nothing is hidden if one is out of range.
    pub fn delete(&self, rows: &[i64]) -> Result<usize> {
        let mut state = self.state.write();
        check_rows("delete", rows, state.rows)?;
        let mut hidden = 0;
        for &row in rows {
            let (at, local) = state.locate(row as usize);
            let segment = &mut state.segments[at];
            hidden += usize::from(segment.deleted.set(local, segment.rows));
        }
        state.live -= hidden;
        Ok(hidden)
    }

    /// Float rows one after another, deleted ones too.
    pub fn gather(&self, rows: &[i64]) -> Result<Vec<f32>> {
        let state = self.state.read();
        check_rows("gather", rows, state.rows)?;
        let mut out = filled(0, 0.0, "rows")?;
        let len = rows.len().saturating_mul(self.dim);
        out.try_reserve_exact(len).map_err(|_| Error::Memory(format!("no memory for {} rows", rows.len())))?;
        for &row in rows {
            out.extend_from_slice(state.row(row as usize));
        }
        Ok(out)
    }
}

impl State {
    /// Segment and number in it of a row that is in range.
    #[inline]
    pub fn locate(&self, row: usize) -> (usize, usize) {
        // An empty segment starts where the next one does; the last that starts at or before the row holds it.
        let at = self.segments.partition_point(|segment| segment.first <= row) - 1;
        (at, row - self.segments[at].first)
    }

    /// The floats of a row that is in range.
    #[inline]
    pub fn row(&self, row: usize) -> &[f32] {
        let (at, local) = self.locate(row);
        self.segments[at].floats(local, local + 1)
    }

    /// The range of rows as pieces of at most `step` rows, each within one segment and given by its numbers there.
    pub fn pieces(&self, range: Range<usize>, step: usize) -> impl Iterator<Item = (&Segment, Range<usize>)> {
        self.segments.iter().flat_map(move |segment| {
            let from = range.start.saturating_sub(segment.first).min(segment.rows);
            let to = range.end.saturating_sub(segment.first).min(segment.rows).max(from);
            (from..to).step_by(step).map(move |start| (segment, start..(start + step).min(to)))
        })
    }

    /// Bytes of memory held by codes, bitmaps and unmapped keys, by capacity.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum()
    }
}

fn check_codes(what: &str, codes: Option<&[u8]>, rows: usize, planes: usize) -> Result<()> {
    match codes {
        None if planes == 0 => Ok(()),
        None => Err(Error::value(format!("{what}: expected ({rows}, {}) uint8, got None", planes * PLANE_BYTES))),
        Some(_) if planes == 0 => Err(Error::value(format!("{what}: expected None, the index has no planes"))),
        Some(codes) if codes.len() == rows * planes * PLANE_BYTES => Ok(()),
        Some(codes) => Err(Error::value(format!(
            "{what}: expected ({rows}, {}) uint8, got {} bytes",
            planes * PLANE_BYTES,
            codes.len()
        ))),
    }
}

fn check_rows(what: &str, rows: &[i64], count: usize) -> Result<()> {
    match rows.iter().enumerate().find(|(_, row)| usize::try_from(**row).map_or(true, |row| row >= count)) {
        None => Ok(()),
        Some((at, row)) => Err(Error::Row(format!("{what}: rows[{at}] is {row}, but the index has {count} rows"))),
    }
}
