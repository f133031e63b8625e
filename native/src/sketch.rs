//! A sketch of each row in a few bytes, from which an upper bound of the cosine of any two rows follows.
//!
//! A row is given as its coordinates in an orthonormal basis, most important first. The first of them are rounded to
//! bytes (the **head**), the next ones too (the **tail**); of what a head or tail leaves out, only the length is kept, in a
//! few bytes at its end, rounded up: by Cauchy and Schwarz the product of two lengths is at least what was left out. The
//! rounding itself is bounded the same way, by the length of each row's rounding error, its **slack**. So with s units
//! to one, `s² cosine <= sum of the products of all bytes + the slacks of both rows`, always.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernels::{self, Kernel, Left, Limits, PANEL_ROWS, Quad};

/// Bytes of a head that are lengths of what it leaves out; the others are coordinates.
const HEAD_LENGTHS: usize = 4;

/// Heads and tails come in whole registers.
const STEP: usize = 64;
const MOST_BYTES: usize = 2048;

/// Bytes of a row's head and tail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Widths {
    pub head: usize,
    pub tail: usize,
}

impl Widths {
    /// Coordinates in a head.
    fn head_coordinates(self) -> usize {
        self.head - HEAD_LENGTHS
    }

    /// Coordinates in both.
    pub fn coordinates(self) -> usize {
        self.head_coordinates() + self.tail.saturating_sub(1)
    }
}

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
    widths: Widths,
    rows: usize,
    heads: Vec<[i8; 4]>,
    totals: Vec<i32>,
    tails: Vec<i8>,
    slacks: Vec<Slack>,
}

impl Sketch {
    /// An empty sketch. scale: units to one. `Error::Value` unless the head has 64, 128, ... and the tail 0, 64, ... bytes.
    pub fn new(scale: f64, widths: Widths) -> Result<Self> {
        if !(scale.is_finite() && (1.0..=4096.0).contains(&scale)) {
            return Err(Error::value(format!("scale: expected 1 to 4096 units, got {scale}")));
        }
        let Widths { head, tail } = widths;
        if head == 0 || [head, tail].iter().any(|bytes| !bytes.is_multiple_of(STEP) || *bytes > MOST_BYTES) {
            return Err(Error::value(format!("head and tail: expected multiples of 64 bytes, got {head} and {tail}")));
        }
        let (heads, totals, tails, slacks) = Default::default();
        Ok(Self { scale, widths, rows: 0, heads, totals, tails, slacks })
    }

    pub fn widths(&self) -> Widths {
        self.widths
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of memory by capacity.
    pub fn bytes(&self) -> usize {
        let rows = self.totals.capacity() * size_of::<i32>() + self.slacks.capacity() * size_of::<Slack>();
        self.heads.capacity() * 4 + self.tails.capacity() + rows
    }

    /// Add rows: `width` coordinates of each, and the squares of their norms. `Error::Value` for rows that are not of unit
    /// norm or not finite; nothing is added then.
    pub fn append(&mut self, coordinates: &[f32], width: usize, squares: &[f32]) -> Result<()> {
        let most = self.widths.coordinates();
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
        let quads = self.width();
        self.heads.try_reserve_exact(more * quads).map_err(none)?;
        self.totals.try_reserve_exact(more).map_err(none)?;
        self.slacks.try_reserve_exact(more).map_err(none)?;
        self.tails.try_reserve_exact(more * self.widths.tail).map_err(none)
    }

    fn push(&mut self, row: &[f32], square: f64) {
        let (head_row, tail_row) = row.split_at(row.len().min(self.widths.head_coordinates()));
        let rest = (square - squares(row)).max(0.0) + PRECISION.powi(2);
        let mut head = vec![0; self.widths.head];
        let (coordinates, lengths) = head.split_at_mut(self.widths.head_coordinates());
        let head_error = self.round(head_row, coordinates);
        let excess = self.round_lengths(tail_row, rest, lengths);
        let slack = self.slack(head_error, excess);
        let mut tail = vec![0; self.widths.tail];
        let whole = match tail.split_last_mut() {
            None => slack,
            Some((length, coordinates)) => {
                let error = head_error + self.round(tail_row, coordinates);
                self.slack(error, self.round_up(rest.sqrt(), length))
            }
        };
        self.totals.push(head.iter().map(|byte| i32::from(*byte)).sum());
        self.heads.extend_from_slice(head.as_chunks::<4>().0);
        self.tails.extend(tail);
        self.slacks.push(Slack { head: slack, whole });
        self.rows += 1;
    }

    /// Lengths of what a head leaves out: several stretches bound a product better than all of it does. The last one has
    /// the rest too, of that squared length, that has no coordinates. Returns what they are too short by.
    fn round_lengths(&self, left_out: &[f32], rest: f64, lengths: &mut [i8]) -> f64 {
        let stretch = left_out.len().div_ceil(lengths.len()).max(1);
        let mut parts = left_out.chunks(stretch);
        let count = lengths.len();
        let of_part = |(at, length): (usize, &mut i8)| {
            let more = if at + 1 == count { rest } else { 0.0 };
            self.round_up((squares(parts.next().unwrap_or_default()) + more).sqrt(), length)
        };
        lengths.iter_mut().enumerate().map(of_part).sum()
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

    /// What to add for a row: with errors of lengths e and f of two vectors of at most length 1, the product of the
    /// rounded ones is at most e + f + 3 e f off, and 2 e f <= e² + f². Rows may be longer than 1 by less than `NORM`.
    fn slack(&self, error: f64, excess: f64) -> i32 {
        let length = error.sqrt();
        let of_row = (length + 1.5 * error + excess) * (1.0 + NORM) + PRECISION;
        (of_row * self.scale * self.scale).ceil() as i32 + 1
    }

    /// The row as it meets panels: what its sums start with is its own slack.
    pub fn left(&self, row: usize) -> Left<'_> {
        Left { bytes: self.head(row), total: self.totals[row], start: self.slacks[row].head }
    }

    /// Ask for a row's head ahead of its use.
    pub fn fetch(&self, row: usize) {
        kernels::fetch(bytemuck::cast_slice(self.head(row)));
    }

    /// Rows in panels, the last one filled up with zeros.
    pub fn panels(&self, rows: Range<usize>) -> Vec<Quad> {
        let width = self.width();
        let mut quads = vec![Quad::ZERO; rows.len().div_ceil(PANEL_ROWS) * width];
        for (row, place) in rows.enumerate() {
            let panel = &mut quads[row / PANEL_ROWS * width..][..width];
            panel.iter_mut().zip(self.head(place)).for_each(|(quad, bytes)| quad.set(row % PANEL_ROWS, *bytes));
        }
        quads
    }

    /// Quads of a row's head.
    pub fn width(&self) -> usize {
        self.widths.head / 4
    }

    fn head(&self, row: usize) -> &[[i8; 4]] {
        &self.heads[row * self.width()..][..self.width()]
    }

    /// What the sum of a row on the left, slack included, has to reach with each of these rows, in panels, for a cosine of
    /// `least` units to be possible. Rows that are not there reach nothing.
    pub fn limits(&self, rows: Range<usize>, least: i32) -> Vec<Limits> {
        let mut limits = vec![[i32::MAX; PANEL_ROWS]; rows.len().div_ceil(PANEL_ROWS)];
        for (limit, slack) in limits.as_flattened_mut().iter_mut().zip(&self.slacks[rows]) {
            *limit = least - slack.head;
        }
        limits
    }

    /// A cosine in squared units, rounded down.
    pub fn units(&self, score: f64) -> i32 {
        (score * self.scale * self.scale).floor() as i32 - 1
    }

    /// Whether the whole of two rows can reach `least` units, see `units`. sum: of their heads, slack of the left one
    /// included.
    pub fn is_possible(&self, row: usize, right: &Sketch, other: usize, sum: i32, least: i32, kernel: Kernel) -> bool {
        if self.widths.tail == 0 {
            return true;
        }
        let mine = self.head(row).last().into_iter().flatten();
        let its = right.head(other).last().into_iter().flatten();
        let lengths: i32 = mine.zip(its).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        let tails = kernel.bytes(self.tail(row), right.tail(other));
        let slack = self.slacks[row].whole - self.slacks[row].head + right.slacks[other].whole;
        sum - lengths + tails + slack >= least
    }

    fn tail(&self, row: usize) -> &[i8] {
        &self.tails[row * self.widths.tail..][..self.widths.tail]
    }

    /// `Error::Value` unless bounds between the rows of both mean something.
    pub fn check_alike(&self, other: &Sketch) -> Result<()> {
        if (self.scale, self.widths) == (other.scale, other.widths) {
            return Ok(());
        }
        let (mine, its) = ((self.scale, self.widths), (other.scale, other.widths));
        Err(Error::value(format!("sketches: expected one scale and widths, got {mine:?} and {its:?}")))
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum()
}
