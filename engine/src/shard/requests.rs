//! What a shard does with the messages of others, and of its own connections.

use std::collections::BTreeSet;
use std::rc::Rc;

use corelog_core::api::LogSize;
use corelog_runtime::mesh::Reply;
use corelog_runtime::{ShardId, vital};

use super::counts::stats;
use super::message::{CheckpointMarks, Operation, Request, Response};
use super::partition::Partition;
use super::{Shard, append, apply, dirs, offline, read, retention};
use crate::groups;
use crate::log_dirs;

/// Logs closed at a time: their flushes meet in the same commits of the file system's journal.
const CLOSE_AT_ONCE: usize = 64;

/// Takes a request. Appends get their places before this returns: messages keep their order, so
/// offsets keep the order in which one connection asked.
pub fn handle(shard: &Rc<Shard>, _from: ShardId, request: Request, reply: Reply<Response>) {
    match request {
        Request::Append(items, terms) => {
            let admitted = append::admit(shard, items);
            answer(shard, "append", reply, |shard| async move {
                Response::Append(append::append(&shard, admitted, terms).await)
            });
        }
        Request::Read(items) => answer(shard, "read", reply, |shard| async move {
            let mut answers = Vec::with_capacity(items.len());
            for item in &items {
                answers.push(read::read(&shard, item).await);
                shard.rt.yield_if_needed().await;
            }
            Response::Read(answers)
        }),
        Request::WaitForData(wait) => match read::begin_wait(shard, &wait) {
            None => reply.send(Response::DataReady),
            Some(waiter) => answer(shard, "wait_for_data", reply, |shard| async move {
                read::end_wait(&shard, &wait, waiter).await;
                Response::DataReady
            }),
        },
        Request::CancelWait(id) => {
            read::cancel_wait(shard, id);
            reply.send(Response::Done);
        }
        Request::LookupTail {
            key,
            range,
            at,
            max,
        } => {
            let found = shard
                .partition(&key)
                .ok()
                .and_then(|partition| partition.log.lookup_tail(&range, at, max));
            reply.send(Response::Tail(found));
        }
        Request::Offsets(queries) => answer(shard, "offsets", reply, |shard| async move {
            let mut answers = Vec::with_capacity(queries.len());
            for query in &queries {
                answers.push(read::offset(&shard, query).await);
                shard.rt.yield_if_needed().await;
            }
            Response::Offsets(answers)
        }),
        Request::EpochEnds(queries) => answer(shard, "epoch_ends", reply, |shard| async move {
            let mut answers = Vec::with_capacity(queries.len());
            for query in &queries {
                answers.push(read::epoch_end(&shard, query));
                shard.rt.yield_if_needed().await;
            }
            Response::EpochEnds(answers)
        }),
        Request::DeleteRecords(deletions) => answer(shard, "delete_records", reply, |shard| {
            retention::delete_records(shard, deletions)
        }),
        Request::Producers(keys) => answer(shard, "producers", reply, |shard| async move {
            let mut answers = Vec::with_capacity(keys.len());
            for key in &keys {
                answers.push(read::producers(&shard, key));
                shard.rt.yield_if_needed().await;
            }
            Response::Producers(answers)
        }),
        Request::LogSizes => {
            let (sizes, failed) = log_sizes(shard);
            reply.send(Response::LogSizes(sizes, failed));
        }
        Request::ApplyImage(image) => answer(shard, "apply_image", reply, |shard| async move {
            vital(apply::apply_image(&shard, image)).await;
            Response::ImageApplied
        }),
        Request::DirNews(news) => {
            dirs::take(shard, news);
            reply.send(Response::Done);
        }
        Request::Begin(start) => {
            dirs::begin(shard, &start);
            *shard.start.borrow_mut() = Some(start);
            reply.send(Response::Done);
        }
        Request::Admin { request, heavy } => {
            answer(shard, "admin", reply, move |shard| async move {
                Response::Admin(crate::controller::handle(&shard, request, heavy).await)
            })
        }
        Request::Group(call) => groups::call(shard, *call, reply),
        Request::CancelGroup { partition, id } => {
            groups::cancel(shard, partition, id);
            reply.send(Response::Done);
        }
        Request::Adopt(arrival) => {
            crate::connection::serve(shard, *arrival);
            reply.send(Response::Done);
        }
        Request::ConnectionEnded(address) => {
            shard.connection_limits.borrow_mut().end(address);
            reply.send(Response::Done);
        }
        Request::Stats => answer(shard, "stats", reply, |shard| async move {
            let mut stats = stats(&shard);
            groups::stats::add_groups(&shard, &mut stats).await;
            Response::Stats(Box::new(stats))
        }),
        Request::Checkpoint => answer(shard, "checkpoint", reply, |shard| async move {
            Response::Checkpoint(vital(checkpoint(&shard)).await)
        }),
        Request::Marks => reply.send(Response::Checkpoint(marks(shard))),
        Request::Scrubbed(number, outcome) => {
            shard.scrub.heard(number, *outcome);
            reply.send(Response::Done);
        }
        Request::Operate(operation) => operate(shard, operation, reply),
    }
}

fn operate(shard: &Rc<Shard>, operation: Operation, reply: Reply<Response>) {
    match operation {
        Operation::LowerCheckpoint(topic, partition, offset) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "lower_checkpoint", reply, |shard| async move {
                Response::Lowered(match dirs {
                    Some(dirs) => vital(dirs.lower(&shard, (topic, partition), offset)).await,
                    None => Err(dirs_elsewhere()),
                })
            });
        }
        Operation::RaiseLogStart {
            dir,
            topic,
            partition,
            log_start,
            recovery_point,
        } => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "raise_log_start", reply, move |shard| async move {
                let name = (topic, partition);
                Response::Raised(match dirs {
                    Some(dirs) => {
                        let raised =
                            dirs.raise_log_start(&shard, dir, name, log_start, recovery_point);
                        raised.await
                    }
                    None => Err(dirs_elsewhere()),
                })
            });
        }
        Operation::ForgetCheckpoints(partitions) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "forget_checkpoints", reply, |shard| async move {
                Response::Lowered(match dirs {
                    Some(dirs) => vital(dirs.forget(&shard, &partitions)).await,
                    None => Err(dirs_elsewhere()),
                })
            });
        }
        Operation::ForgetFormer(name) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "forget_former", reply, |shard| async move {
                Response::Lowered(match dirs {
                    Some(dirs) => vital(dirs.forget_former(&shard, name)).await,
                    None => Err(dirs_elsewhere()),
                })
            });
        }
        Operation::DirFound(at, found) => {
            log_dirs::report(shard, at, found);
            reply.send(Response::Done);
        }
        Operation::ReleaseReserve(at) => {
            let dirs = shard.log_dirs.borrow().clone();
            answer(shard, "release_reserve", reply, move |_| async move {
                Response::Released(match dirs {
                    Some(dirs) => dirs.release(at).await,
                    None => false,
                })
            });
        }
        Operation::Reload(config) => answer(shard, "reload", reply, |shard| async move {
            vital(apply::reload(&shard, config)).await;
            Response::Done
        }),
        Operation::Ping => reply.send(Response::Done),
        Operation::Stop => answer(shard, "stop", reply, |shard| async move {
            let (marks, unclean) = vital(stop(&shard)).await;
            Response::Stopped(marks, unclean)
        }),
        Operation::Shutdown => answer(shard, "shutdown", reply, |shard| async move {
            vital(crate::daemon::shutdown::shutdown(&shard)).await;
            Response::Done
        }),
        Operation::Exit => {
            reply.send(Response::Done);
            shard.exiting.set(true);
            shard.exit.notify_all();
        }
    }
}

fn dirs_elsewhere() -> std::io::Error {
    std::io::Error::other("the log directories are not open on this shard")
}

fn answer<F: Future<Output = Response> + 'static>(
    shard: &Rc<Shard>,
    name: &'static str,
    reply: Reply<Response>,
    work: impl FnOnce(Rc<Shard>) -> F,
) {
    let future = work(Rc::clone(shard));
    shard.spawn(name, async move { reply.send(future.await) });
}

fn marks_of(partition: &Partition) -> CheckpointMarks {
    let marks = partition.log.marks();
    CheckpointMarks {
        topic: partition.topic.clone(),
        partition: partition.key.partition,
        dir: partition.dir,
        recovery_point: marks.recovery_point,
        high_watermark: marks.high_watermark,
        log_start: marks.log_start,
    }
}

/// Marks of all partitions, also of those that wait for their logs to be opened: of these, what the
/// start found.
fn marks(shard: &Shard) -> Vec<CheckpointMarks> {
    let mut marks: Vec<CheckpointMarks> = shard
        .partitions
        .borrow()
        .values()
        .map(|partition| marks_of(partition))
        .collect();
    if !shard.offline.is_empty() {
        marks.extend(offline::marks(shard));
    }
    marks
}

/// Sizes of the shard's logs, and the directories in which one of them failed or could not be opened.
fn log_sizes(shard: &Shard) -> (Vec<(usize, LogSize)>, BTreeSet<usize>) {
    let partitions = shard.partitions.borrow();
    let size = |partition: &Rc<Partition>| {
        let size = LogSize {
            topic: partition.topic.clone(),
            partition: partition.key.partition,
            bytes: partition.log.size_bytes(),
        };
        (partition.dir, size)
    };
    let failed = partitions
        .values()
        .filter(|partition| partition.log.failure().is_some());
    let mut dirs: BTreeSet<usize> = failed.map(|partition| partition.dir).collect();
    dirs.extend(shard.offline.dirs());
    dirs.extend(shard.dirs.offline());
    (partitions.values().map(size).collect(), dirs)
}

/// Flushes every log that has something new and gives the marks for the checkpoint files.
async fn checkpoint(shard: &Rc<Shard>) -> Vec<CheckpointMarks> {
    for partition in shard.partitions() {
        if let Err(error) = partition.log.checkpoint().await {
            tracing::warn!(topic = %partition.topic, partition = partition.key.partition, %error,
                "checkpoint failed; the recovery point stays where it is");
        }
    }
    marks(shard)
}

/// Closes connections, then logs. Gives the directories in which not every log was closed cleanly.
async fn stop(shard: &Rc<Shard>) -> (Vec<CheckpointMarks>, BTreeSet<usize>) {
    shard.stopping.set(true);
    crate::connection::close_all(shard).await;
    groups::stop(shard);
    let mut unclean = shard.undeleted.borrow().clone();
    unclean.extend(shard.offline.dirs());
    let mut closed = Vec::from_iter(offline::marks(shard));
    for group in shard.partitions().chunks(CLOSE_AT_ONCE) {
        let mut closing = Vec::with_capacity(group.len());
        for partition in group {
            partition.fire_waiters();
            let log = partition.log.clone();
            let task = async move { log.close().await };
            closing.push(shard.rt.spawn("close_log", task));
        }
        for (partition, task) in group.iter().zip(closing) {
            let ended = task.await;
            if !matches!(ended, Some(Ok(_))) {
                let error = ended.map(Result::err);
                tracing::error!(topic = %partition.topic, partition = partition.key.partition, ?error,
                    "the log did not close cleanly; it will be recovered at the next start");
                unclean.insert(partition.dir);
            }
            closed.push(marks_of(partition));
        }
    }
    (closed, unclean)
}
