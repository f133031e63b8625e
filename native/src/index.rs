//! The rows of one shard behind a lock: searches read, changes write.

use std::ops::Range;
use std::path::Path;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::codes::{Codes, Layout};
use crate::error::{Error, Result, filled};
use crate::segment::Segment;

/// The most rows of one index: a row number is half of a 64-bit word in the scans.
const MAX_ROWS: usize = u32::MAX as usize;

const MAX_PLANES: usize = 1 << 16;

/// The number of a list is a `u16`.
const MAX_LISTS: usize = 1 << 16;

/// The rows of one shard; safe to search while another thread changes it.
pub struct Index {
    dim: usize,
    state: RwLock<State>,
}

/// What the lock protects.
pub struct State {
    pub dim: usize,
    pub layout: Layout,
    pub segments: Vec<Segment>,
    pub rows: usize,
    pub live: usize,
    /// Rows of each list, over all segments that are in order of their lists.
    pub list_rows: Vec<u32>,
}

impl Index {
    pub fn new(dim: usize) -> Result<Self> {
        if dim == 0 || dim > MAX_ROWS {
            return Err(Error::value(format!("dim: expected 1 to {MAX_ROWS}, got {dim}")));
        }
        let layout = Layout::default();
        let state = State { dim, layout, segments: Vec::new(), rows: 0, live: 0, list_rows: Vec::new() };
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
        let mut segment = Segment::open(path, self.dim, capacity)?;
        let mut state = self.state.write();
        segment.first = state.rows;
        segment.codes = Codes::new(state.layout);
        state.segments.push(segment);
        Ok(state.segments.len() - 1)
    }

    /// Make the next rows of the last segment searchable; returns the first one's number.
    pub fn append(&self, keys: &[u64], codes: Option<&[u8]>) -> Result<usize> {
        let mut state = self.state.write();
        let first = state.rows;
        check_codes(codes, keys.len(), state.layout)?;
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

    /// No row will be added to a segment: take its keys from its file, and put its codes in order of their lists.
    pub fn seal(&self, segment: usize, keys_path: &Path) -> Result<()> {
        let mut state = self.state.write();
        let count = state.segments.len();
        let Some(segment) = state.segments.get_mut(segment) else {
            return Err(Error::value(format!("seal: segment {segment} does not exist; there are {count}")));
        };
        segment.keys.map(keys_path)?;
        segment.codes.seal();
        state.count_lists();
        Ok(())
    }

    /// Replace all codes, one array of whole rows per segment; no planes and no arrays drop them.
    pub fn set_codes(&self, layout: Layout, codes: &[&[u8]]) -> Result<()> {
        if layout.planes > MAX_PLANES || layout.lists > MAX_LISTS {
            let Layout { planes, lists } = layout;
            let message = format!("set_codes: {planes} planes and {lists} lists; at most {MAX_PLANES} and {MAX_LISTS}");
            return Err(Error::value(message));
        }
        if layout.planes == 0 && (layout.lists, codes.len()) != (0, 0) {
            let message =
                format!("set_codes: 0 planes take no lists and no arrays, got {} and {}", layout.lists, codes.len());
            return Err(Error::value(message));
        }
        codes.iter().try_for_each(|rows| check_lists("set_codes", rows, layout))?;
        // Filled before the lock is taken to write, so that searches go on meanwhile.
        let is_sealed: Vec<bool> = self.read().segments.iter().map(Segment::is_sealed).collect();
        let filled = codes.iter().zip(&is_sealed).map(|(rows, is_sealed)| {
            if *is_sealed {
                return Codes::sealed(layout, rows);
            }
            let mut open = Codes::new(layout);
            open.append(rows);
            open
        });
        let mut fresh: Vec<Codes> = filled.collect();
        let mut state = self.state.write();
        let expected: Vec<usize> = match layout.planes {
            0 => Vec::new(),
            _ => state.segments.iter().map(|segment| segment.rows * layout.width()).collect(),
        };
        let got: Vec<usize> = codes.iter().map(|rows| rows.len()).collect();
        if expected != got {
            let message = format!("set_codes: expected one array per segment of {expected:?} bytes, got {got:?}");
            return Err(Error::value(message));
        }
        if layout.planes > 0 && !state.segments.iter().map(Segment::is_sealed).eq(is_sealed) {
            return Err(Error::value("set_codes: a segment was sealed meanwhile; changes are made one after another"));
        }
        fresh.resize_with(state.segments.len(), || Codes::new(layout));
        state.layout = layout;
        for (segment, fresh) in state.segments.iter_mut().zip(&mut fresh) {
            std::mem::swap(&mut segment.codes, fresh);
        }
        state.count_lists();
        drop(state);
        drop(fresh);
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

    /// True unless a row that is in range has been deleted.
    pub fn is_live(&self, row: usize) -> bool {
        let (at, local) = self.locate(row);
        !self.segments[at].deleted.contains(local)
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

    fn count_lists(&mut self) {
        self.list_rows = vec![0; self.layout.lists];
        for order in self.segments.iter().filter_map(|segment| segment.codes.order()) {
            for (list, rows) in self.list_rows.iter_mut().enumerate() {
                *rows += order.range(list).len() as u32;
            }
        }
    }

    /// Bytes of memory held by codes, bitmaps and unmapped keys, by capacity.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum()
    }
}

fn check_codes(codes: Option<&[u8]>, rows: usize, layout: Layout) -> Result<()> {
    let width = layout.width();
    match codes {
        None if layout.planes == 0 => Ok(()),
        None => Err(Error::value(format!("append: codes: expected ({rows}, {width}) uint8, got None"))),
        Some(_) if layout.planes == 0 => Err(Error::value("append: codes: expected None, the index has no planes")),
        Some(codes) if codes.len() == rows * width => check_lists("append", codes, layout),
        Some(codes) => {
            Err(Error::value(format!("append: codes: expected ({rows}, {width}) uint8, got {} bytes", codes.len())))
        }
    }
}

fn check_lists(what: &str, codes: &[u8], layout: Layout) -> Result<()> {
    match layout.wrong_list(codes) {
        None => Ok(()),
        Some((row, list)) => {
            let message = format!("{what}: codes: row {row} is of list {list}, but there are {} lists", layout.lists);
            Err(Error::value(message))
        }
    }
}

fn check_rows(what: &str, rows: &[i64], count: usize) -> Result<()> {
    match rows.iter().enumerate().find(|(_, row)| usize::try_from(**row).map_or(true, |row| row >= count)) {
        None => Ok(()),
        Some((at, row)) => Err(Error::Row(format!("{what}: rows[{at}] is {row}, but the index has {count} rows"))),
    }
}
