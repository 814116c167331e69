//! In which order a pass visits what there is.

use std::ops::Bound;

/// A bound below and one above.
pub type Between<K> = (Bound<K>, Bound<K>);

/// One pass over everything that has a place in an order: from some place on to the end, and from the
/// begin to that place. What comes and goes meanwhile is visited at most once, what stays exactly
/// once. Passes that begin anywhere reach everything in time, also where processes do not live long
/// enough to end one.
#[derive(Debug, Clone)]
pub struct Pass<K> {
    start: K,
    last: Option<K>,
    is_around: bool,
}

impl<K: Ord + Copy> Pass<K> {
    /// Begins at `start`, or at the first thing behind it.
    pub fn from(start: K) -> Pass<K> {
        Pass {
            start,
            last: None,
            is_around: false,
        }
    }

    /// The next one to visit. `first_in` gives the first thing that there is now within bounds.
    pub fn next(&mut self, first_in: impl Fn(Between<K>) -> Option<K>) -> Option<K> {
        if !self.is_around {
            let from = self
                .last
                .map_or(Bound::Included(self.start), Bound::Excluded);
            self.last = first_in((from, Bound::Unbounded));
            if self.last.is_some() {
                return self.last;
            }
            self.is_around = true;
        }
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let found = first_in((from, Bound::Excluded(self.start)));
        self.last = found.or(self.last);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    fn next(pass: &mut Pass<u8>, there: &BTreeSet<u8>) -> Option<u8> {
        pass.next(|between| there.range(between).next().copied())
    }

    #[test]
    fn a_pass_goes_around_once() {
        let there = BTreeSet::from([1, 3, 5, 7]);
        for (start, order) in [
            (0, [1, 3, 5, 7]),
            (3, [3, 5, 7, 1]),
            (4, [5, 7, 1, 3]),
            (7, [7, 1, 3, 5]),
            (9, [1, 3, 5, 7]),
        ] {
            let mut pass = Pass::from(start);
            let visited: Vec<u8> = std::iter::from_fn(|| next(&mut pass, &there)).collect();
            assert_eq!(visited, order, "from {start}");
            assert_eq!(next(&mut pass, &there), None, "it is over");
        }
        assert_eq!(next(&mut Pass::from(0), &BTreeSet::new()), None);
    }

    proptest! {
        #[test]
        fn what_stays_is_visited_once_and_what_comes_and_goes_at_most_once(
            start: u8,
            there: BTreeSet<u8>,
            changes in prop::collection::vec((any::<u8>(), any::<bool>()), 0..64),
        ) {
            let mut now = there.clone();
            let mut stays = there;
            let mut pass = Pass::from(start);
            let mut visited = Vec::new();
            let mut changes = changes.into_iter();
            while let Some(found) = next(&mut pass, &now) {
                prop_assert!(now.contains(&found));
                visited.push(found);
                if let Some((what, comes)) = changes.next() {
                    if comes {
                        now.insert(what);
                    } else {
                        now.remove(&what);
                        stays.remove(&what);
                    }
                }
            }
            let unique: BTreeSet<u8> = visited.iter().copied().collect();
            prop_assert_eq!(unique.len(), visited.len());
            prop_assert!(stays.is_subset(&unique));
        }
    }
}
