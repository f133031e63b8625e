//! All pairs of rows whose cosine reaches a threshold: a range search with the rows of one index as probes.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::index::{Index, State};
use crate::kernels::Kernel;
use crate::projection::{Lines, Projection};
use crate::search::{self, Cascade, Stage, Target};
use crate::topk::TopK;
use crate::visits::GROUP;

/// What to pair with what.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    pub left: &'a Index,
    /// None pairs the rows of `left` with later ones of `left`.
    pub right: Option<&'a Index>,
}

/// Pairs in order of (left, right).
#[derive(Debug, Default, PartialEq)]
pub struct Pairs {
    pub left: Vec<i64>,
    pub right: Vec<i64>,
    pub scores: Vec<f32>,
}

/// The model of both sides' codes, and what its calibration makes of the asked recall; see `Stage::Cascade`.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    pub projection: &'a Projection,
    pub lines: Lines,
    pub knee: f32,
}

/// Pairs of live rows, one from a range of the left rows, that score at least `least`. Without a model all floats are
/// scanned.
///
/// `Error::Value` if the sides or the model do not fit each other, `Error::Row` if the range is not of rows on the left,
/// `Error::Corrupt` if floats that were needed are not what was sealed.
pub fn join(sides: Sides, rows: Range<usize>, model: Option<Model>, least: f32, kernel: Kernel) -> Result<Pairs> {
    let indexes: Vec<&Index> = std::iter::once(sides.left).chain(sides.right).collect();
    let (guards, places) = search::lock(&indexes);
    let (left, right): (&State, &State) = (&guards[places[0]], &guards[places[places.len() - 1]]);
    check(left, right, &rows, model.as_ref(), least)?;
    let target = |number| Target::whole(number, right, kernel, model.map(|_| 0));
    let list_rows = right.list_rows.clone();
    let first: Vec<usize> = rows.clone().step_by(GROUP).collect();
    let groups: Vec<Pairs> = first
        .into_par_iter()
        .map(|first| {
            let live: Vec<usize> = (first..rows.end.min(first + GROUP)).filter(|row| left.is_live(*row)).collect();
            let mut probes: Vec<f32> = Vec::with_capacity(live.len() * left.dim);
            for row in &live {
                probes.extend_from_slice(left.row(*row)?);
            }
            let projected = model.map(|model| model.projection.project(&probes, &model.lines, kernel));
            let stage = match (&projected, model) {
                (Some(projected), Some(model)) => Stage::Cascade(Cascade {
                    values: &projected.values,
                    lists: &projected.lists,
                    bounds: &projected.bounds,
                    knee: model.knee,
                }),
                _ => Stage::Exact,
            };
            let mut target = target(0);
            if sides.right.is_none() {
                // Pairs are found from their first row, so segments before those of the probes have none to offer.
                target.first_segment = live.first().map_or(0, |row| left.locate(*row).0);
            }
            let empty = TopK::new(usize::MAX, least);
            let found = search::one_group(&target, &stage, &list_rows, &probes, live.len(), &empty)?;
            let mut pairs = Pairs::default();
            for (row, found) in live.into_iter().zip(found) {
                let mut found = found.finish();
                found.retain(|candidate| sides.right.is_some() || candidate.row as usize > row);
                found.sort_unstable_by_key(|candidate| candidate.row);
                pairs.left.resize(pairs.left.len() + found.len(), row as i64);
                pairs.right.extend(found.iter().map(|candidate| i64::from(candidate.row)));
                pairs.scores.extend(found.iter().map(|candidate| candidate.score));
            }
            Ok(pairs)
        })
        .collect::<Result<_>>()?;
    let mut all = Pairs::default();
    for pairs in groups {
        all.left.extend(pairs.left);
        all.right.extend(pairs.right);
        all.scores.extend(pairs.scores);
    }
    Ok(all)
}

fn check(left: &State, right: &State, rows: &Range<usize>, model: Option<&Model>, least: f32) -> Result<()> {
    if left.dim != right.dim {
        return Err(Error::value(format!(
            "join: expected two sides of one dimension, got {} and {}",
            left.dim, right.dim
        )));
    }
    if rows.start > rows.end || rows.end > left.rows {
        let message = format!("join: rows {} to {}, but the left side has {}", rows.start, rows.end, left.rows);
        return Err(Error::Row(message));
    }
    if !least.is_finite() {
        return Err(Error::value(format!("join: expected a finite least score, got {least}")));
    }
    let Some(Model { projection, lines, knee }) = model else { return Ok(()) };
    let got = (projection.dim(), projection.bits(), projection.lists());
    let expected = (right.dim, right.layout.bits(), right.layout.lists);
    if got != expected {
        let message = format!("join: (dim, bits, lists) of the model is {got:?}, of the right side {expected:?}");
        return Err(Error::value(message));
    }
    if !(knee.is_finite() && lines.iter().all(|(offset, slope)| offset.is_finite() && slope.is_finite())) {
        return Err(Error::value("join: lines and knee: expected finite values"));
    }
    Ok(())
}
