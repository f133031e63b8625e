//! All pairs of rows whose cosine reaches a threshold, and no other.
//!
//! Sketches bound the cosine of every pair from above (`sketch.rs`); where the bound of the heads does not rule a pair
//! out, that of the tails is asked, and where that does not either, the floats are multiplied. So nothing is missed, and
//! scores are those of every other search. With lists, only rows of lists that a row visits are looked at.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::{self, Hit, Kernel, Panels};
use crate::sketch::Sketch;

/// Rows on the right that are put into panels together: they stay in the second cache while all on the left meet them.
const RIGHT_ROWS: usize = 1024;

/// Rows on the left that meet them before the hits are looked at: their heads stay in the first cache.
const LEFT_ROWS: usize = 192;

/// Pairs that wait for their floats.
const MOST_WAITING: usize = 1 << 20;

/// How many pairs ahead a row's floats are asked for.
const AHEAD: usize = 4;

/// Rows of floats in several pieces of memory.
pub struct Rows<'a> {
    pieces: Vec<&'a [f32]>,
    /// The first row of each piece, and their number at the end.
    starts: Vec<usize>,
    dim: usize,
    /// The row at each place of the sketch; None: they are in the same order.
    order: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// `Error::Value` if a piece is not of whole rows, or the order is not of these rows.
    pub fn new(pieces: Vec<&'a [f32]>, dim: usize, order: Option<&'a [u32]>) -> Result<Self> {
        if dim == 0 || pieces.iter().any(|piece| !piece.len().is_multiple_of(dim)) {
            return Err(Error::value(format!("floats: expected pieces of whole rows of {dim}")));
        }
        let mut starts = vec![0];
        for piece in &pieces {
            starts.push(starts[starts.len() - 1] + piece.len() / dim);
        }
        let rows = starts[pieces.len()];
        if order.is_some_and(|order| order.len() != rows || order.iter().any(|row| *row as usize >= rows)) {
            return Err(Error::value(format!("order: expected the numbers of {rows} rows")));
        }
        Ok(Self { pieces, starts, dim, order })
    }

    fn len(&self) -> usize {
        self.starts[self.pieces.len()]
    }

    /// The number of the row at a place of the sketch.
    fn number(&self, place: u32) -> u32 {
        self.order.map_or(place, |order| order[place as usize])
    }

    fn row(&self, number: u32) -> &'a [f32] {
        let number = number as usize;
        let at = self.starts.partition_point(|start| *start <= number) - 1;
        &self.pieces[at][(number - self.starts[at]) * self.dim..][..self.dim]
    }
}

/// One side of a join.
pub struct Side<'a> {
    pub sketch: &'a Sketch,
    pub floats: Rows<'a>,
}

/// Which rows on the left look at which on the right: the places of those that visit list i are
/// `visitors[visits[i]..visits[i + 1]]`, and its rows are at the places `lists[i]..lists[i + 1]`.
pub struct Visits<'a> {
    pub lists: &'a [i64],
    pub visits: &'a [i64],
    pub visitors: &'a [u32],
}

/// Row numbers and their cosine, in the order of the numbers.
pub type Pair = (u32, u32, f32);

/// Every pair with a score of at least `least`, once; with `right` none, those of two rows of `left`, the lower first.
///
/// `Error::Value` if the sides do not fit each other, or the lists do not fit them.
pub fn pairs(
    left: &Side,
    right: Option<&Side>,
    least: f32,
    visits: Option<&Visits>,
    kernel: Kernel,
) -> Result<Vec<Pair>> {
    let join = Join { left, right: right.unwrap_or(left), is_self: right.is_none(), least, kernel };
    join.check(visits)?;
    let all: Vec<u32>;
    let tasks: Vec<(&[u32], Range<usize>)> = match visits {
        None => {
            all = (0..left.sketch.rows() as u32).collect();
            let before = |list: &Range<usize>| if join.is_self { list.end } else { all.len() };
            in_steps(0..join.right.sketch.rows()).map(|list| (&all[..before(&list)], list)).collect()
        }
        Some(visits) => visits
            .ranges()
            .flat_map(|(visitors, list)| in_steps(list).map(move |list| (&visits.visitors[visitors.clone()], list)))
            .collect(),
    };
    let found: Vec<Vec<Pair>> =
        tasks.into_par_iter().map(|(places, list)| join.run(places, list, visits.is_none())).collect();
    let mut found = found.concat();
    found.par_sort_unstable_by_key(|(left, right, _)| (*left, *right));
    found.dedup_by_key(|(left, right, _)| (*left, *right));
    Ok(found)
}

fn in_steps(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(RIGHT_ROWS).map(move |first| first..(first + RIGHT_ROWS).min(end))
}

/// How many pairs of its rows a sketch leaves open: by their heads, and by their tails too.
pub fn possible(sketch: &Sketch, least: f64, kernel: Kernel) -> (usize, usize) {
    let (units, width) = (sketch.units(least), sketch.width());
    let of_step = |list: Range<usize>| {
        let (quads, limits) = (sketch.panels(list.clone()), sketch.limits(list.clone(), units));
        let rows: Vec<kernels::Left> = (0..list.end).map(|row| sketch.left(row)).collect();
        let mut hits = Vec::new();
        kernel.products(&rows, Panels { quads: &quads, width }, &limits, &mut hits);
        let pairs = hits.iter().map(|hit| (hit.left as usize, list.start + hit.right as usize, hit.sum));
        let pairs = pairs.filter(|(row, other, _)| row < other);
        let is_open = |pair: &(usize, usize, i32)| sketch.is_possible(pair.0, sketch, pair.1, pair.2, units, kernel);
        (pairs.clone().count(), pairs.filter(is_open).count())
    };
    let steps: Vec<Range<usize>> = in_steps(0..sketch.rows()).collect();
    steps.into_par_iter().map(of_step).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

impl Visits<'_> {
    fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let places = |bounds: &[i64], at: usize| bounds[at] as usize..bounds[at + 1] as usize;
        (0..self.lists.len() - 1).map(move |at| (places(self.visits, at), places(self.lists, at)))
    }

    fn check(&self, left: usize, right: usize) -> Result<()> {
        let ascend = |bounds: &[i64], end: usize| {
            bounds.first() == Some(&0) && bounds.is_sorted() && bounds.last() == Some(&(end as i64))
        };
        if self.lists.len() != self.visits.len()
            || !ascend(self.lists, right)
            || !ascend(self.visits, self.visitors.len())
        {
            return Err(Error::value("visits: expected ascending bounds, of as many lists, that cover all rows"));
        }
        match self.visitors.iter().find(|place| **place as usize >= left) {
            None => Ok(()),
            Some(place) => Err(Error::value(format!("visits: row {place} of {left} on the left"))),
        }
    }
}

struct Join<'a> {
    left: &'a Side<'a>,
    right: &'a Side<'a>,
    is_self: bool,
    least: f32,
    kernel: Kernel,
}

impl Join<'_> {
    fn check(&self, visits: Option<&Visits>) -> Result<()> {
        self.left.sketch.check_alike(self.right.sketch)?;
        if self.left.floats.dim != self.right.floats.dim {
            let (left, right) = (self.left.floats.dim, self.right.floats.dim);
            return Err(Error::value(format!("floats: expected one dimension, got {left} and {right}")));
        }
        for (name, side) in [("left", self.left), ("right", self.right)] {
            let (sketched, rows) = (side.sketch.rows(), side.floats.len());
            if sketched != rows {
                return Err(Error::value(format!("{name}: expected floats of {sketched} rows, got {rows}")));
            }
        }
        if !(self.least > -1.0 && self.least <= 1.0) {
            return Err(Error::value(format!("least: expected more than -1 and at most 1, got {}", self.least)));
        }
        visits.map_or(Ok(()), |visits| visits.check(self.left.sketch.rows(), self.right.sketch.rows()))
    }

    /// Pairs of rows at some places on the left with a range of places on the right. is_whole: all meet all, so that each
    /// pair of rows of one side is found from its lower place.
    fn run(&self, places: &[u32], list: Range<usize>, is_whole: bool) -> Vec<Pair> {
        let (sketch, right) = (self.left.sketch, self.right.sketch);
        let least = sketch.units(f64::from(self.least));
        let (quads, limits) = (right.panels(list.clone()), right.limits(list.clone(), least));
        let panels = Panels { quads: &quads, width: right.width() };
        let (mut hits, mut waiting, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut chunks = places.chunks(LEFT_ROWS).peekable();
        while let Some(chunk) = chunks.next() {
            // Those who visit a list lie anywhere: without this, each waits for the memory by itself.
            chunks.peek().into_iter().copied().flatten().for_each(|place| sketch.fetch(*place as usize));
            let rows: Vec<kernels::Left> = chunk.iter().map(|place| sketch.left(*place as usize)).collect();
            self.kernel.products(&rows, panels, &limits, &mut hits);
            for Hit { left, right: at, sum } in hits.drain(..) {
                let (place, other) = (chunk[left as usize], list.start as u32 + at);
                let is_wanted = !(self.is_self && is_whole && other <= place);
                if is_wanted && sketch.is_possible(place as usize, right, other as usize, sum, least, self.kernel) {
                    waiting.push((self.left.floats.number(place), self.right.floats.number(other)));
                }
            }
            if waiting.len() >= MOST_WAITING {
                self.score(&mut waiting, &mut found);
            }
        }
        self.score(&mut waiting, &mut found);
        found
    }

    /// Multiply the floats of pairs, and keep those that reach the threshold.
    fn score(&self, waiting: &mut Vec<(u32, u32)>, found: &mut Vec<Pair>) {
        if self.is_self {
            waiting.iter_mut().for_each(|pair| *pair = (pair.0.min(pair.1), pair.0.max(pair.1)));
            waiting.retain(|(left, right)| left != right);
        }
        waiting.sort_unstable();
        for at in 0..waiting.len() {
            if let Some((_, ahead)) = waiting.get(at + AHEAD) {
                kernels::fetch(bytemuck::cast_slice(self.right.floats.row(*ahead)));
            }
            let (left, right) = waiting[at];
            let mut score = [0.0];
            let (probe, row) = (self.left.floats.row(left), self.right.floats.row(right));
            self.kernel.dots(probe, row, row.len(), &mut score);
            if score[0] >= self.least {
                found.push((left, right, score[0]));
            }
        }
        waiting.clear();
    }
}
