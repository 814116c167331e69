//! Logs that are opened, made, moved and deleted while disks refuse: a broker of one shard on the
//! simulated machine, asked as its own shards ask each other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelog_core::config::BrokerConfig;
use corelog_net::cold::messages::create_topics_request::{CreatableTopic, CreateTopicsRequestData};
use corelog_net::cold::messages::delete_topics_request::DeleteTopicsRequestData;
use corelog_record::{BatchBuilder, Codec};
use corelog_runtime::sim::{
    CrashKind, Fault, OpKind, ProcessId, ScriptedFault, Sim, SimConfig, SimWorld, Stop,
};
use corelog_runtime::{BufferPool, ShardId, mesh};

use super::Shard;
use super::message::{
    AppendItem, AppendTerms, CheckpointMarks, Deletion, PartitionKey, Request, Response,
};
use crate::controller::{AdminAnswer, AdminRequest};
use crate::daemon::boot::{Bound, watched_shard_main};
use crate::daemon::{Means, Shared, shutdown};

const ONE: &str = "/data/one";
const TWO: &str = "/data/two";

fn config() -> Arc<BrokerConfig> {
    let text = format!(
        "node.id=1\nprocess.roles=broker,controller\nlisteners=PLAINTEXT://10.0.0.1:9092\n\
         log.dirs={ONE},{TWO}\ncorelog.shards=1\ncorelog.disk.reserve.bytes=0\n\
         log.segment.delete.delay.ms=1000\n"
    );
    let parsed = BrokerConfig::parse("test", &text, &[]);
    Arc::new(parsed.expect("a good configuration").0)
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Kill,
}

/// Runs a process up to the end of `body`; `None` when the planned crash came first.
fn try_run<T: 'static, F: Future<Output = T> + 'static>(
    world: &SimWorld,
    end: End,
    body: impl FnOnce(Rc<Shard>) -> F,
) -> Option<T> {
    let mut sim = Sim::new(world);
    sim.start(ProcessId::MAIN);
    let address: SocketAddr = "10.0.0.1:9092".parse().unwrap();
    let (socket, _) = world.listen(ProcessId::MAIN, address, 8).unwrap();
    let name: Arc<str> = Arc::from("PLAINTEXT");
    let ports = BTreeMap::from([(name.to_string(), address.port())]);
    let means = Means {
        shards: 1,
        memory_bytes: 64 << 20,
        open_files_max: 1024,
        planted: None,
        take_lock: None,
        unusable_dirs: BTreeMap::new(),
    };
    let bound = vec![Bound { name, socket }];
    let (shared, ready) = Shared::new(config(), bound, &ports, means);
    let seed = mesh::<Request, Response>(1, 64).remove(0);
    let made: Rc<RefCell<Option<Rc<Shard>>>> = Rc::default();
    let noted = Rc::clone(&made);
    let pool = BufferPool::new(4 << 20);
    sim.spawn_shard(ProcessId::MAIN, ShardId(0), pool, move |rt| {
        watched_shard_main(rt, seed, shared, move |shard| {
            *noted.borrow_mut() = Some(Rc::clone(shard));
        })
    });
    let mut started = None;
    let stop = sim.run_until(|| {
        started = started.take().or_else(|| ready.try_recv().ok());
        started.is_some()
    });
    if stop != Stop::Condition {
        return None;
    }
    started.expect("asked above").expect("the broker starts");
    let shard = made.borrow_mut().take().expect("made before it was ready");
    let said: Rc<RefCell<Option<T>>> = Rc::default();
    let (noted, work) = (Rc::clone(&said), body(Rc::clone(&shard)));
    let of_task = Rc::clone(&shard);
    let task = shard.rt.spawn_vital("test", async move {
        let value = work.await;
        if end == End::Clean {
            shutdown::shutdown(&of_task).await;
        }
        *noted.borrow_mut() = Some(value);
    });
    task.detach();
    drop(shard);
    let stop = sim.run_until(|| said.borrow().is_some());
    sim.kill(ProcessId::MAIN);
    let value = said.borrow_mut().take();
    (stop == Stop::Condition).then(|| value.expect("the condition"))
}

fn run<T: 'static, F: Future<Output = T> + 'static>(
    world: &SimWorld,
    end: End,
    body: impl FnOnce(Rc<Shard>) -> F,
) -> T {
    try_run(world, end, body).expect("no crash is planned")
}

fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}

fn fault(world: &SimWorld, kind: OpKind, path: &str, (skip, times): (u64, u64), fault: Fault) {
    world.add_fault(ScriptedFault {
        kind,
        path_contains: path.to_owned(),
        skip,
        times,
        fault,
    });
}

async fn create(shard: &Rc<Shard>, topic: &str, partitions: i32) {
    let topic = CreatableTopic::default()
        .with_name(topic.to_owned().into())
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequestData::default().with_topics(vec![topic]);
    let answer =
        crate::controller::handle(shard, AdminRequest::CreateTopics(Arc::new(request)), false)
            .await;
    let AdminAnswer::CreateTopics(answer) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(answer.topics[0].error_code, 0, "{answer:?}");
}

async fn delete(shard: &Rc<Shard>, topic: &str) {
    let request =
        DeleteTopicsRequestData::default().with_topic_names(vec![topic.to_owned().into()]);
    let answer = crate::controller::handle(
        shard,
        AdminRequest::DeleteTopics(5, Arc::new(request)),
        false,
    )
    .await;
    let AdminAnswer::DeleteTopics(answer) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

fn key(shard: &Shard, topic: &str, partition: i32) -> PartitionKey {
    let topic_id = shard.image().topic(topic).expect("it was made").id;
    PartitionKey {
        topic_id,
        partition,
    }
}

/// Appends batches of 100 records; gives the offset of the first.
async fn append(shard: &Rc<Shard>, key: PartitionKey, batches: usize) -> i64 {
    let mut first = None;
    for _ in 0..batches {
        let mut builder = BatchBuilder::new(Codec::None, 1_700_000_000_000);
        for _ in 0..100 {
            builder.append(1_700_000_000_000, None, Some(b"value"), &[]);
        }
        let records = Bytes::from(builder.build());
        let terms = AppendTerms {
            acks: 1,
            timeout_ms: 10_000,
        };
        let item = AppendItem { key, records };
        let answer = shard.call(ShardId(0), Request::Append(vec![item], terms));
        let Some(Response::Append(mut answers)) = answer.await else {
            panic!("no answer");
        };
        let answer = answers.remove(0).expect("taken");
        first.get_or_insert(answer.base_offset);
    }
    first.expect("a batch")
}

async fn delete_records(shard: &Rc<Shard>, key: PartitionKey, offset: i64) {
    let deletion = Deletion {
        key,
        offset,
        timeout_ms: 10_000,
    };
    let answer = shard.call(ShardId(0), Request::DeleteRecords(vec![deletion]));
    let Some(Response::DeleteRecords(answers)) = answer.await else {
        panic!("no answer");
    };
    assert_eq!(answers, [Ok(offset)]);
}

/// Log start, end and recovery point of an open partition.
fn marks(shard: &Shard, key: PartitionKey) -> (i64, i64, i64) {
    let partition = shard.partition(&key).expect("it is open");
    let marks = partition.log.marks();
    (marks.log_start, marks.high_watermark, marks.recovery_point)
}

async fn until(shard: &Shard, what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        shard.rt.sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain: {what}");
}

/// Checkpoints of all logs, as written now and then.
async fn checkpoint(shard: &Rc<Shard>) {
    let gather = |request: fn() -> Request| crate::daemon::background::gather(shard, request);
    gather(|| Request::Checkpoint).await;
    let before = crate::daemon::background::lowered(shard);
    let marks: Vec<CheckpointMarks> = gather(|| Request::Marks).await;
    let written = crate::daemon::background::write(shard, &marks, true, &before).await;
    assert!(written);
}

#[test]
fn r05_r31_a_topic_made_again_keeps_its_records_where_the_old_one_could_not_be_forgotten() {
    for seed in 0..4 {
        let world = world(seed);
        let disk = world.clone();
        run(&world, End::Clean, move |shard| async move {
            create(&shard, "t", 1).await;
            let old = key(&shard, "t", 0);
            append(&shard, old, 10).await;
            delete_records(&shard, old, 900).await;
            // Deleted, and made again while the checkpoints cannot be written; then they can.
            let no_space = |times| {
                fault(
                    &disk,
                    OpKind::Write,
                    "checkpoint",
                    (0, times),
                    Fault::NoSpace,
                );
            };
            no_space(1000);
            delete(&shard, "t").await;
            if seed % 2 == 0 {
                disk.clear_faults();
            }
            create(&shard, "t", 1).await;
            let new = key(&shard, "t", 0);
            assert_eq!(shard.partition(&new).is_ok(), seed % 2 == 0);
            disk.clear_faults();
            until(&shard, "the new log, and space", || {
                shard.partition(&new).is_ok() && !shard.dirs.is_full(0)
            })
            .await;
            assert_eq!(append(&shard, new, 1).await, 0);
            checkpoint(&shard).await;
        });
        run(&world, End::Kill, |shard| async move {
            assert_eq!(marks(&shard, key(&shard, "t", 0)), (0, 100, 100));
        });
        assert!(!world.paths().iter().any(|path| path.contains(".aside")));
    }
}

#[test]
fn r05_checkpoints_forget_a_deleted_topic_when_they_can_be_written_again() {
    let world = world(10);
    let disk = world.clone();
    run(&world, End::Kill, move |shard| async move {
        create(&shard, "t", 1).await;
        append(&shard, key(&shard, "t", 0), 1).await;
        checkpoint(&shard).await;
        fault(
            &disk,
            OpKind::Write,
            "checkpoint",
            (0, 1000),
            Fault::NoSpace,
        );
        delete(&shard, "t").await;
        let dirs = shard.log_dirs.borrow().clone().expect("shard 0 has them");
        let name = ("t".to_owned(), 0);
        let first = Rc::clone(dirs.dirs()[0].online().expect("it works"));
        assert!(first.is_checkpointed(&name));
        disk.clear_faults();
        until(&shard, "it is forgotten", || !first.is_checkpointed(&name)).await;
    });
}

#[test]
fn r33_a_creation_that_failed_half_way_does_not_begin_where_the_old_topic_did() {
    let world = world(20);
    run(&world, End::Clean, |shard| async move {
        create(&shard, "t", 1).await;
        append(&shard, key(&shard, "t", 0), 10).await;
        delete_records(&shard, key(&shard, "t", 0), 900).await;
    });
    let disk = world.clone();
    run(&world, End::Clean, move |shard| async move {
        assert_eq!(marks(&shard, key(&shard, "t", 0)), (900, 1000, 1000));
        delete(&shard, "t").await;
        let no_space = Fault::NoSpace;
        fault(
            &disk,
            OpKind::Write,
            "t-0/partition.metadata",
            (0, 1),
            no_space,
        );
        create(&shard, "t", 1).await;
        let new = key(&shard, "t", 0);
        assert!(shard.partition(&new).is_err(), "it failed half-way");
        until(&shard, "the new log", || shard.partition(&new).is_ok()).await;
        assert_eq!(marks(&shard, new), (0, 0, 0));
        assert_eq!(append(&shard, new, 1).await, 0);
    });
    run(&world, End::Clean, |shard| async move {
        assert_eq!(marks(&shard, key(&shard, "t", 0)), (0, 100, 100));
    });
}

/// A partition with deleted records, whose directory was moved while the broker was down.
fn moved(seed: u64) -> SimWorld {
    let world = world(seed);
    run(&world, End::Kill, |shard| async move {
        create(&shard, "t", 1).await;
        append(&shard, key(&shard, "t", 0), 10).await;
        delete_records(&shard, key(&shard, "t", 0), 550).await;
        shutdown::shutdown(&shard).await;
        let rt = &shard.rt;
        let (from, to) = (format!("{ONE}/t-0"), format!("{TWO}/t-0"));
        rt.rename(from, to).await.expect("both are there");
        rt.sync_dir(ONE).await.expect("it is there");
        rt.sync_dir(TWO).await.expect("it is there");
    });
    world
}

#[test]
fn r05_r33_a_partition_moved_by_hand_keeps_its_log_start_and_is_not_read_through() {
    let world = moved(30);
    for _ in 0..2 {
        run(&world, End::Clean, |shard| async move {
            assert_eq!(marks(&shard, key(&shard, "t", 0)), (550, 1000, 1000));
            assert_eq!(shard.storage.counters().recoveries, 0);
            let dirs = shard.log_dirs.borrow().clone().expect("shard 0 has them");
            let name = ("t".to_owned(), 0);
            let named = dirs.dirs().iter().map(|dir| {
                let open = dir.online().expect("it works");
                open.is_checkpointed(&name)
            });
            assert_eq!(named.collect::<Vec<_>>(), [false, true]);
        });
    }
}

#[test]
fn r05_r33_a_crash_at_any_change_of_the_disk_brings_no_deleted_record_of_a_moved_partition_back() {
    for kind in [CrashKind::KillProcess, CrashKind::PowerLoss] {
        let mut crashes = 0;
        for at in 1.. {
            let world = moved(at);
            world.set_crash_kind(kind);
            world.set_crash_at(Some(world.write_count() + at));
            let log_start = |shard: Rc<Shard>| async move { marks(&shard, key(&shard, "t", 0)) };
            let whole = try_run(&world, End::Kill, log_start);
            world.set_crash_at(None);
            let again = run(&world, End::Kill, log_start);
            assert_eq!((again.0, again.1), (550, 1000), "{kind:?} at {at}");
            if let Some(whole) = whole {
                assert_eq!((whole.0, whole.1), (550, 1000));
                break;
            }
            crashes += 1;
        }
        assert!(crashes > 10, "{crashes}");
    }
}

#[test]
fn r33_metadata_and_settings_do_not_wait_for_a_log_that_is_tried_again() {
    const LONG: Duration = Duration::from_secs(3600);
    let world = world(40);
    run(&world, End::Clean, |shard| async move {
        create(&shard, "slow", 1).await;
        append(&shard, key(&shard, "slow", 0), 1).await;
    });
    // The first try fails, the second takes an hour.
    let identity = "slow-0/partition.metadata";
    fault(&world, OpKind::Open, identity, (0, 1), Fault::NoSpace);
    fault(&world, OpKind::Open, identity, (0, 1), Fault::Slow(LONG));
    let disk = world.clone();
    run(&world, End::Clean, move |shard| async move {
        let began = shard.rt.now();
        let old = key(&shard, "slow", 0);
        assert!(shard.partition(&old).is_err());
        shard.rt.sleep(Duration::from_secs(5)).await;
        create(&shard, "new", 1).await;
        append(&shard, key(&shard, "new", 0), 1).await;
        super::apply::reload(&shard, shard.static_config()).await;
        delete(&shard, "new").await;
        assert_eq!(shard.offline.len(), 1, "it is still being opened");
        assert!(shard.rt.now().0 - began.0 < LONG.as_nanos() as u64);
        // Only its own deletion waits: its files go, and a topic made again is another.
        delete(&shard, "slow").await;
        assert!(shard.rt.now().0 - began.0 >= LONG.as_nanos() as u64);
        assert_eq!(shard.offline.len(), 0);
        assert!(!disk.paths().contains(&format!("{ONE}/slow-0/")));
        create(&shard, "slow", 1).await;
        assert_eq!(append(&shard, key(&shard, "slow", 0), 1).await, 0);
    });
}

#[test]
fn r33_a_deleted_topic_leaves_no_files_of_a_log_that_could_not_be_opened() {
    let world = world(50);
    run(&world, End::Clean, |shard| async move {
        create(&shard, "t", 1).await;
        append(&shard, key(&shard, "t", 0), 1).await;
    });
    fault(&world, OpKind::Open, "t-0/0000", (0, 1000), Fault::NoSpace);
    let disk = world.clone();
    run(&world, End::Clean, move |shard| async move {
        assert!(shard.partition(&key(&shard, "t", 0)).is_err());
        let named = || disk.paths().iter().any(|path| path.contains("/t-0"));
        assert!(named());
        delete(&shard, "t").await;
        until(&shard, "its files are gone", || !named()).await;
        let dirs = shard.log_dirs.borrow().clone().expect("shard 0 has them");
        let first = dirs.dirs()[0].online().expect("it works");
        assert!(!first.is_checkpointed(&("t".to_owned(), 0)));
        disk.clear_faults();
        create(&shard, "t", 1).await;
        assert_eq!(append(&shard, key(&shard, "t", 0), 1).await, 0);
    });
}

#[test]
fn r33_what_a_failed_directory_says_of_a_former_topic_stops_no_log_elsewhere() {
    let world = world(60);
    let disk = world.clone();
    run(&world, End::Kill, move |shard| async move {
        create(&shard, "t", 2).await;
        append(&shard, key(&shard, "t", 1), 1).await;
        checkpoint(&shard).await;
        fault(
            &disk,
            OpKind::Write,
            "checkpoint",
            (0, 1000),
            Fault::NoSpace,
        );
        delete(&shard, "t").await;
        let dirs = shard.log_dirs.borrow().clone().expect("shard 0 has them");
        dirs.fail(&shard, 1, &"pulled".into());
        disk.clear_faults();
        until(&shard, "the metadata knows", || {
            let image = shard.image();
            image.broker(1).is_some_and(|b| b.directories.len() == 1)
        })
        .await;
        create(&shard, "t", 2).await;
        append(&shard, key(&shard, "t", 1), 1).await;
        let lowered = dirs.lower(&shard, ("t".to_owned(), 1), 50).await;
        lowered.unwrap();
    });
}
