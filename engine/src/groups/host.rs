//! One coordinator and what it lives from: its partition's log, its timer, the askers that wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_core::group::{
    Command, Event, GroupCoordinator, GroupSettings, Input, WriteError, WriteRecord,
};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_runtime::Reply;
use corelog_runtime::sync::Notify;

use crate::errors::{error_code, group_write_error};
use crate::shard::Shard;
use crate::shard::append::{admit, append};
use crate::shard::message::{AppendItem, AppendTerms, GroupCall, Response};
use crate::shard::partition::Partition;

/// Least time between two ticks, in milliseconds: a deadline that stays in the past does not spin.
const TICK_MS_MIN: i64 = 5;
/// The coordinator's own writes are waited for as long as they take: an answer that they failed
/// must not be followed by their records in the log.
const WRITE_TERMS: AppendTerms = AppendTerms {
    acks: -1,
    timeout_ms: i32::MAX,
};

/// How far a coordinator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It reads its log; the core answers that it does.
    Loading,
    /// It answers.
    Active,
    /// Its log could not be read: it is nobody's coordinator.
    Failed,
    /// Its partition is gone.
    Ended,
}

/// The outcome of a write, once it is known.
type Outcome = Option<Result<(), WriteError>>;

/// A hosted coordinator. Shard: the owner of its partition.
pub struct Hosted {
    partition: Rc<Partition>,
    core: RefCell<GroupCoordinator>,
    settings: RefCell<GroupSettings>,
    state: Cell<State>,
    waiting: RefCell<BTreeMap<u64, Reply<Response>>>,
    /// Writes under way, oldest first: their outcomes are told in this order.
    writes: RefCell<VecDeque<(u64, Outcome)>>,
    /// When the timer is to wake, in the coordinator's time.
    wake_at_ms: Cell<Option<i64>>,
    changed: Notify,
}

impl Hosted {
    /// A coordinator that has not loaded yet.
    pub fn new(partition: Rc<Partition>, settings: GroupSettings) -> Rc<Hosted> {
        Rc::new(Hosted {
            partition,
            core: RefCell::new(GroupCoordinator::new(settings.clone())),
            settings: RefCell::new(settings),
            state: Cell::new(State::Loading),
            waiting: RefCell::default(),
            writes: RefCell::default(),
            wake_at_ms: Cell::new(None),
            changed: Notify::new(),
        })
    }

    /// Its partition of the offsets topic.
    pub fn partition(&self) -> &Rc<Partition> {
        &self.partition
    }

    /// Looks at the coordinator's state.
    pub fn look<T>(&self, look: impl FnOnce(&GroupCoordinator) -> T) -> T {
        look(&self.core.borrow())
    }

    /// It has loaded and goes on.
    pub fn is_active(&self) -> bool {
        self.state.get() == State::Active
    }

    /// Its partition is gone.
    pub fn is_ended(&self) -> bool {
        self.state.get() == State::Ended
    }

    /// It has everything its log holds; requests are answered and timers run from here on.
    pub fn loaded(self: &Rc<Self>, shard: &Rc<Shard>) {
        self.state.set(State::Active);
        self.handle(shard, Event::Loaded);
        let (shard, hosted) = (Rc::clone(shard), Rc::clone(self));
        let timer = shard.rt.clone().spawn_vital("group_timer", async move {
            run_timer(&shard, &hosted).await;
        });
        timer.detach();
    }

    /// Its log cannot be read: whoever asks is told that it is not a coordinator.
    pub fn fail(self: &Rc<Self>, shard: &Rc<Shard>) {
        self.leave(shard, State::Failed);
    }

    /// Its partition goes; whoever waits is told to look for another coordinator.
    pub fn end(self: &Rc<Self>, shard: &Rc<Shard>) {
        self.leave(shard, State::Ended);
    }

    fn leave(self: &Rc<Self>, shard: &Rc<Shard>, state: State) {
        self.handle(shard, Event::Unloaded);
        self.state.set(state);
        self.changed.notify_all();
    }

    /// Takes a request; its reply comes when the coordinator answers.
    pub fn request(self: &Rc<Self>, shard: &Rc<Shard>, call: GroupCall, reply: Reply<Response>) {
        self.waiting.borrow_mut().insert(call.id, reply);
        let event = Event::Request {
            token: call.id,
            client: call.client,
            request: call.request,
        };
        self.handle(shard, event);
    }

    /// The asker of this request is gone.
    pub fn cancel(self: &Rc<Self>, shard: &Rc<Shard>, id: u64) {
        let waited = self.waiting.borrow_mut().remove(&id).is_some();
        if waited {
            self.handle(shard, Event::Cancelled { token: id });
        }
    }

    /// Takes changed settings.
    pub fn set_settings(self: &Rc<Self>, shard: &Rc<Shard>, settings: &GroupSettings) {
        let same = *self.settings.borrow() == *settings;
        if !same {
            *self.settings.borrow_mut() = settings.clone();
            self.handle(shard, Event::SettingsChanged(settings.clone()));
        }
    }

    /// Gives the coordinator an event and does what it asks for.
    pub fn handle(self: &Rc<Self>, shard: &Rc<Shard>, event: Event) {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&shard.rt.random_u64().to_le_bytes());
        random[8..].copy_from_slice(&shard.rt.random_u64().to_le_bytes());
        let input = Input {
            now_ms: shard.groups.clock.now_ms(&shard.rt),
            random,
        };
        let commands = self.core.borrow_mut().handle(input, event);
        for command in commands {
            match command {
                Command::Reply { token, response } => {
                    shard.groups.counters.count(&response);
                    let reply = self.waiting.borrow_mut().remove(&token);
                    if let Some(reply) = reply {
                        reply.send(Response::Group(Box::new(response)));
                    }
                }
                Command::Write { write, records } => self.write(shard, write, &records),
            }
        }
        self.set_timer();
    }

    /// Appends records as one batch; its place in the log is taken before this returns.
    fn write(self: &Rc<Self>, shard: &Rc<Shard>, write: u64, records: &[WriteRecord]) {
        let codec = u8::try_from(shard.start_config.offsets_topic_compression_codec)
            .ok()
            .and_then(Codec::from_id);
        let batch = batch_of(
            codec.unwrap_or(Codec::None),
            shard.rt.wall_clock_ms(),
            records,
        );
        let item = AppendItem {
            key: self.partition.key,
            records: batch,
        };
        let admitted = admit(shard, vec![item]);
        self.writes.borrow_mut().push_back((write, None));
        let (shard, hosted) = (Rc::clone(shard), Rc::clone(self));
        let written = shard.rt.clone().spawn_vital("group_write", async move {
            let result = append(&shard, admitted, WRITE_TERMS).await.pop();
            let outcome = match result {
                Some(Ok(_)) => Ok(()),
                Some(Err(refusal)) => {
                    tracing::warn!(topic = %hosted.partition.topic,
                        partition = hosted.partition.key.partition,
                        error = error_code(&refusal.error).name(), refusal.message,
                        "records of a group could not be stored");
                    Err(group_write_error(&refusal.error))
                }
                None => Err(WriteError::NotLeader),
            };
            hosted.written(&shard, write, outcome);
        });
        written.detach();
    }

    /// Notes an outcome and tells the coordinator all that are known up to the first that is not.
    fn written(self: &Rc<Self>, shard: &Rc<Shard>, write: u64, outcome: Result<(), WriteError>) {
        let mut writes = self.writes.borrow_mut();
        if let Some(place) = writes.iter_mut().find(|(id, _)| *id == write) {
            place.1 = Some(outcome);
        }
        drop(writes);
        while let Some((write, result)) = self.next_outcome() {
            self.handle(shard, Event::Written { write, result });
        }
    }

    fn next_outcome(&self) -> Option<(u64, Result<(), WriteError>)> {
        let mut writes = self.writes.borrow_mut();
        writes.front()?.1.as_ref()?;
        let (write, outcome) = writes.pop_front()?;
        Some((write, outcome?))
    }

    /// Wakes the timer when it would sleep past the next deadline.
    fn set_timer(&self) {
        let Some(next) = self.core.borrow().next_deadline_ms() else {
            return;
        };
        if self.wake_at_ms.get().is_none_or(|at| next < at) {
            self.wake_at_ms.set(Some(next));
            self.changed.notify_all();
        }
    }
}

/// Sleeps until the coordinator's next deadline and tells it that time has passed.
async fn run_timer(shard: &Rc<Shard>, hosted: &Rc<Hosted>) {
    let mut ticked_at_ms = i64::MIN;
    while hosted.is_active() {
        let changed = hosted.changed.notified();
        let Some(at) = hosted.wake_at_ms.get() else {
            changed.await;
            continue;
        };
        let now = shard.groups.clock.now_ms(&shard.rt);
        let at = at.max(ticked_at_ms.saturating_add(TICK_MS_MIN));
        if at > now {
            let left = Duration::from_millis(u64::try_from(at - now).unwrap_or(0));
            crate::race::race(shard.rt.sleep(left), changed).await;
            continue;
        }
        ticked_at_ms = now;
        hosted.wake_at_ms.set(None);
        hosted.handle(shard, Event::Tick);
    }
}

fn batch_of(codec: Codec, now_ms: i64, records: &[WriteRecord]) -> Bytes {
    let mut batch = BatchBuilder::new(codec, now_ms);
    for record in records {
        batch.append(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    }
    Bytes::from(batch.build())
}
