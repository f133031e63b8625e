//! Which rows the probes of a group visit in one round of a search.

use std::ops::Range;

use crate::index::State;

/// A set of probes of one group, by number.
pub type Mask = u16;

/// The most probes of a group.
pub const GROUP: usize = Mask::BITS as usize;

/// The probes of a set, ascending.
#[inline]
pub fn probes_of(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let probe = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            probe
        })
    })
}

/// Positions of one segment, all of which the same probes visit.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub segment: usize,
    pub positions: Range<usize>,
    pub mask: Mask,
}

/// Who visits which lists, and who the rows that are in none: those of open segments, and of ones too small for lists.
pub struct Visits {
    /// For each list.
    pub lists: Vec<Mask>,
    pub unlisted: Mask,
}

impl Visits {
    pub fn none(lists: usize) -> Self {
        Self { lists: vec![0; lists], unlisted: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.unlisted == 0 && self.lists.iter().all(|mask| *mask == 0)
    }

    /// The pieces of an index, in order.
    pub fn pieces(&self, state: &State) -> Vec<Piece> {
        self.pieces_for(state, Mask::MAX)
    }

    /// The pieces that some of the probes visit.
    pub fn pieces_for(&self, state: &State, wanted: Mask) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        if wanted == 0 || self.is_empty() {
            return pieces;
        }
        for (number, segment) in state.segments.iter().enumerate() {
            let Some(order) = segment.codes.order() else {
                let mask = self.unlisted & wanted;
                if mask != 0 && segment.rows > 0 {
                    pieces.push(Piece { segment: number, positions: 0..segment.rows, mask });
                }
                continue;
            };
            let from = pieces.len();
            for (list, mask) in self.lists.iter().enumerate().filter(|(_, mask)| **mask & wanted != 0) {
                let (mask, positions) = (mask & wanted, order.range(list));
                // Lists side by side are one piece where the same probes visit them.
                match pieces[from..].last_mut() {
                    Some(last) if last.positions.end == positions.start && last.mask == mask => {
                        last.positions.end = positions.end;
                    }
                    _ if positions.is_empty() => {}
                    _ => pieces.push(Piece { segment: number, positions, mask }),
                }
            }
        }
        pieces
    }
}

/// Pieces in order, cut into so many parts of about as many rows each; fewer where there is less to do.
pub fn shares(pieces: &[Piece], parts: usize, step: usize) -> Vec<Vec<Piece>> {
    let rows: usize = pieces.iter().map(|piece| piece.positions.len()).sum();
    let most = rows.div_ceil(parts.max(1)).next_multiple_of(step).max(step);
    let mut shares: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut room = most;
    for piece in pieces {
        let mut positions = piece.positions.clone();
        while !positions.is_empty() {
            if room == 0 {
                shares.push(Vec::new());
                room = most;
            }
            let end = positions.end.min(positions.start + room);
            room -= end - positions.start;
            shares
                .last_mut()
                .expect("there is always one")
                .push(Piece { positions: positions.start..end, ..piece.clone() });
            positions.start = end;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_probes_lists_its_members(mask: Mask) {
            let probes: Vec<usize> = probes_of(mask).collect();
            prop_assert!(probes.is_sorted());
            prop_assert_eq!(probes.iter().fold(0, |set: Mask, probe| set | 1 << probe), mask);
        }

        #[test]
        fn shares_hold_every_position_once(sizes in prop::collection::vec(1..300_usize, 0..9), parts in 1..5_usize) {
            let piece = |(segment, size): (usize, &usize)| Piece { segment, positions: 5..5 + size, mask: 1 };
            let pieces: Vec<Piece> = sizes.iter().enumerate().map(piece).collect();
            let shares = shares(&pieces, parts, 32);
            prop_assert!(shares.len() <= parts);
            let positions = |pieces: &[Piece]| -> Vec<(usize, usize)> {
                pieces.iter().flat_map(|piece| piece.positions.clone().map(|at| (piece.segment, at))).collect()
            };
            prop_assert_eq!(positions(&shares.concat()), positions(&pieces));
        }
    }
}
