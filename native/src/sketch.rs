//! A sketch of each row in a few bytes, from which an upper bound of the cosine of any two rows follows.
//!
//! A row is given as its coordinates in an orthonormal basis, most important first. The first of them are rounded to
//! bytes (the **head**), the next ones too (the **tail**); of what a head or tail leaves out, only the length is kept, in a
//! few bytes at its end, rounded up: by Cauchy and Schwarz the product of two lengths is at least what was left out. The
//! rounding itself is bounded the same way, by the length of each row's rounding error, its **slack**. So with s units
//! to one, `s² cosine <= sum of the products of all bytes + the slacks of both rows`, always.

use crate::error::{Error, Result};
use crate::kernels::{HEAD_BYTES, Left, Limits, PANEL_ROWS, Panel};

/// Bytes of a head that are lengths of what it leaves out; the others are coordinates.
const HEAD_LENGTHS: usize = 4;
const HEAD_DIMS: usize = HEAD_BYTES - HEAD_LENGTHS;

/// Bytes of a tail come in whole registers.
const TAIL_STEP: usize = 64;

/// More than what single precision can be wrong by, in rows of any length that there may be.
const PRECISION: f64 = 1e-5;

/// How far a squared norm may be from 1.
const NORM: f64 = 1e-3;

/// How much each bound of a row is too low by, in squared units.
#[derive(Clone, Copy)]
struct Slack {
    head: i32,
    whole: i32,
}

pub struct Sketch {
    scale: f64,
    tail_bytes: usize,
    rows: usize,
    heads: Vec<[i8; HEAD_BYTES]>,
    totals: Vec<i32>,
    panels: Vec<Panel>,
    tails: Vec<i8>,
    slacks: Vec<Slack>,
}

impl Sketch {
    /// An empty sketch. scale: units to one. tail_bytes: a multiple of 64, or none.
    pub fn new(scale: f64, tail_bytes: usize) -> Result<Self> {
        if !(scale.is_finite() && (1.0..=4096.0).contains(&scale)) {
            return Err(Error::value(format!("scale: expected 1 to 4096 units, got {scale}")));
        }
        if !tail_bytes.is_multiple_of(TAIL_STEP) || tail_bytes > 4096 {
            return Err(Error::value(format!("tail: expected 0, 64, 128, ... 4096 bytes, got {tail_bytes}")));
        }
        let (heads, totals, panels, tails, slacks) = Default::default();
        Ok(Self { scale, tail_bytes, rows: 0, heads, totals, panels, tails, slacks })
    }

    /// How many coordinates of a row are looked at: those of head and tail.
    pub fn coordinates(&self) -> usize {
        HEAD_DIMS + self.tail_bytes.saturating_sub(1)
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self) -> usize {
        let of_rows = size_of::<[i8; HEAD_BYTES]>() + size_of::<i32>() + size_of::<Slack>() + self.tail_bytes;
        self.heads.capacity() * of_rows + self.panels.capacity() * size_of::<Panel>()
    }

    /// Add rows: `width` coordinates of each, and the squares of their norms. `Error::Value` for rows that are not of unit
    /// norm or not finite; nothing is added then.
    pub fn append(&mut self, coordinates: &[f32], width: usize, squares: &[f32]) -> Result<()> {
        let most = self.coordinates();
        if width == 0 || width > most || coordinates.len() != width * squares.len() {
            let (values, rows) = (coordinates.len(), squares.len());
            return Err(Error::value(format!(
                "coordinates: expected {rows} rows of 1 to {most}, got {values} in rows of {width}"
            )));
        }
        for (at, (row, square)) in coordinates.chunks_exact(width).zip(squares).enumerate() {
            let is_unit = (f64::from(*square) - 1.0).abs() <= NORM;
            if !is_unit || !row.iter().all(|value| value.is_finite()) {
                return Err(Error::value(format!("row {at}: expected finite values of norm 1, got norm² {square}")));
            }
        }
        self.reserve(squares.len())?;
        for (row, square) in coordinates.chunks_exact(width).zip(squares) {
            self.push(row, f64::from(*square));
        }
        Ok(())
    }

    fn reserve(&mut self, more: usize) -> Result<()> {
        let rows = self.rows + more;
        u32::try_from(rows).map_err(|_| Error::value(format!("{rows} rows are too many for a sketch")))?;
        let none = |_| Error::Memory(format!("no memory for sketches of {rows} rows"));
        self.heads.try_reserve_exact(more).map_err(none)?;
        self.totals.try_reserve_exact(more).map_err(none)?;
        self.slacks.try_reserve_exact(more).map_err(none)?;
        self.tails.try_reserve_exact(more * self.tail_bytes).map_err(none)?;
        self.panels.try_reserve_exact(rows.div_ceil(PANEL_ROWS) - self.panels.len()).map_err(none)
    }

    fn push(&mut self, row: &[f32], square: f64) {
        let (head_row, tail_row) = row.split_at(row.len().min(HEAD_DIMS));
        let rest =
            (square - row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>()).max(0.0) + PRECISION.powi(2);
        let mut head = [0; HEAD_BYTES];
        let (coordinates, lengths) = head.split_at_mut(HEAD_DIMS);
        let mut error = self.round(head_row, coordinates);
        // The lengths of several stretches bound the product better than that of all.
        let stretch = tail_row.len().div_ceil(HEAD_LENGTHS).max(1);
        let mut excess = 0.0;
        for (at, length) in lengths.iter_mut().enumerate() {
            let (from, to) = (at * stretch, (at + 1) * stretch);
            let part = &tail_row[from.min(tail_row.len())..to.min(tail_row.len())];
            let left_out = if at + 1 == HEAD_LENGTHS { rest } else { 0.0 };
            let sum = part.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() + left_out;
            excess += self.round_up(sum.sqrt(), length);
        }
        let head_slack = self.slack(error, excess);
        let start = self.tails.len();
        self.tails.resize(start + self.tail_bytes, 0);
        let mut whole_slack = head_slack;
        if self.tail_bytes > 0 {
            let mut tail = std::mem::take(&mut self.tails);
            let (length, coordinates) = tail[start..].split_last_mut().expect("a tail has bytes");
            error += self.round(tail_row, coordinates);
            whole_slack = self.slack(error, self.round_up(rest.sqrt(), length));
            self.tails = tail;
        }
        if self.rows.is_multiple_of(PANEL_ROWS) {
            self.panels.push(Panel::ZERO);
        }
        if let Some(panel) = self.panels.last_mut() {
            panel.set(self.rows % PANEL_ROWS, &head);
        }
        self.totals.push(head.iter().map(|byte| i32::from(*byte)).sum());
        self.heads.push(head);
        self.slacks.push(Slack { head: head_slack, whole: whole_slack });
        self.rows += 1;
    }

    /// Round coordinates to bytes; returns the square of the error's length.
    fn round(&self, values: &[f32], bytes: &mut [i8]) -> f64 {
        let mut error = 0.0;
        for (value, byte) in values.iter().zip(bytes) {
            let value = f64::from(*value);
            *byte = (value * self.scale).round().clamp(-127.0, 127.0) as i8;
            error += (value - f64::from(*byte) / self.scale).powi(2);
        }
        error
    }

    /// A length that is at least what it was, or as long as a byte can say; returns what that is too short by.
    fn round_up(&self, length: f64, byte: &mut i8) -> f64 {
        *byte = (length * self.scale).ceil().min(127.0) as i8;
        (length - f64::from(*byte) / self.scale).max(0.0)
    }

    /// What to add for a row: with errors of lengths e and f of two vectors of at most unit length, the product of the
    /// rounded ones is at most e + f + 3 e f off, and 2 e f <= e² + f².
    fn slack(&self, error: f64, excess: f64) -> i32 {
        let length = error.sqrt();
        let of_row = length + 1.5 * error + excess + PRECISION;
        (of_row * self.scale * self.scale).ceil() as i32 + 1
    }

    /// The row as it meets panels: what its sums start with is its own slack.
    pub fn left(&self, row: usize) -> Left<'_> {
        Left { bytes: &self.heads[row], total: self.totals[row], start: self.slacks[row].head }
    }

    pub fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// What the sum of a row on the left, slack included, has to reach with each row of these panels for a cosine of
    /// `least` to be possible. Rows that are not there reach nothing.
    pub fn limits(&self, least: f64) -> Vec<Limits> {
        let least = self.units(least);
        let mut limits = vec![[i32::MAX; PANEL_ROWS]; self.panels.len()];
        for (limit, slack) in limits.as_flattened_mut().iter_mut().zip(&self.slacks) {
            *limit = least - slack.head;
        }
        limits
    }

    fn units(&self, score: f64) -> i32 {
        (score * self.scale * self.scale).floor() as i32 - 1
    }

    /// Whether two rows whose heads have that sum, slack of the left one included, can have a cosine of `least`.
    pub fn is_possible(&self, row: usize, other: &Sketch, other_row: usize, sum: i32, least: f64) -> bool {
        if self.tail_bytes == 0 {
            return true;
        }
        let (mine, its) = (&self.heads[row], &other.heads[other_row]);
        let lengths = products(&mine[HEAD_DIMS..], &its[HEAD_DIMS..]);
        let tails = products(self.tail(row), other.tail(other_row));
        let slack = self.slacks[row].whole - self.slacks[row].head + other.slacks[other_row].whole;
        sum - lengths + tails + slack >= self.units(least)
    }

    fn tail(&self, row: usize) -> &[i8] {
        &self.tails[row * self.tail_bytes..][..self.tail_bytes]
    }

    /// `Error::Value` unless bounds between the rows of both mean something.
    pub fn check_alike(&self, other: &Sketch) -> Result<()> {
        if (self.scale, self.tail_bytes) == (other.scale, other.tail_bytes) {
            return Ok(());
        }
        Err(Error::value(format!(
            "sketches: expected one scale and tail, got ({}, {}) and ({}, {})",
            self.scale, self.tail_bytes, other.scale, other.tail_bytes
        )))
    }
}

fn products(left: &[i8], right: &[i8]) -> i32 {
    left.iter().zip(right).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
