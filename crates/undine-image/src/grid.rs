//! In which order the reference tries grids of tiles.
//!
//! It puts them in a Python set and sorts that by area, so that grids of one area come in the set's order.
//! Only an exact tie between two ratios makes a difference, which ordinary ratios (5:4, say) do bring about.
//! The order is a fact about CPython, fixed for tuples of integers since 3.8 (`tupleobject.c`,
//! `setobject.c`), and is computed here as it does it.

/// Columns and rows.
type Shape = (u32, u32);

/// Places a set looks at one after the other before it jumps.
const LINEAR_PROBES: usize = 9;
/// Bits of the hash that a jump brings in.
const PERTURB_SHIFT: u32 = 5;
/// Places of an empty set.
const PLACES_MIN: usize = 8;

/// All grids of `min_tiles` to `max_tiles` tiles, smallest first, as the reference has them.
pub(crate) fn candidates(min_tiles: u32, max_tiles: u32) -> Vec<Shape> {
    let mut set = Set { places: vec![None; PLACES_MIN], used: 0 };
    for n in min_tiles..=max_tiles {
        for cols in 1..=n {
            for rows in 1..=n {
                if (min_tiles..=max_tiles).contains(&(cols * rows)) {
                    set.add((cols, rows));
                }
            }
        }
    }
    let mut shapes: Vec<Shape> = set.places.into_iter().flatten().collect();
    shapes.sort_by_key(|(cols, rows)| cols * rows);
    shapes
}

/// CPython's hash of a tuple of two small integers, which are their own hashes.
fn hash((cols, rows): Shape) -> u64 {
    const PRIME_1: u64 = 11_400_714_785_074_694_791;
    const PRIME_2: u64 = 14_029_467_366_897_019_727;
    const PRIME_5: u64 = 2_870_177_450_012_600_261;
    let round = |sum: u64, item: u32| {
        sum.wrapping_add(u64::from(item).wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1)
    };
    round(round(PRIME_5, cols), rows).wrapping_add(2 ^ (PRIME_5 ^ 3_527_539))
}

/// As much of CPython's set as adding to it and walking through it takes.
struct Set {
    /// A power of two of them.
    places: Vec<Option<Shape>>,
    used: usize,
}

impl Set {
    fn add(&mut self, shape: Shape) {
        let place = self.place(shape);
        if self.places[place].is_some() {
            return;
        }
        self.places[place] = Some(shape);
        self.used += 1;
        if self.used * 5 >= (self.places.len() - 1) * 3 {
            // The smallest power of two above four times what is used.
            let places = vec![None; (self.used * 4 + 1).next_power_of_two()];
            for shape in std::mem::replace(&mut self.places, places).into_iter().flatten() {
                let place = self.place(shape);
                self.places[place] = Some(shape);
            }
        }
    }

    /// Where `shape` is or would go.
    fn place(&self, shape: Shape) -> usize {
        let mask = self.places.len() - 1;
        let mut perturb = hash(shape);
        let mut at = perturb as usize & mask;
        loop {
            let probes = if at + LINEAR_PROBES <= mask { LINEAR_PROBES } else { 0 };
            let fits = |&place: &usize| self.places[place].is_none_or(|there| there == shape);
            if let Some(place) = (at..=at + probes).find(fits) {
                return place;
            }
            perturb >>= PERTURB_SHIFT;
            at = (at.wrapping_mul(5).wrapping_add(1).wrapping_add(perturb as usize)) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From CPython 3.11.
    #[test]
    fn grids_come_in_the_order_of_a_python_set() {
        let all: Vec<Shape> = vec![
            (1, 1),
            (1, 2),
            (2, 1),
            (3, 1),
            (1, 3),
            (2, 2),
            (4, 1),
            (1, 4),
            (5, 1),
            (1, 5),
            (1, 6),
            (6, 1),
            (3, 2),
            (2, 3),
            (7, 1),
            (1, 7),
            (4, 2),
            (2, 4),
            (1, 8),
            (8, 1),
            (1, 9),
            (3, 3),
            (9, 1),
            (2, 5),
            (5, 2),
            (10, 1),
            (1, 10),
        ];
        assert_eq!(candidates(1, 10), all);
        assert_eq!(candidates(2, 10), all[1..]);
    }
}
