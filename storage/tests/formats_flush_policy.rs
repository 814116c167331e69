//! The table of what power loss may take, row by row, and the flush machine against a model.

use corelog_storage::flush_policy::Requirement::{Flushed, Written};
use corelog_storage::flush_policy::{FlushPolicy, FlushState, Requirement};
use proptest::prelude::*;

fn policy(messages: Option<u64>, ms: Option<u64>) -> FlushPolicy {
    FlushPolicy { messages, ms }
}

fn state(messages: Option<u64>, ms: Option<u64>) -> FlushState {
    FlushState::new(policy(messages, ms), 0, 0, 0)
}

/// Appends one record at each time.
fn append_each(s: &mut FlushState, from: i64, times: &[u64]) -> Vec<Requirement> {
    (from..)
        .zip(times)
        .map(|(at, &ms)| s.on_append(ms, at, at + 1, 1))
        .collect()
}

fn flush_all(s: &mut FlushState, end: i64) {
    s.on_written(end);
    assert_eq!(s.on_flush_submitted(), end);
    s.on_flushed(end);
}

#[test]
fn r30_with_neither_set_an_ack_waits_for_written_and_no_flush_is_wanted() {
    let mut s = state(None, None);
    assert_eq!(append_each(&mut s, 0, &[0, 10, 1_000_000]), [Written; 3]);
    assert_eq!((s.flush_wanted_to(), s.deadline_ms()), (None, None));
    assert_eq!(s.committable_end(2, 0), 2);
    assert_eq!(s.unflushed_records(), 3);
}

#[test]
fn r30_flush_messages_1_makes_every_ack_wait_for_its_flush() {
    let mut s = state(Some(1), None);
    assert_eq!(append_each(&mut s, 0, &[0, 0, 5]), [Flushed; 3]);
    s.on_written(3);
    assert_eq!(s.committable_end(3, 0), 0);
    assert_eq!(s.flush_wanted_to(), Some(3));
    assert_eq!(s.on_flush_submitted(), 3);
    assert_eq!(s.flush_wanted_to(), None, "one flush on its way is enough");
    assert_eq!(append_each(&mut s, 3, &[6]), [Flushed]);
    s.on_written(4);
    assert_eq!(s.flush_wanted_to(), Some(4));
    s.on_flushed(3);
    assert_eq!(
        s.committable_end(4, 3),
        3,
        "the flush moves to where it was submitted, not to the end"
    );
    s.on_flush_submitted();
    s.on_flushed(4);
    assert_eq!(s.committable_end(4, 4), 4);
    assert_eq!(append_each(&mut s, 4, &[9]), [Flushed]);
}

#[test]
fn r30_flush_messages_n_makes_the_append_wait_that_brings_the_unflushed_records_to_n() {
    let mut s = state(Some(10), None);
    assert_eq!(s.on_append(0, 0, 4, 4), Written);
    assert_eq!(s.on_append(0, 4, 9, 5), Written);
    s.on_written(9);
    assert_eq!((s.committable_end(9, 0), s.flush_wanted_to()), (9, None));
    assert_eq!(s.on_append(0, 9, 10, 1), Flushed);
    s.on_written(10);
    assert_eq!(s.due(), 10);
    assert_eq!(
        s.committable_end(10, 0),
        9,
        "up to the base offset of the append that is due"
    );
    assert_eq!(
        s.on_append(0, 10, 11, 1),
        Flushed,
        "N or more: the flush is not done yet"
    );
    s.on_flush_submitted();
    s.on_written(11);
    s.on_flushed(10);
    assert_eq!(s.unflushed_records(), 1, "counted since the last flush");
    assert_eq!(s.committable_end(11, 10), 10);
    s.on_flush_submitted();
    s.on_flushed(11);
    assert_eq!(s.on_append(0, 11, 20, 9), Written);
    assert_eq!(s.on_append(0, 20, 40, 20), Flushed);
}

#[test]
fn r30_flush_ms_runs_from_the_oldest_unflushed_append() {
    let mut s = state(None, Some(100));
    assert_eq!(append_each(&mut s, 0, &[1000, 1050, 1099]), [Written; 3]);
    assert_eq!(s.deadline_ms(), Some(1100));
    assert!(!s.on_timer(1099));
    assert_eq!(
        append_each(&mut s, 3, &[1100]),
        [Flushed],
        "T has run out already"
    );
    assert_eq!(s.deadline_ms(), None, "a flush of all of it is wanted");
    flush_all(&mut s, 4);
    assert_eq!(append_each(&mut s, 4, &[1150, 1160]), [Written; 2]);
    assert_eq!(s.deadline_ms(), Some(1250));
    s.on_written(5);
    assert!(s.on_timer(1250));
    assert_eq!(s.flush_wanted_to(), Some(5), "all that may be acknowledged");
    assert_eq!(
        s.committable_end(6, 4),
        6,
        "the timer holds back no ack that was given without it"
    );
    assert_eq!(s.on_flush_submitted(), 5);
    s.restart_clock(1251);
    s.on_flushed(5);
    assert_eq!(
        s.deadline_ms(),
        Some(1351),
        "what was not written at the flush was not acknowledged either"
    );
    assert!(!s.on_timer(1351), "and is still not written");
    assert_eq!(s.deadline_ms(), Some(1451));
    s.on_written(6);
    assert!(s.on_timer(1451));
    assert_eq!(s.flush_wanted_to(), Some(6));
    assert_eq!(state(None, Some(0)).on_append(7, 0, 1, 1), Flushed);
}

#[test]
fn r30_under_flush_ms_appends_wait_when_no_further_flush_can_start() {
    let mut s = state(None, Some(100));
    append_each(&mut s, 0, &[0]);
    s.set_flights_full(true);
    assert_eq!(append_each(&mut s, 1, &[1]), [Flushed]);
    s.set_flights_full(false);
    assert_eq!(append_each(&mut s, 2, &[2]), [Written]);
}

#[test]
fn r30_an_append_during_a_flush_is_not_late_for_what_the_flush_covers() {
    let mut s = state(None, Some(100));
    append_each(&mut s, 0, &[0]);
    s.on_written(1);
    assert!(s.on_timer(100));
    s.on_flush_submitted();
    s.restart_clock(100);
    // The flush takes long: the first append is 150 ms old, its flush is on its way.
    assert_eq!(append_each(&mut s, 1, &[150]), [Written]);
    assert_eq!(append_each(&mut s, 2, &[250]), [Flushed]);
}

#[test]
fn r30_with_both_set_the_stricter_decides() {
    let mut s = state(Some(3), Some(100));
    assert_eq!(
        append_each(&mut s, 0, &[0, 1, 2]),
        [Written, Written, Flushed]
    );
    flush_all(&mut s, 3);
    assert_eq!(append_each(&mut s, 3, &[10, 110]), [Written, Flushed]);
}

#[test]
fn r30_a_new_policy_binds_appends_from_then_on() {
    let mut s = state(None, None);
    assert_eq!(append_each(&mut s, 0, &[0, 1, 2]), [Written; 3]);
    s.set_policy(policy(Some(3), None));
    assert_eq!(
        (s.flush_wanted_to(), s.due()),
        (None, 0),
        "nothing before is due"
    );
    assert_eq!(
        append_each(&mut s, 3, &[3]),
        [Flushed],
        "records since the last flush count"
    );
    s.set_policy(policy(None, None));
    assert_eq!(append_each(&mut s, 4, &[4]), [Written]);
    s.on_written(5);
    assert_eq!(
        (s.flush_wanted_to(), s.committable_end(5, 0)),
        (Some(4), 3),
        "what was due stays due"
    );
    s.on_flush_submitted();
    s.on_flushed(5);
    assert_eq!(s.committable_end(5, 5), 5);
}

#[test]
fn a_retry_waits_for_what_the_first_append_waited_for() {
    let mut s = state(Some(2), None);
    assert_eq!(
        append_each(&mut s, 0, &[0, 0, 0]),
        [Written, Flushed, Flushed]
    );
    assert_eq!(
        (0..4).map(|at| s.requirement_of(at)).collect::<Vec<_>>(),
        [Written, Flushed, Flushed, Written]
    );
    flush_all(&mut s, 2);
    assert_eq!(s.requirement_of(1), Written, "it is flushed already");
    assert_eq!(s.requirement_of(2), Flushed);
}

#[test]
fn a_durable_write_counts_as_a_flush_on_its_way() {
    let mut s = state(Some(1), None);
    append_each(&mut s, 0, &[0, 0]);
    s.on_durable_write_submitted(2);
    assert_eq!(s.flush_wanted_to(), None);
    s.on_flush_failed();
    assert_eq!(s.flush_wanted_to(), Some(2));
}

#[test]
fn an_opened_log_counts_what_lies_past_its_recovery_point() {
    let mut s = FlushState::new(policy(Some(10), Some(50)), 100, 90, 99);
    assert_eq!(s.unflushed_records(), 9);
    assert_eq!(s.deadline_ms(), Some(150));
    assert_eq!(s.committable_end(99, 90), 99);
    assert_eq!(s.on_append(101, 99, 100, 1), Flushed);
}

#[test]
fn a_cut_takes_what_was_due_with_it() {
    let mut s = state(Some(2), None);
    append_each(&mut s, 0, &[0, 0, 0]);
    s.on_written(3);
    s.truncate_to(1);
    assert_eq!((s.unflushed_records(), s.due()), (1, 0));
    assert_eq!(
        s.committable_end(1, 0),
        1,
        "the append that is left was never due"
    );
    assert_eq!(s.on_append(0, 1, 2, 1), Flushed);
    s.restart_at(500);
    assert_eq!(s.on_append(0, 500, 501, 1), Written);
    assert_eq!(s.policy(), policy(Some(2), None));
}

/// The rules told plainly: every append is kept.
struct Model {
    policy: FlushPolicy,
    /// (base, next, records, at_ms, due)
    unflushed: Vec<(i64, i64, u64, u64, bool)>,
    flushed_end: i64,
    submitted_end: i64,
    log_end: i64,
}

impl Model {
    fn append(&mut self, now: u64, records: u64) -> Requirement {
        let before: u64 = self.unflushed.iter().map(|a| a.2).sum();
        let mut beyond = self.unflushed.iter().filter(|a| a.1 > self.submitted_end);
        let oldest = beyond.next().map_or(now, |a| a.3);
        let due = self.policy.messages.is_some_and(|n| before + records >= n)
            || self.policy.ms.is_some_and(|t| now - oldest >= t);
        let base = self.log_end;
        self.log_end += records as i64;
        self.unflushed.push((base, self.log_end, records, now, due));
        if due { Flushed } else { Written }
    }

    fn submitted(&mut self, end: i64, now: u64) {
        self.submitted_end = self.submitted_end.max(end);
        for append in self
            .unflushed
            .iter_mut()
            .filter(|a| a.1 > self.submitted_end)
        {
            append.3 = append.3.max(now);
        }
    }

    fn flushed(&mut self, end: i64) {
        self.flushed_end = end;
        self.submitted_end = self.submitted_end.max(end);
        self.unflushed.retain(|a| a.1 > end);
    }

    fn committable(&self, written: i64) -> i64 {
        let first_due = self.unflushed.iter().find(|a| a.4).map(|a| a.0);
        first_due.map_or(written, |base| written.min(base.max(self.flushed_end)))
    }
}

proptest! {
    #[test]
    fn r30_the_machine_is_the_model(
        messages in prop::option::of(1u64..20),
        ms in prop::option::of(0u64..50),
        steps in prop::collection::vec((0u8..6, 1u64..8), 1..150),
    ) {
        let mut s = state(messages, ms);
        let mut m = Model { policy: policy(messages, ms), unflushed: vec![], flushed_end: 0, submitted_end: 0, log_end: 0 };
        let mut now = 0;
        let mut ends = vec![0i64];
        let (mut written, mut covers) = (0usize, None);
        for (what, by) in steps {
            match what {
                0 | 1 => {
                    prop_assert_eq!(s.on_append(now, m.log_end, m.log_end + by as i64, by), m.append(now, by));
                    ends.push(m.log_end);
                }
                2 => now += by,
                3 => {
                    written = (written + by as usize).min(ends.len() - 1);
                    s.on_written(ends[written]);
                }
                4 => {
                    let end = s.on_flush_submitted();
                    s.restart_clock(now);
                    m.submitted(end, now);
                    covers = Some(end);
                }
                _ => {
                    if let Some(end) = covers.take() {
                        s.on_flushed(end);
                        if end > m.flushed_end {
                            m.flushed(end);
                        }
                    }
                }
            }
            let written_end = ends[written];
            prop_assert_eq!(s.committable_end(written_end, m.flushed_end), m.committable(written_end));
            prop_assert_eq!(s.unflushed_records(), m.unflushed.iter().map(|a| a.2).sum::<u64>());
            for a in &m.unflushed {
                prop_assert_eq!(s.requirement_of(a.0), if a.4 { Flushed } else { Written });
            }
            if let (Some(deadline), Some(oldest)) = (s.deadline_ms(), m.unflushed.first()) {
                prop_assert!(deadline >= oldest.3 + ms.unwrap_or(0));
            }
        }
    }

    /// Past the bound of runs the machine is stricter than the rules, never laxer.
    #[test]
    fn r30_folding_many_appends_is_never_laxer(
        messages in prop::option::of(1u64..300),
        ms in prop::option::of(0u64..300),
        steps in prop::collection::vec((1u64..4, 0u64..3), 200..300),
        flush_to in 0usize..200,
    ) {
        let mut s = state(messages, ms);
        let mut m = Model { policy: policy(messages, ms), unflushed: vec![], flushed_end: 0, submitted_end: 0, log_end: 0 };
        let mut now = 0;
        let mut ends = vec![0];
        for (i, (records, pause)) in steps.into_iter().enumerate() {
            now += pause;
            let (base, wants) = (m.log_end, m.append(now, records));
            let got = s.on_append(now, base, m.log_end, records);
            prop_assert!(got == Flushed || wants == Written);
            if got == Flushed && wants == Written {
                m.unflushed.last_mut().unwrap().4 = true;
            }
            ends.push(m.log_end);
            s.on_written(m.log_end);
            if i == 199 {
                s.on_flushed(ends[flush_to]);
                m.flushed(ends[flush_to]);
            }
            prop_assert!(s.committable_end(m.log_end, m.flushed_end) <= m.committable(m.log_end));
            prop_assert!(s.unflushed_records() >= m.unflushed.iter().map(|a| a.2).sum::<u64>());
        }
    }
}
