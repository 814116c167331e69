//! Hostile bytes: no panic, and no more memory than a small multiple of what was received.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use common::{assemble, body_of, random};
use corelog_net::ApiKey;
use corelog_net::api::COLD_DECODE_FACTOR;
use corelog_net::cold::messages::*;
use corelog_net::cold::{ColdMessage, ColdRequest, decode_charge_bytes};
use corelog_net::fetch::{FetchRequest, FetchResponse, ResponseBuilder};
use corelog_net::frame::{FrameError, FrameLimits, FramePrefix, RequestFrame};
use corelog_net::produce::{ProduceRequest, ProduceResponse};
use corelog_net::wire::ELEMENTS_MAX;
use proptest::prelude::Rng;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Counts what each thread holds, and the most it held since the last [`peak_of`].
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes held by `work` beyond what was held before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let value = work();
    (usize::try_from(PEAK.get() - before).unwrap_or(0), value)
}

/// Allowance for what does not grow with the input: an error, a first small vector.
const SLACK_BYTES: usize = 4096;

/// Structs per byte received, at most, of the hot decoders: an empty topic takes 3 bytes.
const HOT_FACTOR: usize = 32;

type Decode = fn(i16, &Bytes) -> bool;

const HOT: [(ApiKey, &str, Decode); 4] = [
    (ApiKey::Produce, "request", |version, body| {
        ProduceRequest::decode(version, body).is_ok()
    }),
    (ApiKey::Produce, "response", |version, body| {
        ProduceResponse::decode(version, body).is_ok()
    }),
    (ApiKey::Fetch, "request", |version, body| {
        FetchRequest::decode(version, body).is_ok()
    }),
    (ApiKey::Fetch, "response", |version, body| {
        FetchResponse::decode(version, body).is_ok()
    }),
];

fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(
        Config {
            failure_persistence: None,
            ..Config::default()
        },
        rng,
    )
}

fn pick<S: Strategy>(runner: &mut TestRunner, strategy: S) -> S::Value {
    strategy.new_tree(runner).unwrap().current()
}

/// A well-formed body of chance.
fn body(runner: &mut TestRunner, api: ApiKey, kind: &str, version: i16) -> Bytes {
    let mut buf = BytesMut::new();
    match (api, kind) {
        (ApiKey::Produce, "request") => {
            pick(runner, random::produce_request(version))
                .encode(version, &mut buf)
                .unwrap();
        }
        (ApiKey::Produce, _) => pick(runner, random::produce_response(version))
            .encode(version, &mut buf)
            .unwrap(),
        (_, "request") => pick(runner, random::fetch_request(version))
            .encode(version, &mut buf)
            .unwrap(),
        _ => {
            let response = pick(runner, random::fetch_response(version));
            let parts = ResponseBuilder::new(version, 1)
                .unwrap()
                .build(response)
                .unwrap();
            return body_of(api, version, 1, &assemble(parts));
        }
    }
    buf.freeze()
}

fn bounded(name: &str, charge: usize, bytes: &Bytes, decode: impl FnOnce() -> bool) -> bool {
    let (peak, ok) = peak_of(decode);
    let allowed = charge + SLACK_BYTES;
    assert!(
        peak <= allowed,
        "{name}: {peak} bytes for {} received: {bytes:02x?}",
        bytes.len()
    );
    ok
}

#[test]
fn every_truncation_of_a_hot_message_is_an_error() {
    let mut runner = runner();
    for (api, kind, decode) in HOT {
        for version in api.versions() {
            for _ in 0..12 {
                let whole = body(&mut runner, api, kind, version);
                assert!(decode(version, &whole));
                for len in 0..whole.len() {
                    let cut = whole.slice(..len);
                    let name = format!("{api} {kind} v{version}");
                    assert!(
                        !bounded(&name, HOT_FACTOR * len, &cut, || decode(version, &cut)),
                        "{name} cut at {len}"
                    );
                }
            }
        }
    }
}

/// Values that lengths, counts and varints are attacked with.
const POISON: [&[u8]; 6] = [
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xfe, 0xff, 0xff, 0x7f],
    &[0x7f, 0xff],
];

fn poisoned(whole: &Bytes, at: usize, poison: &[u8]) -> Bytes {
    let mut bytes = whole.to_vec();
    let end = bytes.len().min(at + poison.len());
    bytes[at..end].copy_from_slice(&poison[..end - at]);
    bytes.into()
}

#[test]
fn poisoned_lengths_anywhere_in_a_hot_message_cost_bounded_memory() {
    let mut runner = runner();
    for (api, kind, decode) in HOT {
        for version in api.versions() {
            for _ in 0..8 {
                let whole = body(&mut runner, api, kind, version);
                for (at, poison) in
                    (0..whole.len()).flat_map(|at| POISON.map(|poison| (at, poison)))
                {
                    let bytes = poisoned(&whole, at, poison);
                    bounded(
                        &format!("{api} {kind} v{version}"),
                        HOT_FACTOR * bytes.len(),
                        &bytes,
                        || decode(version, &bytes),
                    );
                }
            }
        }
    }
}

#[test]
fn random_mutations_of_a_hot_message_cost_bounded_memory() {
    let mut runner = runner();
    for (api, kind, decode) in HOT {
        for version in api.versions() {
            for _ in 0..200 {
                let mut bytes = body(&mut runner, api, kind, version).to_vec();
                for _ in 0..1 + runner.rng().next_u32() % 4 {
                    let at = runner.rng().next_u32() as usize % bytes.len();
                    bytes[at] = runner.rng().next_u32() as u8;
                }
                let bytes = Bytes::from(bytes);
                bounded(
                    &format!("{api} {kind} v{version}"),
                    HOT_FACTOR * bytes.len(),
                    &bytes,
                    || decode(version, &bytes),
                );
            }
        }
    }
}

#[test]
fn a_large_frame_of_empty_topics_is_refused_by_its_count() {
    // 32 MiB of the smallest topics of a flexible version: name "", no partitions, no tags.
    let topics = (32usize << 20) / 3;
    let mut buf = BytesMut::from(&[0, 0, 1, 0, 0, 0, 1][..]);
    corelog_net::wire::Writer::new(&mut buf, true).length(Some(topics));
    buf.extend(std::iter::repeat_n([1u8, 1, 0], topics).flatten());
    buf.extend([0]);
    let bytes = buf.freeze();
    let (peak, result) = peak_of(|| ProduceRequest::decode(12, &bytes));
    let error = result.unwrap_err();
    assert_eq!(error.what, "topic_data");
    assert!(
        error.to_string().contains(&ELEMENTS_MAX.to_string()),
        "{error}"
    );
    assert!(peak <= SLACK_BYTES, "{peak}");
}

#[test]
fn a_frame_of_the_smallest_elements_that_are_allowed_costs_bounded_memory() {
    let topics = ELEMENTS_MAX - 1;
    let mut produce = BytesMut::from(&[0, 0, 1, 0, 0, 0, 1][..]);
    corelog_net::wire::Writer::new(&mut produce, true).length(Some(topics));
    let mut fetch = BytesMut::from(&[0u8; 25][..]);
    corelog_net::wire::Writer::new(&mut fetch, true).length(Some(topics));
    for buf in [&mut produce, &mut fetch] {
        buf.extend(std::iter::repeat_n([1u8, 1, 0], topics).flatten());
    }
    produce.extend([0]);
    fetch.extend([1, 1, 0]);
    for (body, decode) in [(produce, HOT[0].2), (fetch, HOT[2].2)] {
        let body = body.freeze();
        assert!(bounded("smallest", HOT_FACTOR * body.len(), &body, || {
            decode(12, &body)
        }));
    }
}

fn empty_body(api: ApiKey, version: i16) -> Bytes {
    let mut buf = BytesMut::new();
    macro_rules! default_of {
        ($($api:ident: $request:ty;)*) => {
            match api {
                $(ApiKey::$api => <$request>::default().encode(version, &mut buf).unwrap(),)*
                ApiKey::Produce | ApiKey::Fetch => unreachable!("not cold"),
            }
        };
    }
    default_of! {
        ListOffsets: list_offsets_request::ListOffsetsRequestData;
        Metadata: metadata_request::MetadataRequestData;
        FindCoordinator: find_coordinator_request::FindCoordinatorRequestData;
        ApiVersions: api_versions_request::ApiVersionsRequestData;
        CreateTopics: create_topics_request::CreateTopicsRequestData;
        DeleteTopics: delete_topics_request::DeleteTopicsRequestData;
        InitProducerId: init_producer_id_request::InitProducerIdRequestData;
        OffsetForLeaderEpoch: offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData;
        DescribeConfigs: describe_configs_request::DescribeConfigsRequestData;
        CreatePartitions: create_partitions_request::CreatePartitionsRequestData;
        IncrementalAlterConfigs: incremental_alter_configs_request::IncrementalAlterConfigsRequestData;
        DescribeCluster: describe_cluster_request::DescribeClusterRequestData;
        OffsetCommit: offset_commit_request::OffsetCommitRequestData;
        OffsetFetch: offset_fetch_request::OffsetFetchRequestData;
        JoinGroup: join_group_request::JoinGroupRequestData;
        Heartbeat: heartbeat_request::HeartbeatRequestData;
        LeaveGroup: leave_group_request::LeaveGroupRequestData;
        SyncGroup: sync_group_request::SyncGroupRequestData;
        DescribeGroups: describe_groups_request::DescribeGroupsRequestData;
        ListGroups: list_groups_request::ListGroupsRequestData;
        DeleteRecords: delete_records_request::DeleteRecordsRequestData;
        DeleteGroups: delete_groups_request::DeleteGroupsRequestData;
        OffsetDelete: offset_delete_request::OffsetDeleteRequestData;
        AlterConfigs: alter_configs_request::AlterConfigsRequestData;
        DescribeLogDirs: describe_log_dirs_request::DescribeLogDirsRequestData;
        ElectLeaders: elect_leaders_request::ElectLeadersRequestData;
        ListPartitionReassignments: list_partition_reassignments_request::ListPartitionReassignmentsRequestData;
        DescribeProducers: describe_producers_request::DescribeProducersRequestData;
        ListConfigResources: list_config_resources_request::ListConfigResourcesRequestData;
        DescribeTopicPartitions: describe_topic_partitions_request::DescribeTopicPartitionsRequestData;
    }
    buf.freeze()
}

fn cold_apis() -> impl Iterator<Item = ApiKey> {
    ApiKey::ALL
        .iter()
        .copied()
        .filter(|api| !matches!(api, ApiKey::Produce | ApiKey::Fetch))
}

#[test]
fn cold_requests_of_every_version_decode_and_hostile_ones_cost_bounded_memory() {
    let mut runner = runner();
    for api in cold_apis() {
        for version in api.versions() {
            let name = format!("{api} v{version}");
            let whole = empty_body(api, version);
            assert!(
                ColdRequest::decode(api, version, &whole).is_ok_and(|request| request.api() == api),
                "{name}"
            );
            let decode = |bytes: &Bytes| {
                bounded(&name, decode_charge_bytes(bytes.len()), bytes, || {
                    ColdRequest::decode(api, version, bytes).is_ok()
                })
            };
            for len in 0..whole.len() {
                decode(&whole.slice(..len));
            }
            for (at, poison) in (0..whole.len()).flat_map(|at| POISON.map(|poison| (at, poison))) {
                let mut bytes = poisoned(&whole, at, poison).to_vec();
                decode(&bytes.clone().into());
                // Behind a poisoned count, many bytes that are small elements of some kind.
                for filler in [0u8, 1, 2] {
                    bytes.resize(6000, filler);
                    decode(&bytes.clone().into());
                    bytes.truncate(whole.len());
                }
            }
            for _ in 0..100 {
                let len = runner.rng().next_u32() % 400;
                decode(
                    &(0..len)
                        .map(|_| runner.rng().next_u32() as u8 & 0x1f)
                        .collect(),
                );
            }
        }
    }
}

#[test]
fn the_charge_of_a_cold_request_covers_a_full_frame_of_its_smallest_elements() {
    // A well-formed count over nothing but smallest elements, in each encoding; of 1, 2 and 4 bytes there are
    // just more than a power of two, so that their vector has doubled last and is half empty.
    let mut worst = 0;
    for api in cold_apis() {
        for version in api.versions() {
            let whole = empty_body(api, version);
            for at in 0..whole.len() {
                for element_bytes in [1usize, 2, 3, 4, 5, 6, 8, 16] {
                    for filler in [0u8, 1] {
                        let count = 66_000 / element_bytes;
                        let mut buf = BytesMut::from(&whole[..at]);
                        corelog_net::wire::Writer::new(&mut buf, api.is_flexible(version))
                            .length(Some(count));
                        buf.extend(std::iter::repeat_n(filler, 66_000));
                        let bytes = buf.freeze();
                        let (peak, _) =
                            peak_of(|| ColdRequest::decode(api, version, &bytes).is_ok());
                        worst = worst.max(peak / bytes.len());
                        let charge = decode_charge_bytes(bytes.len()) + SLACK_BYTES;
                        assert!(
                            peak <= charge,
                            "{api} v{version} at {at}: {peak} of {charge}"
                        );
                    }
                }
            }
        }
    }
    assert!(
        worst > COLD_DECODE_FACTOR / 2,
        "{worst}: the charge is needlessly high"
    );
}

fn head(size: i32, api_key: i16, version: i16) -> [u8; 12] {
    let mut head = [0; 12];
    head[..4].copy_from_slice(&size.to_be_bytes());
    head[4..6].copy_from_slice(&api_key.to_be_bytes());
    head[6..8].copy_from_slice(&version.to_be_bytes());
    head[11] = 9;
    head
}

#[test]
fn frames_are_judged_by_their_first_bytes() {
    let limits = FrameLimits::default();
    let judge = |size, api, version| FramePrefix::decode(&head(size, api, version), &limits);
    for size in [i32::MIN, -1, 0, 7] {
        assert_eq!(judge(size, 3, 9), Err(FrameError::BadSize { size }));
    }
    let produce = judge(100 << 20, 0, 9).unwrap();
    assert_eq!(
        (
            produce.api,
            produce.version,
            produce.correlation_id,
            produce.size
        ),
        (ApiKey::Produce, 9, 9, 100 << 20)
    );
    assert!(matches!(
        judge((100 << 20) + 1, 0, 9),
        Err(FrameError::TooLarge {
            api: ApiKey::Produce,
            ..
        })
    ));
    for api in ApiKey::ALL.iter().filter(|api| !api.is_served()) {
        let api_key = api.number();
        let unknown = Err(FrameError::UnknownApi { api_key });
        assert_eq!(judge(100, api_key, api.max_version()), unknown, "{api}");
    }
    for api in ApiKey::SERVED.iter().filter(|api| **api != ApiKey::Produce) {
        assert!(
            judge(4 << 20, api.number(), api.max_version()).is_ok(),
            "{api}"
        );
        let max = 4 << 20;
        let too_large = FrameError::TooLarge {
            api: *api,
            size: max + 1,
            max,
        };
        assert_eq!(
            judge((4 << 20) + 1, api.number(), api.max_version()),
            Err(too_large),
            "{api}"
        );
    }
    assert_eq!(judge(100, 4, 0), Err(FrameError::UnknownApi { api_key: 4 }));
    for version in [0, 2, 14] {
        assert_eq!(
            judge(100, 0, version),
            Err(FrameError::UnsupportedVersion {
                api: ApiKey::Produce,
                version
            })
        );
    }
    assert!(
        judge(100, 18, 99).is_ok(),
        "answered with the range, not refused"
    );
    let before = limits.unauthenticated();
    assert!(FramePrefix::decode(&head(64 << 10, 0, 9), &before).is_ok());
    assert!(FramePrefix::decode(&head((64 << 10) + 1, 0, 9), &before).is_err());
}

#[test]
fn request_frames_cut_anywhere_are_errors_not_panics() {
    for (api, version) in ApiKey::ALL
        .iter()
        .flat_map(|api| api.versions().map(move |version| (*api, version)))
    {
        let mut buf = BytesMut::new();
        corelog_net::frame::begin_request(&mut buf, api, version, 3, Some("someone"));
        let header = buf.freeze().slice(4..);
        assert!(RequestFrame::decode(&header).unwrap().body.is_empty());
        for len in 0..header.len() {
            assert!(
                RequestFrame::decode(&header.slice(..len)).is_err(),
                "{api} v{version} cut at {len}"
            );
        }
    }
    let unknown = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0x7f]);
    let request = RequestFrame::decode(&unknown).unwrap();
    assert_eq!(
        (request.version, request.correlation_id, request.body.len()),
        (99, 5, 0)
    );
}
