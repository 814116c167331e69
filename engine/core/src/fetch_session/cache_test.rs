//! Sessions of one shard: their numbers, what they answer, and who goes when it gets tight.

use std::sync::Arc;

use super::super::{Seen, Terms, TopicRef};
use super::*;

const LIMITS: CacheLimits = CacheLimits {
    slots: 3,
    bytes: 1 << 20,
    eviction_ms: 1000,
    shard: 1,
    shards: 4,
};

fn topic(name: &str) -> TopicRef {
    TopicRef::Name(Arc::from(name))
}

fn wanted(name: &str, index: i32, fetch_offset: i64) -> Wanted {
    let terms = Terms {
        fetch_offset,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 100,
    };
    Wanted {
        topic: topic(name),
        index,
        terms,
    }
}

fn request(session_id: i32, epoch: i32, wanted: Vec<Wanted>) -> SessionRequest {
    SessionRequest {
        session_id,
        epoch,
        by_id: false,
        privileged: false,
        wanted,
        forgotten: Vec::new(),
    }
}

fn marks(high_watermark: i64) -> Found {
    Found {
        marks: Seen {
            high_watermark,
            log_start_offset: 0,
        },
        has_records: false,
        is_error: false,
        diverges: false,
    }
}

fn partitions(count: i32) -> Vec<(Wanted, Found)> {
    (0..count).map(|p| (wanted("t", p, 0), marks(5))).collect()
}

fn open(cache: &mut SessionCache, count: i32, now_ms: i64) -> i32 {
    let random = now_ms as u64 * 1000 + count as u64;
    cache.create(false, false, partitions(count).into_iter(), random, now_ms)
}

/// The next request of a session; its partitions, and whether `found` is news to each.
fn poll(
    cache: &mut SessionCache,
    request: SessionRequest,
    found: impl Fn(&Wanted) -> Found,
) -> Vec<(i32, bool)> {
    let Plan::Incremental {
        session_id,
        epoch,
        planned,
    } = cache.begin(request, 0)
    else {
        panic!("not incremental");
    };
    let answers: Vec<_> = planned.iter().map(|p| found(&p.wanted)).collect();
    let news = planned
        .iter()
        .zip(&answers)
        .map(|(planned, found)| (planned.wanted.index, found.is_news_to(&planned.seen)))
        .collect();
    assert!(cache.finish(session_id, epoch, planned.iter().zip(answers)));
    news
}

#[test]
fn ids_carry_the_shard_and_are_never_shared() {
    for shards in [1, 2, 7, 1024] {
        let mut before = 0;
        for shard in 0..shards {
            let cache = SessionCache::new(CacheLimits {
                shard,
                shards,
                ..LIMITS
            });
            let (first, last) = cache.id_range();
            assert!(first > before && last > first, "{shard} of {shards}");
            before = last;
        }
    }
    let mut cache = SessionCache::new(LIMITS);
    let (first, last) = cache.id_range();
    let span = (last - first) as u64 + 1;
    // The same chance twice, and one at the end of the range: three ids.
    let mut make = |random| {
        let one = partitions(1);
        cache.create(false, false, one.into_iter(), random, 0)
    };
    assert_eq!(make(span - 1), last);
    assert_eq!(make(2 * span - 1), first);
    assert_eq!(make(0), first + 1);
}

#[test]
fn epochs_follow_one_another_and_skip_zero() {
    assert_eq!(next_epoch(INITIAL_EPOCH), 1);
    assert_eq!(next_epoch(41), 42);
    assert_eq!(next_epoch(i32::MAX), 1);
    assert_eq!(next_epoch(FINAL_EPOCH), FINAL_EPOCH);
    assert_eq!(next_epoch(i32::MIN), FINAL_EPOCH);
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 1, 0);
    for wrong in [2, i32::MAX, i32::MIN, -2] {
        assert_eq!(
            cache.begin(request(id, wrong, vec![]), 0),
            Plan::InvalidEpoch
        );
    }
    for epoch in 1..5 {
        assert_eq!(
            poll(&mut cache, request(id, epoch, vec![]), |_| marks(5)),
            [(0, false)]
        );
        assert_eq!(
            cache.begin(request(id, epoch, vec![]), 0),
            Plan::InvalidEpoch
        );
    }
}

#[test]
fn sessions_that_are_not_here_are_said_to_be_so() {
    let mut cache = SessionCache::new(LIMITS);
    for id in [0, 1, -1, i32::MIN, i32::MAX] {
        assert_eq!(cache.begin(request(id, 1, vec![]), 0), Plan::IdNotFound);
    }
    let other_shard = SessionCache::new(CacheLimits { shard: 2, ..LIMITS });
    let id = open(&mut cache, 1, 0);
    assert!(id < other_shard.id_range().0);
}

#[test]
fn a_full_request_opens_and_the_final_epoch_closes() {
    let mut cache = SessionCache::new(LIMITS);
    let named = vec![wanted("t", 0, 0)];
    let plan = cache.begin(request(NO_SESSION, FINAL_EPOCH, named.clone()), 0);
    assert_eq!(plan, Plan::Sessionless(named.clone()));
    let plan = cache.begin(request(NO_SESSION, INITIAL_EPOCH, named.clone()), 0);
    assert_eq!(plan, Plan::Full(named.clone()));
    let first = open(&mut cache, 2, 0);
    // Opening anew with the old id lets the old one go.
    let plan = cache.begin(request(first, INITIAL_EPOCH, named.clone()), 0);
    assert_eq!(plan, Plan::Full(named.clone()));
    assert_eq!(cache.begin(request(first, 1, vec![]), 0), Plan::IdNotFound);
    let second = open(&mut cache, 2, 0);
    let plan = cache.begin(request(second, FINAL_EPOCH, named.clone()), 0);
    assert_eq!(plan, Plan::Sessionless(named));
    assert_eq!((cache.len(), cache.partitions(), cache.bytes()), (0, 0, 0));
    assert_eq!(
        cache.create(false, false, partitions(0).into_iter(), 1, 0),
        NO_SESSION
    );
}

#[test]
fn only_what_changed_is_news() {
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 3, 0);
    let mut next = 0;
    let mut look = |cache: &mut SessionCache, found: &dyn Fn(&Wanted) -> Found| {
        next += 1;
        let news = poll(cache, request(id, next, vec![]), found);
        let told = news.iter().filter(|(_, is_news)| *is_news);
        told.map(|(index, _)| *index).collect::<Vec<_>>()
    };
    let only = |index: i32, found: Found| {
        move |wanted: &Wanted| {
            if wanted.index == index {
                found
            } else {
                marks(5)
            }
        }
    };
    assert_eq!(look(&mut cache, &|_| marks(5)), []);
    assert_eq!(look(&mut cache, &only(1, marks(6))), [1]);
    assert_eq!(look(&mut cache, &only(1, marks(6))), [], "told already");
    let mut raised = marks(6);
    raised.marks.log_start_offset = 2;
    assert_eq!(look(&mut cache, &only(1, raised)), [1], "the log's start");
    let mut error = raised;
    (error.is_error, error.marks) = (true, Seen::NOTHING);
    assert_eq!(look(&mut cache, &only(1, error)), [1]);
    assert_eq!(look(&mut cache, &only(1, error)), [1], "every time");
    assert_eq!(look(&mut cache, &only(1, raised)), [1], "the error is gone");
    let mut diverges = raised;
    diverges.diverges = true;
    assert_eq!(look(&mut cache, &only(1, diverges)), [1]);
    assert_eq!(
        look(&mut cache, &only(1, diverges)),
        [1],
        "until it is mended"
    );
    // An error that knows the marks (an offset out of range) is news once more when it ends.
    let mut out_of_range = raised;
    out_of_range.is_error = true;
    assert_eq!(look(&mut cache, &only(1, out_of_range)), [1]);
    assert_eq!(look(&mut cache, &only(1, raised)), [1]);
    assert_eq!(look(&mut cache, &only(1, raised)), []);
}

#[test]
fn partitions_that_gave_data_come_last_the_next_time() {
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 4, 0);
    let mut data = marks(5);
    data.has_records = true;
    let first_two = |wanted: &Wanted| if wanted.index < 2 { data } else { marks(5) };
    let order = |news: Vec<(i32, bool)>| news.into_iter().map(|(i, _)| i).collect::<Vec<_>>();
    let news = poll(&mut cache, request(id, 1, vec![]), first_two);
    assert_eq!(news, [(0, true), (1, true), (2, false), (3, false)]);
    let news = poll(&mut cache, request(id, 2, vec![]), |_| marks(5));
    assert_eq!(order(news), [2, 3, 0, 1]);
    let news = poll(&mut cache, request(id, 3, vec![]), |_| data);
    assert_eq!(order(news), [2, 3, 0, 1]);
}

#[test]
fn requests_add_change_and_forget_partitions() {
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 2, 0);
    let mut change = request(id, 1, vec![wanted("t", 1, 42), wanted("u", 0, 7)]);
    change.forgotten = vec![(topic("t"), 0), (topic("never"), 3), (topic("t"), 0)];
    let Plan::Incremental { planned, .. } = cache.begin(change, 0) else {
        panic!("not incremental");
    };
    let held: Vec<_> = planned
        .iter()
        .map(|p| {
            (
                p.wanted.index,
                p.wanted.terms.fetch_offset,
                p.seen.high_watermark,
            )
        })
        .collect();
    assert_eq!(held, [(1, 42, 5), (0, 7, -1)]);
    assert_eq!(cache.partitions(), 2);
    // The last one forgotten: the session ends, and what was named is answered.
    let mut last = request(id, 2, vec![]);
    last.forgotten = vec![(topic("t"), 1), (topic("u"), 0)];
    assert_eq!(cache.begin(last, 0), Plan::Sessionless(vec![]));
    assert_eq!(cache.begin(request(id, 3, vec![]), 0), Plan::IdNotFound);
    assert_eq!((cache.len(), cache.partitions(), cache.bytes()), (0, 0, 0));
}

#[test]
fn a_session_names_topics_one_way() {
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 1, 0);
    let mut by_id = request(id, 1, vec![]);
    by_id.by_id = true;
    assert_eq!(cache.begin(by_id, 0), Plan::TopicIdError);
    // The session is still there, as it was.
    assert_eq!(
        poll(&mut cache, request(id, 1, vec![]), |_| marks(5)),
        [(0, false)]
    );
    let ids = vec![(
        Wanted {
            topic: TopicRef::Id(crate::Uuid::from_parts(1, 2)),
            ..wanted("", 0, 0)
        },
        marks(5),
    )];
    let id = cache.create(false, true, ids.into_iter(), 9, 0);
    assert_eq!(cache.begin(request(id, 1, vec![]), 0), Plan::TopicIdError);
}

#[test]
fn a_request_overtaken_by_another_of_its_session_is_refused() {
    let mut cache = SessionCache::new(LIMITS);
    let id = open(&mut cache, 1, 0);
    let mut plan = |epoch| match cache.begin(request(id, epoch, vec![]), 0) {
        Plan::Incremental { epoch, planned, .. } => (epoch, planned),
        other => panic!("{other:?}"),
    };
    let (first, planned) = plan(1);
    let (second, _) = plan(2);
    let told = |planned: &'static [Planned]| planned.iter().map(|p| (p, marks(9)));
    let planned: &'static [Planned] = Vec::leak(planned);
    assert!(!cache.finish(id, first, told(planned)));
    assert!(cache.finish(id, second, told(planned)));
    // Evicted meanwhile: what was read is still an answer.
    cache.remove(id);
    assert!(cache.finish(id, second, told(planned)));
}

#[test]
fn r20_a_full_cache_gives_way_to_the_larger_and_the_followers_only() {
    let mut cache = SessionCache::new(LIMITS);
    let sessions: Vec<_> = [2, 3, 4].map(|count| open(&mut cache, count, 0)).into();
    assert!(sessions.iter().all(|id| *id != NO_SESSION));
    // Young sessions stay, however large the newcomer is.
    assert_eq!(open(&mut cache, 100, 10), NO_SESSION);
    // Old ones in use give way to larger ones, the smallest first, and not to one of their size.
    for id in &sessions {
        assert!(matches!(
            cache.begin(request(*id, 1, vec![]), 1001),
            Plan::Incremental { .. }
        ));
    }
    assert_eq!(open(&mut cache, 2, 1002), NO_SESSION);
    let large = open(&mut cache, 3, 1002);
    assert_ne!(large, NO_SESSION);
    assert_eq!(
        cache.begin(request(sessions[0], 2, vec![]), 1002),
        Plan::IdNotFound
    );
    assert_eq!((cache.len(), cache.evictions()), (3, 1));
    // A follower's goes before any consumer's, young or old.
    let follower = cache.create(true, false, partitions(1).into_iter(), 1, 1003);
    assert_ne!(follower, NO_SESSION);
    assert_eq!((cache.len(), cache.evictions()), (3, 2));
    // Consumers push no follower out while it is in use, followers no young follower.
    for now in [1004, 1005] {
        let another = cache.create(true, false, partitions(50).into_iter(), now as u64, now);
        assert_ne!(another, NO_SESSION);
    }
    assert_eq!(
        cache.create(true, false, partitions(60).into_iter(), 1006, 1006),
        NO_SESSION
    );
    assert_eq!(open(&mut cache, 100, 1006), NO_SESSION);
    // Nobody keeps a place without using it.
    assert_ne!(open(&mut cache, 1, 1003 + 1001), NO_SESSION);
    assert_eq!(
        cache.begin(request(follower, 1, vec![]), 2005),
        Plan::IdNotFound
    );
}

#[test]
fn r20_sessions_are_bounded_in_bytes() {
    let mut cache = SessionCache::new(CacheLimits {
        slots: 1_000_000,
        bytes: 64 << 10,
        ..LIMITS
    });
    assert_eq!(open(&mut cache, 1000, 0), NO_SESSION, "one that never fits");
    let mut made = 0;
    while open(&mut cache, 10, made) != NO_SESSION {
        made += 1;
        assert!(cache.bytes() <= 64 << 10);
    }
    assert!((10..30).contains(&made), "{made}");
    // Long names count.
    let long = "n".repeat(40 << 10);
    let mut cache = SessionCache::new(cache.limits);
    let one = |name: &str| vec![(wanted(name, 0, 0), marks(1))];
    let id = cache.create(false, false, one(&long).into_iter(), 1, 0);
    assert_ne!(id, NO_SESSION);
    assert_eq!(
        cache.create(false, false, one(&long).into_iter(), 2, 0),
        NO_SESSION
    );
    // A session that outgrows the bound ends; its client opens a new one.
    let more = vec![wanted(&"m".repeat(30 << 10), 0, 0)];
    assert_eq!(cache.begin(request(id, 1, more), 0), Plan::IdNotFound);
    assert_eq!((cache.len(), cache.partitions(), cache.bytes()), (0, 0, 0));
    assert_eq!(cache.evictions(), 1);
}

#[test]
fn no_slots_no_sessions() {
    let mut cache = SessionCache::new(CacheLimits { slots: 0, ..LIMITS });
    assert_eq!(open(&mut cache, 1, 0), NO_SESSION);
    assert_eq!(cache.evictions(), 0);
}

/// Against a model that keeps plain vectors: what is held, in which order, and that the books of
/// bytes and partitions are right after every step.
#[test]
fn random_histories_agree_with_a_plain_model() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    };
    let mut cache = SessionCache::new(CacheLimits { slots: 8, ..LIMITS });
    let mut model: BTreeMap<i32, (i32, Vec<i32>)> = BTreeMap::new();
    for step in 0..20_000 {
        let pick = random(model.len() as u64 + 1) as usize;
        let Some((&id, (epoch, held))) = model.iter_mut().nth(pick).filter(|_| random(50) > 0)
        else {
            if model.len() < 8 {
                let count = 1 + random(6) as i32;
                let id = cache.create(false, false, partitions(count).into_iter(), step, 0);
                assert!(model.insert(id, (1, (0..count).collect())).is_none());
            }
            continue;
        };
        let (add, drop) = (random(9) as i32, random(9) as i32);
        let mut ask = request(id, *epoch, vec![wanted("t", add, 0)]);
        ask.forgotten = vec![(topic("t"), drop)];
        if !held.contains(&add) {
            held.push(add);
        }
        held.retain(|index| *index != drop);
        *epoch += 1;
        if held.is_empty() {
            assert_eq!(
                cache.begin(ask, 0),
                Plan::Sessionless(vec![wanted("t", add, 0)])
            );
            model.remove(&id);
        } else {
            let gives = held[random(held.len() as u64) as usize];
            let news = poll(&mut cache, ask, |wanted| Found {
                has_records: wanted.index == gives,
                ..marks(5)
            });
            assert!(
                news.iter().map(|(index, _)| index).eq(held.iter()),
                "step {step}"
            );
            held.retain(|index| *index != gives);
            held.push(gives);
        }
        let count: usize = model.values().map(|(_, held)| held.len()).sum();
        assert_eq!((cache.len(), cache.partitions()), (model.len(), count));
        let bytes = model.len() * SESSION_BYTES + count * (PARTITION_BYTES + 1);
        assert_eq!(cache.bytes(), bytes);
    }
}
