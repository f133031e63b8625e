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
    /// Rows ever added, those of dropped segments too: the number that the next row gets.
    pub rows: usize,
    /// Rows of the segments that are there.
    pub held: usize,
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
        let state = State { dim, layout, segments: Vec::new(), rows: 0, held: 0, live: 0, list_rows: Vec::new() };
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
        state.held += keys.len();
        state.live += keys.len();
        Ok(first)
    }

    /// The keys of a segment's rows, as they were appended; none of a dropped one.
    pub fn keys(&self, segment: usize) -> Result<Vec<u64>> {
        let state = self.state.read();
        let found = state.segments.get(segment).ok_or_else(|| no_segment("keys", segment, state.segments.len()))?;
        Ok(found.keys.values()[..found.rows].to_vec())
    }

    /// No row will be added to a segment: take its keys from its file, put its codes in order of their lists, and compare
    /// its floats with their checksums (`crc32c_blocks`; none if empty) as they are read.
    pub fn seal(&self, segment: usize, keys_path: &Path, floats_crc: &[u8]) -> Result<()> {
        let mut state = self.state.write();
        let count = state.segments.len();
        let found = state.segments.get_mut(segment).ok_or_else(|| no_segment("seal", segment, count))?;
        found.seal(keys_path, floats_crc)?;
        state.count_lists();
        Ok(())
    }

    /// Let go of a segment's files and memory. Its rows keep their numbers and stay deleted for ever; they are not
    /// visited, and no row can be added to it. A segment that was dropped may be dropped again.
    ///
    /// `Error::Value` unless all its rows are deleted.
    pub fn drop_segment(&self, segment: usize) -> Result<()> {
        let mut state = self.state.write();
        let (count, layout) = (state.segments.len(), state.layout);
        let found = state.segments.get_mut(segment).ok_or_else(|| no_segment("drop", segment, count))?;
        if found.live() > 0 {
            let (live, rows) = (found.live(), found.rows);
            return Err(Error::value(format!("drop: {live} of the {rows} rows of segment {segment} are live")));
        }
        let gone = std::mem::replace(found, Segment::dropped(found.first, self.dim, layout));
        state.held -= gone.rows;
        state.count_lists();
        // Unmapping takes a while; searches need not wait for it.
        drop(state);
        drop(gone);
        Ok(())
    }

    /// Add a segment of so many rows as one that was dropped: they have numbers and nothing else. Returns its number.
    pub fn skip(&self, rows: usize) -> Result<usize> {
        let mut state = self.state.write();
        let room = MAX_ROWS - state.rows;
        if rows > room {
            return Err(Error::value(format!("skip: {rows} rows do not fit; the index has room for {room}")));
        }
        let segment = Segment::dropped(state.rows, self.dim, state.layout);
        state.segments.push(segment);
        state.rows += rows;
        Ok(state.segments.len() - 1)
    }

    /// Replace all codes, one array of whole rows per segment, of no rows for a dropped one; no planes and no arrays drop
    /// them.
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
            let message = "set_codes: a segment was sealed or dropped meanwhile; changes are made one after another";
            return Err(Error::value(message));
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

    /// Hide rows from every search; returns how many were live, which rows of dropped segments are not. Nothing is hidden
    /// if one is out of range.
    pub fn delete(&self, rows: &[i64]) -> Result<usize> {
        let mut state = self.state.write();
        check_rows("delete", rows, state.rows)?;
        let mut hidden = 0;
        for &row in rows {
            let (at, local) = state.locate(row as usize);
            let segment = &mut state.segments[at];
            hidden += usize::from(local < segment.rows && segment.deleted.set(local, segment.rows));
        }
        state.live -= hidden;
        Ok(hidden)
    }

    /// Float rows one after another, deleted ones too. `Error::Row` for rows that are not there, be it that their segment
    /// was dropped.
    pub fn gather(&self, rows: &[i64]) -> Result<Vec<f32>> {
        let state = self.state.read();
        check_rows("gather", rows, state.rows)?;
        let mut out = filled(0, 0.0, "rows")?;
        let len = rows.len().saturating_mul(self.dim);
        out.try_reserve_exact(len).map_err(|_| Error::Memory(format!("no memory for {} rows", rows.len())))?;
        for &row in rows {
            out.extend_from_slice(state.row(row as usize)?);
        }
        Ok(out)
    }
}

impl State {
    /// Number of its segment, and number in that, of a row that is in range. It is not there if the segment has fewer rows.
    #[inline]
    pub fn locate(&self, row: usize) -> (usize, usize) {
        // An empty segment starts where the next one does; the last that starts at or before the row holds it.
        let at = self.segments.partition_point(|segment| segment.first <= row) - 1;
        (at, row - self.segments[at].first)
    }

    /// Segment and number in it of a row that is in range; None for a row of a dropped segment.
    #[inline]
    pub fn find(&self, row: usize) -> Option<(&Segment, usize)> {
        let (at, local) = self.locate(row);
        let segment = &self.segments[at];
        (local < segment.rows).then_some((segment, local))
    }

    /// True unless a row that is in range has been deleted.
    pub fn is_live(&self, row: usize) -> bool {
        self.find(row).is_some_and(|(segment, local)| !segment.deleted.contains(local))
    }

    /// The floats of a row that is in range. `Error::Row` if its segment was dropped, `Error::Corrupt` if they are not what
    /// was sealed.
    pub fn row(&self, row: usize) -> Result<&[f32]> {
        match self.find(row) {
            Some((segment, local)) => segment.floats(local, local + 1),
            None => Err(Error::Row(format!("row {row} is gone: its segment {} was dropped", self.locate(row).0))),
        }
    }

    /// A range of the rows that are there, counted through all segments, as pieces of at most `step` rows, each within one
    /// segment and given by its numbers there.
    pub fn pieces(&self, range: Range<usize>, step: usize) -> impl Iterator<Item = (&Segment, Range<usize>)> {
        let mut passed = 0;
        self.segments.iter().flat_map(move |segment| {
            let from = range.start.saturating_sub(passed).min(segment.rows);
            let to = range.end.saturating_sub(passed).min(segment.rows).max(from);
            passed += segment.rows;
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

    /// Bytes of memory held by codes, bitmaps, checksums and unmapped keys, by capacity.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum()
    }
}

fn no_segment(what: &str, segment: usize, count: usize) -> Error {
    Error::value(format!("{what}: segment {segment} does not exist; there are {count}"))
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
