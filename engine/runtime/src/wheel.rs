//! A hierarchical timing wheel: ticks of 2^20 ns (about 1 ms), 64 slots a level, enough levels for
//! every deadline that fits the clock.
//!
//! Timers of ticks to come stand in the wheel, in the list of a slot: insert and cancel cost the
//! same whatever else stands. Timers of the current tick and of the past stand in a small heap,
//! ordered to the nanosecond, then by registration, so that what fires, and in which order, is
//! what one sorted list would give. Entries live in a slab and are reused: once it is as large
//! as the most timers that ever stood, nothing is allocated. A cancelled timer is gone at once.
//!
//! A timer is on the level of the highest group of six bits in which its tick differs from the
//! wheel's. So all timers of a level come before all of the next, and inside a level slots are in
//! order of time. When the wheel reaches a slot, its timers move to lower levels, or to the heap.

/// Nanoseconds of a tick, as a power of two.
const TICK_BITS: u32 = 20;
/// Slots of a level, as a power of two.
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
/// Levels that cover all ticks of a 64-bit clock.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(LEVEL_BITS) as usize;
/// Timers of one slot looked through at most when its earliest one was cancelled. Time-outs are
/// cancelled in the order they were made in: a large bound costs more per turn than a sorted map.
const SCAN_MAX: u32 = 16;
/// No entry.
const NONE: u32 = u32::MAX;

/// Names a registered timer; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId {
    index: u32,
    number: u64,
}

#[derive(Clone, Copy)]
enum Place {
    Free,
    /// In the heap, at this position.
    Near(u32),
    /// In the list of this slot (all levels in one array).
    Slot(u16),
}

struct Entry<T> {
    deadline_ns: u64,
    /// Registration number: the order of equal deadlines.
    number: u64,
    value: Option<T>,
    place: Place,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    head: u32,
    count: u32,
    /// No timer of the list is earlier.
    least_ns: u64,
    /// Some timer of the list has just that deadline.
    is_exact: bool,
}

const EMPTY: Slot = Slot {
    head: NONE,
    count: 0,
    least_ns: u64::MAX,
    is_exact: true,
};

/// Timers with a value each. Not bound to a clock: time is what [`Wheel::pop_due`] is told.
pub struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    slots: Box<[Slot; LEVELS * SLOTS]>,
    /// Slots in use, a bit each.
    used: [u64; LEVELS],
    /// Levels in use, a bit each.
    used_levels: u32,
    near: Near,
    /// Timers of this tick and of earlier ones are in the heap.
    tick: u64,
    numbers: u64,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            slots: Box::new([EMPTY; LEVELS * SLOTS]),
            used: [0; LEVELS],
            used_levels: 0,
            near: Near(Vec::new()),
            tick: 0,
            numbers: 0,
        }
    }
}

impl<T> Wheel<T> {
    /// Adds a timer. Of equal deadlines the one registered first fires first.
    pub fn insert(&mut self, deadline_ns: u64, value: T) -> TimerId {
        let number = self.numbers;
        self.numbers += 1;
        let entry = Entry {
            deadline_ns,
            number,
            value: Some(value),
            place: Place::Free,
            prev: NONE,
            next: NONE,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                let index = self.entries.len() as u32;
                assert!(index < NONE, "fewer than 2^32 timers stand at a time");
                self.entries.push(entry);
                index
            }
        };
        self.link(index);
        TimerId { index, number }
    }

    /// The value of a timer that stands.
    pub fn get_mut(&mut self, id: TimerId) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        (entry.number == id.number)
            .then_some(entry.value.as_mut())
            .flatten()
    }

    /// Takes a timer away and gives its value; `None` when it fired or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.get_mut(id)?;
        match self.entries[id.index as usize].place {
            Place::Free => return None,
            Place::Near(at) => self.near.remove(&mut self.entries, at as usize),
            Place::Slot(slot) => self.unlink(id.index, usize::from(slot)),
        }
        self.release(id.index)
    }

    /// Takes the earliest timer whose deadline is at or before `now_ns`.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        self.advance(now_ns >> TICK_BITS);
        let first = *self.near.0.first()?;
        if first.deadline_ns > now_ns {
            return None;
        }
        self.near.remove(&mut self.entries, 0);
        self.release(first.index)
    }

    /// The earliest deadline. When the earliest of a crowd (more than 16 timers in one slot) was
    /// cancelled it may be a time before that, never one after it: who waits until then and asks
    /// again waits a few times (at most once per level) until the timer is due.
    pub fn next_deadline_ns(&mut self) -> Option<u64> {
        if let Some(first) = self.near.0.first() {
            return Some(first.deadline_ns);
        }
        let index = self.earliest_slot()?.0;
        if !self.slots[index].is_exact && self.slots[index].count <= SCAN_MAX {
            let mut least_ns = u64::MAX;
            let mut at = self.slots[index].head;
            while at != NONE {
                let entry = &self.entries[at as usize];
                least_ns = least_ns.min(entry.deadline_ns);
                at = entry.next;
            }
            let slot = &mut self.slots[index];
            (slot.least_ns, slot.is_exact) = (least_ns, true);
        }
        Some(self.slots[index].least_ns)
    }

    /// Frees an entry that is in no list.
    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.place = Place::Free;
        let value = entry.value.take();
        self.free.push(index);
        value
    }

    /// The first slot in use and the tick it begins at.
    fn earliest_slot(&self) -> Option<(usize, u64)> {
        if self.used_levels == 0 {
            return None;
        }
        let level = self.used_levels.trailing_zeros();
        let slot = self.used[level as usize].trailing_zeros();
        let shift = level * LEVEL_BITS;
        let above = (self.tick >> shift) >> LEVEL_BITS << LEVEL_BITS;
        let begins = (above | u64::from(slot)) << shift;
        Some((level as usize * SLOTS + slot as usize, begins))
    }

    /// Moves the wheel forward; it never goes back.
    fn advance(&mut self, to_tick: u64) {
        while self.tick < to_tick {
            let due = self
                .earliest_slot()
                .filter(|&(_, begins)| begins <= to_tick);
            let Some((index, begins)) = due else {
                self.tick = to_tick;
                return;
            };
            self.tick = begins;
            let mut at = self.slots[index].head;
            self.slots[index] = EMPTY;
            self.mark_unused(index);
            while at != NONE {
                let next = self.entries[at as usize].next;
                self.link(at);
                at = next;
            }
        }
    }

    fn mark_unused(&mut self, index: usize) {
        let level = index / SLOTS;
        self.used[level] &= !(1 << (index % SLOTS));
        if self.used[level] == 0 {
            self.used_levels &= !(1 << level);
        }
    }

    /// Puts an entry where its deadline belongs.
    fn link(&mut self, index: u32) {
        let deadline_ns = self.entries[index as usize].deadline_ns;
        let tick = deadline_ns >> TICK_BITS;
        if tick <= self.tick {
            return self.near.push(&mut self.entries, index);
        }
        let highest = u64::BITS - 1 - (tick ^ self.tick).leading_zeros();
        let level = highest / LEVEL_BITS;
        let bit = (tick >> (level * LEVEL_BITS)) as usize % SLOTS;
        let level = level as usize;
        self.used[level] |= 1 << bit;
        self.used_levels |= 1 << level;
        let slot = &mut self.slots[level * SLOTS + bit];
        let next = std::mem::replace(&mut slot.head, index);
        slot.count += 1;
        if deadline_ns <= slot.least_ns {
            (slot.least_ns, slot.is_exact) = (deadline_ns, true);
        }
        if next != NONE {
            self.entries[next as usize].prev = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.place = Place::Slot((level * SLOTS + bit) as u16);
        (entry.prev, entry.next) = (NONE, next);
    }

    /// Takes an entry out of its slot's list.
    fn unlink(&mut self, index: u32, slot_index: usize) {
        let entry = &self.entries[index as usize];
        let (prev, next, deadline_ns) = (entry.prev, entry.next, entry.deadline_ns);
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        let slot = &mut self.slots[slot_index];
        slot.count -= 1;
        if prev == NONE {
            slot.head = next;
        } else {
            self.entries[prev as usize].next = next;
        }
        if slot.count == 0 {
            *slot = EMPTY;
            self.mark_unused(slot_index);
        } else if deadline_ns == slot.least_ns {
            slot.is_exact = false;
        }
    }
}

/// One place of the heap.
#[derive(Clone, Copy)]
struct Key {
    deadline_ns: u64,
    number: u64,
    index: u32,
}

impl Key {
    fn is_before(self, other: Key) -> bool {
        (self.deadline_ns, self.number) < (other.deadline_ns, other.number)
    }
}

/// A binary heap whose entries know their position, so that any of them can be taken out.
struct Near(Vec<Key>);

impl Near {
    fn push<T>(&mut self, entries: &mut [Entry<T>], index: u32) {
        let entry = &entries[index as usize];
        self.0.push(Key {
            deadline_ns: entry.deadline_ns,
            number: entry.number,
            index,
        });
        self.sift_up(entries, self.0.len() - 1);
    }

    fn remove<T>(&mut self, entries: &mut [Entry<T>], at: usize) {
        self.0.swap_remove(at);
        if at < self.0.len() {
            let at = self.sift_up(entries, at);
            self.sift_down(entries, at);
        }
    }

    /// Moves a key to the front as far as it belongs; gives where it stands then.
    fn sift_up<T>(&mut self, entries: &mut [Entry<T>], mut at: usize) -> usize {
        let key = self.0[at];
        while at > 0 && key.is_before(self.0[(at - 1) / 2]) {
            self.put(entries, at, self.0[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        self.put(entries, at, key);
        at
    }

    fn sift_down<T>(&mut self, entries: &mut [Entry<T>], mut at: usize) {
        let key = self.0[at];
        loop {
            let mut child = 2 * at + 1;
            let Some(&left) = self.0.get(child) else {
                break;
            };
            let mut least = left;
            if let Some(&right) = self.0.get(child + 1)
                && right.is_before(left)
            {
                (child, least) = (child + 1, right);
            }
            if !least.is_before(key) {
                break;
            }
            self.put(entries, at, least);
            at = child;
        }
        self.put(entries, at, key);
    }

    fn put<T>(&mut self, entries: &mut [Entry<T>], at: usize, key: Key) {
        self.0[at] = key;
        entries[key.index as usize].place = Place::Near(at as u32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same as one sorted list.
    #[derive(Default)]
    struct Naive(Vec<(u64, u64)>);

    impl Naive {
        fn insert(&mut self, deadline_ns: u64, value: u64) {
            let at = self.0.partition_point(|&(other, _)| other <= deadline_ns);
            self.0.insert(at, (deadline_ns, value));
        }

        fn cancel(&mut self, value: u64) -> Option<u64> {
            let at = self.0.iter().position(|&(_, other)| other == value)?;
            Some(self.0.remove(at).1)
        }

        fn pop_due(&mut self, now_ns: u64) -> Option<u64> {
            let first = self.0.first().filter(|(at, _)| *at <= now_ns)?.1;
            self.0.remove(0);
            Some(first)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Deadline this far from now; negative = past.
        Insert(i64),
        /// Deadline at an absolute time.
        InsertAt(u64),
        /// The timer inserted this many inserts ago, fired or not.
        Cancel(usize),
        /// The timer that would fire next.
        CancelEarliest,
        /// Time passes, or steps back.
        Clock(i64),
        /// Time goes to the next deadline, as the ring's time-out does.
        Sleep,
    }

    fn distances() -> impl Strategy<Value = i64> {
        prop_oneof![
            3 => -3_000_000i64..3_000_000,
            2 => 0i64..100_000_000,
            2 => 0i64..60_000_000_000,
            1 => 0i64..(1 << 62),
            1 => (0u32..62).prop_map(|bits| 1i64 << bits),
            1 => Just(500_000_000),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => distances().prop_map(Step::Insert),
            1 => prop_oneof![Just(0), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
                .prop_map(Step::InsertAt),
            4 => (0usize..40).prop_map(Step::Cancel),
            2 => Just(Step::CancelEarliest),
            3 => distances().prop_map(Step::Clock),
            1 => (-1i64 << 40..0).prop_map(Step::Clock),
            3 => Just(Step::Sleep),
        ];
        proptest::collection::vec(step, 1..200)
    }

    struct Pair {
        wheel: Wheel<u64>,
        naive: Naive,
        ids: Vec<TimerId>,
        now_ns: u64,
    }

    impl Pair {
        fn insert(&mut self, deadline_ns: u64) {
            let value = self.ids.len() as u64;
            self.ids.push(self.wheel.insert(deadline_ns, value));
            self.naive.insert(deadline_ns, value);
        }

        fn cancel(&mut self, value: u64) {
            let id = self.ids[value as usize];
            let expected = self.naive.cancel(value);
            assert_eq!(self.wheel.get_mut(id).copied(), expected);
            assert_eq!(self.wheel.cancel(id), expected);
            assert_eq!(self.wheel.cancel(id), None);
        }

        fn fire(&mut self) {
            loop {
                let fired = self.wheel.pop_due(self.now_ns);
                assert_eq!(fired, self.naive.pop_due(self.now_ns));
                if fired.is_none() {
                    return;
                }
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Insert(by) => self.insert(self.now_ns.saturating_add_signed(by)),
                Step::InsertAt(at) => self.insert(at),
                Step::Cancel(ago) => {
                    if let Some(value) = self.ids.len().checked_sub(ago + 1) {
                        self.cancel(value as u64);
                    }
                }
                Step::CancelEarliest => {
                    if let Some(&(_, value)) = self.naive.0.first() {
                        self.cancel(value);
                    }
                }
                Step::Clock(by) => self.now_ns = self.now_ns.saturating_add_signed(by),
                Step::Sleep => {
                    if let Some(at) = self.wheel.next_deadline_ns() {
                        self.now_ns = self.now_ns.max(at);
                    }
                }
            }
            self.fire();
            let next = self.naive.0.first().map(|first| first.0);
            let told = self.wheel.next_deadline_ns();
            assert_eq!(told.is_some(), next.is_some());
            assert!(told <= next);
            if self.naive.0.len() <= SCAN_MAX as usize {
                assert_eq!(told, next);
            }
            let standing = self.wheel.entries.len() - self.wheel.free.len();
            assert_eq!(standing, self.naive.0.len(), "nothing else is held");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_wheel_fires_what_a_sorted_list_fires(start in any::<u64>(), steps in steps()) {
            let mut pair = Pair {
                wheel: Wheel::default(),
                naive: Naive::default(),
                ids: Vec::new(),
                now_ns: start >> (start % 64),
            };
            for step in steps {
                pair.step(step);
            }
            pair.now_ns = u64::MAX;
            pair.fire();
            prop_assert!(pair.naive.0.is_empty());
            prop_assert!(pair.wheel.next_deadline_ns().is_none());
        }
    }

    #[test]
    fn steady_use_allocates_nothing() {
        let mut wheel = Wheel::default();
        let mut ids = std::collections::VecDeque::new();
        for round in 0..100_000u64 {
            let now_ns = round * 5_000;
            ids.push_back(wheel.insert(now_ns + 500_000_000, round));
            if ids.len() > 1_000 {
                wheel.cancel(ids.pop_front().expect("some stand"));
            }
            wheel.pop_due(now_ns);
        }
        assert_eq!(wheel.entries.len(), 1_001);
        assert_eq!(wheel.near.0.capacity(), 0, "none ever came near");
    }

    #[test]
    fn a_crowd_that_loses_its_earliest_wakes_the_shard_a_few_times_too_early_at_most() {
        let (mut wheel, second) = (Wheel::default(), 1_000_000_000u64);
        wheel.pop_due(3_600 * second);
        let first = wheel.insert(4_000 * second, 0);
        for n in 1..=5_000 {
            wheel.insert(4_001 * second + n, n);
        }
        wheel.cancel(first);
        let mut wakes = 0;
        loop {
            let at = wheel.next_deadline_ns().expect("some stand");
            assert!(at <= 4_001 * second + 1);
            wakes += 1;
            if wheel.pop_due(at).is_some() {
                assert_eq!(at, 4_001 * second + 1);
                break;
            }
        }
        assert!((2..=LEVELS).contains(&wakes), "{wakes} wakes");
    }
}
