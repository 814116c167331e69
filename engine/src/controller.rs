//! The controller: one decision at a time against the applied image, proposed to the metadata log,
//! published to all shards once committed, and only then answered.
//!
//! The decisions are `corelog_core`'s. Shard: 0.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::Uuid;
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::controller::{
    auto_create_request, consumer_offsets_replication_factor,
};
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_core::metadata::{
    ControllerContext, Image, Record, allocate_producer_ids, alter_configs, create_partitions,
    create_topics, decode_records, delete_topics, encode_records, incremental_alter_configs,
};
use corelog_net::cold::messages::alter_configs_request::AlterConfigsRequestData;
use corelog_net::cold::messages::alter_configs_response::AlterConfigsResponseData;
use corelog_net::cold::messages::create_partitions_request::CreatePartitionsRequestData;
use corelog_net::cold::messages::create_partitions_response::CreatePartitionsResponseData;
use corelog_net::cold::messages::create_topics_request::CreateTopicsRequestData;
use corelog_net::cold::messages::create_topics_response::CreateTopicsResponseData;
use corelog_net::cold::messages::delete_topics_request::DeleteTopicsRequestData;
use corelog_net::cold::messages::delete_topics_response::DeleteTopicsResponseData;
use corelog_net::cold::messages::incremental_alter_configs_request::IncrementalAlterConfigsRequestData;
use corelog_net::cold::messages::incremental_alter_configs_response::IncrementalAlterConfigsResponseData;
use corelog_runtime::ShardId;
use corelog_runtime::sync::{FifoMutex, Notify};

use crate::connection::aside::aside;
use crate::metadata_log::{Applied, AppliedContent, MetadataLog, Proposed};
use crate::shard::Shard;
use crate::shard::message::{Request, Response};

/// Committed batches above this are applied by a helper: hundreds of partitions.
const APPLY_HERE_BYTES_MAX: usize = 16 << 10;

/// A change of metadata that a client asked for, with its version where the outcome depends on it.
#[derive(Debug)]
pub enum AdminRequest {
    /// CreateTopics.
    CreateTopics(Arc<CreateTopicsRequestData>),
    /// Topics that a Metadata or FindCoordinator request needs and that may be made.
    AutoCreate(Vec<String>),
    /// DeleteTopics.
    DeleteTopics(i16, Arc<DeleteTopicsRequestData>),
    /// CreatePartitions.
    CreatePartitions(Arc<CreatePartitionsRequestData>),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(Arc<IncrementalAlterConfigsRequestData>),
    /// AlterConfigs.
    AlterConfigs(Arc<AlterConfigsRequestData>),
    /// A block of producer ids.
    ProducerIds,
}

/// The answer of the same name. `Unavailable`: the metadata log takes no writes.
#[derive(Debug)]
pub enum AdminAnswer {
    /// CreateTopics.
    CreateTopics(CreateTopicsResponseData),
    /// The topics exist now, or could not be made; Metadata says which.
    AutoCreate,
    /// DeleteTopics.
    DeleteTopics(DeleteTopicsResponseData),
    /// CreatePartitions.
    CreatePartitions(CreatePartitionsResponseData),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(IncrementalAlterConfigsResponseData),
    /// AlterConfigs.
    AlterConfigs(AlterConfigsResponseData),
    /// Ids nobody else was given.
    ProducerIds(std::ops::Range<i64>),
    /// Nothing was changed.
    Unavailable,
}

/// The controller of a node.
pub struct Controller {
    shard: Rc<Shard>,
    log: Box<dyn MetadataLog>,
    order: FifoMutex,
    image: RefCell<Arc<Image>>,
    published: Notify,
    snapshot_bytes: u64,
}

impl Controller {
    /// A controller over an open log, with the image of everything up to the start of its term.
    pub fn new(shard: &Rc<Shard>, log: Box<dyn MetadataLog>, image: Arc<Image>) -> Rc<Controller> {
        Rc::new(Controller {
            shard: Rc::clone(shard),
            log,
            order: FifoMutex::new(),
            image: RefCell::new(image),
            published: Notify::new(),
            snapshot_bytes: shard.start_config.metadata_snapshot_bytes,
        })
    }

    /// The image of all committed batches.
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.borrow())
    }

    /// Applies committed batches and publishes each to all shards; runs as long as the shard.
    pub async fn apply_committed(self: Rc<Self>) {
        loop {
            let applied = self.log.next_applied().await;
            let (before, heavy) = (self.image(), applied.content.bytes() > APPLY_HERE_BYTES_MAX);
            let image = match aside(&self.shard, heavy, move || apply(&before, &applied)).await {
                Ok(image) => Arc::new(image),
                Err(error) => {
                    // Batches are decided against the image they are applied to: this state is not known.
                    tracing::error!(%error, "a committed metadata batch does not apply");
                    std::process::abort();
                }
            };
            self.publish(Arc::clone(&image)).await;
            *self.image.borrow_mut() = image;
            self.published.notify_all();
            if self.log.bytes_since_snapshot() > self.snapshot_bytes {
                let image = self.image();
                let payload = encode_records(&image.snapshot());
                self.log.offer_snapshot(image.version(), payload).await;
            }
        }
    }

    /// Gives every shard the image and waits until all hold it.
    pub async fn publish(&self, image: Arc<Image>) {
        let shards = self.shard.shards();
        let ask = |to: usize| {
            self.shard
                .call(ShardId(to as u16), Request::ApplyImage(Arc::clone(&image)))
        };
        let calls: Vec<_> = (0..shards).map(ask).collect();
        for (shard, call) in calls.into_iter().enumerate() {
            if !matches!(call.await, Some(Response::ImageApplied)) {
                tracing::error!(
                    shard,
                    version = image.version(),
                    "a shard did not take the metadata"
                );
            }
        }
    }

    /// Decides one change and resolves when all shards hold its outcome; `None` when it could not
    /// be committed. A heavy decision is made by a helper, the next one waits for it.
    pub async fn change<T: Send + 'static>(
        &self,
        heavy: bool,
        decision: impl FnOnce(&Image) -> (Vec<Record>, T) + Send + 'static,
    ) -> Option<T> {
        let _turn = self.order.ticket().wait().await;
        let image = self.image();
        let decide = move || {
            let (records, answer) = decision(&image);
            (
                (!records.is_empty()).then(|| encode_records(&records)),
                answer,
            )
        };
        let (payload, answer) = aside(&self.shard, heavy, decide).await;
        let Some(payload) = payload else {
            return Some(answer);
        };
        let term = self.log.leader_term()?;
        match self.log.propose(term, payload).await {
            Proposed::Committed(index) => {
                while self.image().version() < index {
                    let published = self.published.notified();
                    if self.image().version() < index {
                        published.await;
                    }
                }
                Some(answer)
            }
            Proposed::NotLeader | Proposed::Unknown => None,
        }
    }
}

/// The image after one delivery of the log.
pub fn apply(image: &Image, applied: &Applied) -> Result<Image, String> {
    let decode = |payload: &[u8]| decode_records(payload).map_err(|e| e.to_string());
    match &applied.content {
        AppliedContent::Blank => image.apply(applied.index, &[]).map_err(|e| e.to_string()),
        AppliedContent::Records(payload) => image
            .apply(applied.index, &decode(payload)?)
            .map_err(|e| e.to_string()),
        AppliedContent::Snapshot(payload) => {
            Image::from_snapshot(applied.index, &decode(payload)?).map_err(|e| e.to_string())
        }
    }
}

/// Serves an admin request on shard 0.
pub async fn handle(shard: &Rc<Shard>, request: AdminRequest, heavy: bool) -> AdminAnswer {
    let Some(controller) = shard.controller.borrow().clone() else {
        return AdminAnswer::Unavailable;
    };
    let (config, shards) = (shard.config(), shard.shards() as u16);
    let mut ids = TopicIds::new(shard);
    let decision = move |image: &Image| {
        let context = ControllerContext {
            broker: &config,
            shards,
        };
        match request {
            AdminRequest::CreateTopics(request) => {
                let (records, answer) =
                    create_topics(image, &context, &request, &mut || ids.next_id());
                (records, AdminAnswer::CreateTopics(answer))
            }
            AdminRequest::AutoCreate(names) => {
                warn_of_lowered_factor(image, &config, &names);
                let request = auto_create_request(image, &config, &names);
                let (records, _) = create_topics(image, &context, &request, &mut || ids.next_id());
                (records, AdminAnswer::AutoCreate)
            }
            AdminRequest::DeleteTopics(version, request) => {
                let (records, answer) = delete_topics(image, &context, version, &request);
                (records, AdminAnswer::DeleteTopics(answer))
            }
            AdminRequest::CreatePartitions(request) => {
                let (records, answer) = create_partitions(image, &context, &request);
                (records, AdminAnswer::CreatePartitions(answer))
            }
            AdminRequest::IncrementalAlterConfigs(request) => {
                let (records, answer) = incremental_alter_configs(image, &context, &request);
                (records, AdminAnswer::IncrementalAlterConfigs(answer))
            }
            AdminRequest::AlterConfigs(request) => {
                let (records, answer) = alter_configs(image, &context, &request);
                (records, AdminAnswer::AlterConfigs(answer))
            }
            AdminRequest::ProducerIds => {
                let (records, block) = allocate_producer_ids(image);
                (records, AdminAnswer::ProducerIds(block))
            }
        }
    };
    let decided = controller.change(heavy, decision).await;
    decided.unwrap_or(AdminAnswer::Unavailable)
}

/// Says so when the offsets topic is about to be made with fewer replicas than configured.
fn warn_of_lowered_factor(image: &Image, config: &BrokerConfig, names: &[String]) {
    let made = consumer_offsets_replication_factor(image, config);
    let configured = config.offsets_topic_replication_factor;
    let wanted = names.iter().any(|name| name == CONSUMER_OFFSETS_TOPIC)
        && image.topic(CONSUMER_OFFSETS_TOPIC).is_none();
    if wanted && made < configured {
        tracing::warn!(
            brokers = image.brokers().len(),
            "offsets.topic.replication.factor={configured} is more than there are brokers: {CONSUMER_OFFSETS_TOPIC} gets {made}"
        );
    }
}

/// A random id that is not one of Kafka's reserved ones.
pub fn random_uuid(shard: &Shard) -> Uuid {
    TopicIds::new(shard).next_id()
}

/// Random ids that are none of Kafka's reserved ones: 128 bits of chance, and a permutation of what
/// is counted from there. Any thread may go on with it.
struct TopicIds {
    high: u64,
    low: u64,
}

impl TopicIds {
    fn new(shard: &Shard) -> TopicIds {
        TopicIds {
            high: shard.rt.random_u64(),
            low: shard.rt.random_u64(),
        }
    }

    fn next_id(&mut self) -> Uuid {
        loop {
            self.high = self.high.wrapping_add(SPLITMIX_STEP);
            self.low = self.low.wrapping_add(SPLITMIX_STEP);
            let id = Uuid::from_parts(splitmix(self.high), splitmix(self.low));
            // Kafka shows ids as base64 and refuses a leading dash on its command lines.
            if !id.is_reserved() && !id.to_string().starts_with('-') {
                return id;
            }
        }
    }
}

const SPLITMIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output step of SplitMix64 (Steele, Lea, Flood 2014): one to one.
fn splitmix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
