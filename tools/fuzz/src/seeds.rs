//! Inputs to begin with, made by the project's own encoders.

use bytes::{Bytes, BytesMut};
use corelog_core::Uuid;
use corelog_core::metadata::record::{Record as MetadataRecord, ResourceType, encode_records};
use corelog_engine::metadata_log::format::{
    Entry, EntryType, Snapshot, Vote, encode_entry, encode_snapshot, encode_vote,
};
use corelog_net::ApiKey;
use corelog_net::cold::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use corelog_net::cold::messages::join_group_request::{
    JoinGroupRequestData, JoinGroupRequestProtocol,
};
use corelog_net::cold::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use corelog_net::cold::{ColdMessage, ColdRequest, encode_request, recode_response};
use corelog_net::fetch::{FetchPartition, FetchRequest, FetchTopic};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse,
};
use corelog_net::response::begin_response;
use corelog_record::codec::{Codec, compress};
use corelog_record::record::Header;
use corelog_record::schemas::consumer_offsets::{
    GroupMetadataValue, Key, MemberValue, OffsetCommitValue,
};
use corelog_record::{BatchBuilder, BatchHeader};
use corelog_storage::checkpoint_files::{
    CleanMarker, MetaProperties, OffsetMap, deleted_dir_name, encode_offsets,
    encode_partition_metadata, partition_dir_name,
};
use corelog_storage::index::IndexBuilder;
use corelog_storage::leader_epochs::LeaderEpochs;
use corelog_storage::producer_state::ProducerState;

use crate::batch::input;
use crate::wire::{choice, fetch_answer};

const NOW_MS: i64 = 1_700_000_000_000;

/// Bytes in front of what follows.
fn after(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

/// Frames of several APIs.
pub fn frame() -> Vec<Vec<u8>> {
    let metadata = MetadataRequestData::default();
    let mut seeds = Vec::new();
    for (version, client) in [(0, Some("seed")), (12, Some("seed")), (13, None)] {
        let frame = encode_request(version, 7, client, &metadata).expect("a version we speak");
        seeds.extend((0..3).map(|limits| after(&[limits], &frame)));
    }
    // A version of ApiVersions from the future, and a frame of 2 GiB.
    seeds.push(after(&[0], b"\0\0\0\x0a\0\x12\x7f\xff\0\0\0\x01\xff\xff"));
    seeds.push(after(&[0], b"\x7f\xff\xff\xff\0\0\0\x09\0\0\0\x01\0\0"));
    seeds
}

fn records(codec: Codec) -> Bytes {
    Bytes::from(sample(BatchBuilder::new(codec, NOW_MS), 3))
}

fn sample(mut builder: BatchBuilder, count: usize) -> Vec<u8> {
    for at in 0..count {
        let headers = [Header::new("h", b"1")];
        let key = [at as u8; 3];
        builder.append(
            NOW_MS + at as i64,
            Some(&key),
            Some(b"value value value"),
            &headers[..at % 2],
        );
    }
    builder.build()
}

/// Bodies of every API and version: what a run of equal bytes decodes to, and some with content.
pub fn request() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for api in ApiKey::ALL {
        for version in api.versions() {
            let head = choice(*api, version);
            match api {
                ApiKey::Produce | ApiKey::Fetch => {
                    let mut body = BytesMut::new();
                    if *api == ApiKey::Produce {
                        produce_request(version).encode(version, &mut body)
                    } else {
                        fetch_request(version).encode(version, &mut body)
                    }
                    .expect("a version we speak");
                    seeds.push(after(&head, &body));
                }
                _ => seeds.extend(cold(&head, |body| {
                    let mut out = BytesMut::new();
                    let request = ColdRequest::decode(*api, version, body).ok()?;
                    request.encode(version, &mut out).ok()?;
                    Some(out)
                })),
            }
        }
    }
    seeds.extend(filled());
    seeds
}

/// What runs of 0 or 1 are understood as; the run itself where they are nothing.
fn cold(head: &[u8], recode: impl Fn(&Bytes) -> Option<BytesMut>) -> Vec<Vec<u8>> {
    let run = |byte| Bytes::from(vec![byte; 64]);
    let understood: Vec<_> = [run(0), run(1)]
        .iter()
        .filter_map(|body| Some(after(head, &recode(body)?)))
        .collect();
    match understood.is_empty() {
        true => vec![after(head, &run(0))],
        false => understood,
    }
}

fn produce_request(version: i16) -> ProduceRequest {
    let partition = |index, records| ProducePartition { index, records };
    ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 1000,
        topics: vec![ProduceTopic {
            name: if version < 13 { "t".into() } else { "".into() },
            topic_id: if version < 13 { [0; 16] } else { [7; 16] },
            partitions: vec![partition(0, Some(records(Codec::None))), partition(1, None)],
        }],
    }
}

fn fetch_request(version: i16) -> FetchRequest {
    FetchRequest {
        topics: vec![FetchTopic {
            name: if version < 13 { "t".into() } else { "".into() },
            topic_id: if version < 13 { [0; 16] } else { [7; 16] },
            partitions: vec![FetchPartition::default()],
        }],
        ..FetchRequest::default()
    }
}

fn filled() -> Vec<Vec<u8>> {
    let text = |text: &str| text.to_owned().into();
    let metadata = MetadataRequestData::default().with_topics(Some(vec![
        MetadataRequestTopic::default().with_name(Some(text("topic"))),
    ]));
    let config = CreatableTopicConfig::default()
        .with_name(text("flush.messages"))
        .with_value(Some(text("1")));
    let create = CreateTopicsRequestData::default().with_topics(vec![
        CreatableTopic::default()
            .with_name(text("topic"))
            .with_num_partitions(3)
            .with_replication_factor(1)
            .with_configs(vec![config]),
    ]);
    let join = JoinGroupRequestData::default()
        .with_group_id(text("group"))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![
            JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from_static(SUBSCRIPTION)),
        ]);
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(7)
        .with_committed_metadata(Some(text("m")));
    let commit = OffsetCommitRequestData::default()
        .with_group_id(text("group"))
        .with_topics(vec![
            OffsetCommitRequestTopic::default()
                .with_name(text("topic"))
                .with_partitions(vec![partition]),
        ]);
    [body(&metadata), body(&create), body(&join), body(&commit)].concat()
}

/// The body in the versions that can carry it.
fn body<T: ColdMessage>(message: &T) -> Vec<Vec<u8>> {
    let encode = |version| {
        let mut body = BytesMut::new();
        message.encode(version, &mut body).ok()?;
        Some(after(&choice(T::API, version), &body))
    };
    T::API.versions().filter_map(encode).collect()
}

/// Answers of every API and version.
pub fn response() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for api in ApiKey::ALL {
        for version in api.versions() {
            let mut head = BytesMut::new();
            begin_response(&mut head, *api, version, 7);
            let head = after(&choice(*api, version), &head[4..]);
            match api {
                ApiKey::Produce => {
                    let mut body = BytesMut::new();
                    let answer = produce_answer(version);
                    answer
                        .encode(version, &mut body)
                        .expect("a version we speak");
                    seeds.push(after(&head, &body));
                }
                ApiKey::Fetch => {
                    let frame = fetch_answer(version, records(Codec::Lz4));
                    seeds.push(after(&choice(*api, version), &frame[4..]));
                }
                _ => seeds.extend(cold(&head, |body| {
                    recode_response(*api, version, body).ok()
                })),
            }
        }
    }
    seeds
}

fn produce_answer(version: i16) -> ProduceResponse {
    ProduceResponse {
        topics: vec![ProduceTopicResponse {
            name: if version < 13 { "t".into() } else { "".into() },
            topic_id: if version < 13 { [0; 16] } else { [7; 16] },
            partitions: vec![ProducePartitionResponse::default()],
        }],
        ..ProduceResponse::default()
    }
}

/// Batches of every codec and kind.
pub fn batch() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for codec in Codec::ALL {
        let builder = || BatchBuilder::new(codec, NOW_MS);
        let made = [
            sample(builder(), 1),
            sample(builder(), 3),
            sample(builder().producer(7, 0, 5), 2),
            sample(builder().producer(7, 0, 5).transactional(), 2),
            sample(builder().log_append_time(), 2),
            sample(builder().producer(7, 0, -1).transactional().control(), 1),
        ];
        for flags in [0, 1, 3, 5, 9, 17] {
            seeds.extend(made.iter().map(|batch| input(flags, batch)));
        }
    }
    seeds
}

/// A limit, a step and a stream.
fn streams(codec: Codec) -> Vec<Vec<u8>> {
    let texts: [&[u8]; 5] = [b"", b"a", b"abcabcabcabcabcabc", &[7; 600], &{
        let mut mixed = [0u8; 300];
        for (at, byte) in mixed.iter_mut().enumerate() {
            *byte = (at * at / 7) as u8;
        }
        mixed
    }];
    let mut seeds = Vec::new();
    for text in texts {
        let stream = compress(codec, None, text);
        for head in [[15, 255], [8, 3], [4, 1]] {
            seeds.push(after(&head, &stream));
        }
        seeds.push(after(&[15, 200], &[&stream[..], &stream[..]].concat()));
    }
    seeds
}

/// gzip members.
pub fn gzip() -> Vec<Vec<u8>> {
    streams(Codec::Gzip)
}

/// Framed and raw snappy.
pub fn snappy() -> Vec<Vec<u8>> {
    let mut seeds = streams(Codec::Snappy);
    // A raw block: the length, one literal, one copy.
    seeds.push(after(&[15, 255], b"\x0c\x08abc\x15\x03"));
    seeds
}

/// lz4 frames.
pub fn lz4() -> Vec<Vec<u8>> {
    streams(Codec::Lz4)
}

/// zstd frames.
pub fn zstd() -> Vec<Vec<u8>> {
    streams(Codec::Zstd)
}

/// Indexes as a segment builds them.
pub fn index() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (base, batches) in [(0i64, 3u32), (1000, 12), (i64::from(i32::MAX), 5)] {
        let mut builder = IndexBuilder::new(base, 50);
        for at in 0..batches {
            let last = base + i64::from(at) * 10 + 9;
            builder.on_batch(at * 100, 100, last, NOW_MS + i64::from(at));
        }
        builder.seal();
        let (offsets, times) = builder.finish();
        let (offsets, times) = (offsets.encode(), times.encode());
        let next = base + i64::from(batches) * 10;
        let mut seed = Vec::new();
        seed.extend(base.to_be_bytes());
        seed.extend((batches * 100).to_be_bytes());
        seed.extend(next.to_be_bytes());
        seed.extend((base + 25).to_be_bytes());
        seed.push((offsets.len() / 4) as u8);
        seed.extend(offsets);
        seed.extend(times);
        seeds.push(seed);
    }
    seeds
}

/// Offset checkpoints.
pub fn checkpoint() -> Vec<Vec<u8>> {
    let mut offsets = OffsetMap::new();
    let mut seeds = vec![encode_offsets(&offsets)];
    for (at, topic) in ["a", "topic.with-dots_", "__consumer_offsets"]
        .iter()
        .enumerate()
    {
        offsets.insert(((*topic).to_owned(), at as i32), i64::MAX - at as i64);
        seeds.push(encode_offsets(&offsets));
    }
    seeds
}

/// `leader-epoch-checkpoint`.
pub fn leader_epochs() -> Vec<Vec<u8>> {
    let mut epochs = LeaderEpochs::new();
    let mut seeds = Vec::new();
    for (epoch, start) in [(0, 0), (3, 15), (9, 900)] {
        epochs.assign(epoch, start);
        seeds.push(after(&20i64.to_be_bytes(), &epochs.encode()));
    }
    seeds
}

/// The other small files.
pub fn meta() -> Vec<Vec<u8>> {
    let meta = |directory_id| MetaProperties {
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        node_id: 1,
        directory_id,
    };
    let marker = CleanMarker {
        broker_epoch: 7,
        boot_id: Some("0123abcd-".to_owned()),
    };
    vec![
        meta(None).encode(),
        meta(Some([9; 16])).encode(),
        encode_partition_metadata(&[3; 16]),
        marker.encode(),
        CleanMarker::default().encode(),
        partition_dir_name("topic", 12).into_bytes(),
        deleted_dir_name("topic", 12, &[1; 16]).into_bytes(),
    ]
}

/// Snapshots of producers.
pub fn producer_snapshot() -> Vec<Vec<u8>> {
    let mut state = ProducerState::new(0);
    let mut seeds = Vec::new();
    let mut seed = |state: &ProducerState| {
        let head = after(&[3], &state.end_offset().to_be_bytes());
        seeds.push(after(&head, &state.encode_snapshot()));
    };
    seed(&state);
    for at in 0..3i64 {
        let builder = BatchBuilder::new(Codec::None, 500)
            .producer(at, 1, 0)
            .base_offset(at * 10);
        let batch = sample(
            if at == 1 {
                builder.transactional()
            } else {
                builder
            },
            2,
        );
        let header = BatchHeader::parse(&batch).expect("just built");
        state.on_batch(&header);
        seed(&state);
    }
    seeds
}

fn metadata_records() -> Vec<MetadataRecord> {
    vec![
        MetadataRecord::EpochStart {
            epoch: 1,
            node_id: 1,
        },
        MetadataRecord::Topic {
            topic_id: Uuid::from_parts(5, 5),
            name: "topic".to_owned(),
        },
        MetadataRecord::Partition {
            topic_id: Uuid::from_parts(5, 5),
            index: 0,
            replicas: vec![1],
            isr: vec![1],
            leader: 1,
            leader_epoch: 0,
            partition_epoch: 0,
            shard: 0,
        },
        MetadataRecord::Config {
            resource_type: ResourceType::Topic,
            resource_name: "topic".to_owned(),
            key: "flush.messages".to_owned(),
            value: Some("1".to_owned()),
        },
        MetadataRecord::ProducerIds { next: 1000 },
        MetadataRecord::RemoveTopic {
            topic_id: Uuid::from_parts(5, 5),
        },
        MetadataRecord::NoOp,
    ]
}

/// Files of the metadata log.
pub fn metadata_log() -> Vec<Vec<u8>> {
    let records = metadata_records();
    let payload = encode_records(&records);
    let mut log = Vec::new();
    for (index, entry_type) in [(1, EntryType::Blank), (2, EntryType::Records)] {
        let payload = match entry_type {
            EntryType::Blank => Vec::new(),
            EntryType::Records => payload.clone(),
        };
        let term = 1;
        encode_entry(
            &Entry {
                term,
                index,
                entry_type,
                payload,
            },
            &mut log,
        );
    }
    let vote = encode_vote(Vote {
        term: 3,
        voted_for: 1,
    });
    let snapshot = encode_snapshot(&Snapshot {
        term: 1,
        index: 2,
        payload: payload.clone(),
    });
    let mut seeds = vec![
        after(&[0, 1], &log),
        after(&[0, 1], &log[..log.len() - 3]),
        after(&[1, 0], &vote),
        after(&[2, 0], &snapshot),
        after(&[3, 0], &payload),
        after(&[4, 200], &payload),
    ];
    seeds.extend(
        records
            .iter()
            .map(|record| after(&[3, 0], &encode_records(std::slice::from_ref(record)))),
    );
    seeds
}

fn group_records() -> Vec<(Vec<u8>, Vec<u8>)> {
    let group = || "g".to_owned();
    let offset = Key::OffsetCommit {
        group: group(),
        topic: "t".to_owned(),
        partition: 0,
    };
    let value = |expire_timestamp_ms| OffsetCommitValue {
        offset: 7,
        leader_epoch: 1,
        metadata: "m".to_owned(),
        commit_timestamp_ms: 1000,
        expire_timestamp_ms,
        topic_id: [3; 16],
    };
    let member = MemberValue {
        member_id: "m".to_owned(),
        group_instance_id: Some("i".to_owned()),
        client_id: "c".to_owned(),
        client_host: "/h".to_owned(),
        rebalance_timeout_ms: 1000,
        session_timeout_ms: 1000,
        subscription: Bytes::from_static(SUBSCRIPTION),
        assignment: Bytes::from_static(b"a"),
    };
    let metadata = |members: Vec<MemberValue>| GroupMetadataValue {
        protocol_type: "consumer".to_owned(),
        generation: 3,
        protocol: Some("range".to_owned()),
        leader: Some("m".to_owned()),
        current_state_timestamp_ms: 1000,
        members,
    };
    let key = |key: &Key| key.encode().expect("short names");
    let named = Key::GroupMetadata { group: group() };
    let values = [value(-1).encode(), value(5000).encode()];
    let groups = [
        metadata(vec![member]).encode(),
        metadata(Vec::new()).encode(),
    ];
    let mut records = Vec::new();
    for (key, values) in [(key(&offset), values), (key(&named), groups)] {
        for value in values {
            records.push((key.clone(), value.expect("short texts")));
        }
    }
    records
}

/// Keys and values of `__consumer_offsets`.
pub fn consumer_offsets() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (at, (key, value)) in group_records().into_iter().enumerate() {
        seeds.push(after(&[0], &key));
        seeds.push(after(&[if at < 2 { 1 } else { 2 }], &value));
    }
    seeds
}

/// Records to load, as the target reads them: lengths, key, value.
pub fn group_load() -> Vec<Vec<u8>> {
    let mut all = vec![0, 0, 0, 9];
    let mut seeds = Vec::new();
    for (key, value) in group_records() {
        let mut record = vec![key.len() as u8, value.len() as u8, 1];
        record.extend(key);
        record.extend(value);
        seeds.push(after(&[0, 0, 0, 9], &record));
        all.extend(record);
    }
    seeds.push(all);
    seeds
}

/// Properties files.
pub fn properties() -> Vec<Vec<u8>> {
    let files: [&[u8]; 5] = [
        b"# a comment\nlisteners=PLAINTEXT://:9092\nlog.dirs=a,b\n",
        b"log.retention.hours : 5\r\nnum.partitions\\\n = 3",
        b"key\\u0041=\\uD83D\\uDE00\nunknown.key=1\nlog.segment.bytes=1048576",
        b"corelog.cores=0-3,6\ncorelog.http.listener=\ncorelog.storage.io=direct",
        b"advertised.listeners=A://h:1,B://[::1]:2\nlisteners=A://:1,B://:2\nlistener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT",
    ];
    files.map(<[u8]>::to_vec).to_vec()
}

/// Values of every topic key.
pub fn configs() -> Vec<Vec<u8>> {
    let count = corelog_core::config::keys::topic_keys().count();
    let values = [
        "",
        "1",
        "-1",
        "true",
        "0.5",
        "9223372036854775807",
        "compact,delete",
        "0:1,1:2",
        "*",
        "a|b,a",
    ];
    let of_key = |key: u8| values.map(|value| after(&[key, 2], value.as_bytes()));
    (0..count as u8).flat_map(of_key).collect()
}

/// A subscription to two topics, version 3.
const SUBSCRIPTION: &[u8] =
    b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff";

/// Subscriptions.
pub fn subscription() -> Vec<Vec<u8>> {
    vec![SUBSCRIPTION.to_vec(), b"\0\0\0\0\0\0".to_vec()]
}
