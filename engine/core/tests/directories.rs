//! Log directories in the metadata: placement, a failure, a start that finds some of them.

mod common;

use std::collections::BTreeMap;

use common::{apply, id, new_topic, registration, with_topics};
use corelog_core::Uuid;
use corelog_core::api::{ApiContext, metadata};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{
    FoundDirectories, Image, decode_records, directories_offline, encode_records, register_broker,
};
use corelog_core::placement::DirectoryPlacement;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::metadata_request::MetadataRequestData;

const NODE: i32 = 1;

fn start(image: &Image, incarnation: u64, found: FoundDirectories) -> Image {
    let registration = corelog_core::metadata::BrokerRegistration {
        found,
        ..registration(NODE, incarnation, 4)
    };
    apply(image, &register_broker(image, &registration))
}

fn online(ids: &[u64]) -> FoundDirectories {
    FoundDirectories {
        online: ids.iter().map(|n| id(*n)).collect(),
        ..FoundDirectories::default()
    }
}

/// (leader, leader epoch, directory) of each partition of `t`.
fn states(image: &Image) -> Vec<(i32, i32, Option<Uuid>)> {
    let topic = image.topic("t").unwrap();
    let state =
        |p: &corelog_core::metadata::Partition| (p.leader, p.leader_epoch, p.directory(NODE));
    topic.partitions.iter().map(state).collect()
}

#[test]
fn r33_a_new_partition_goes_to_the_directory_with_the_fewest() {
    let image = start(&Image::new(), 1, online(&[51, 52, 53]));
    let image = with_topics(&image, vec![new_topic("t", 5, 1)]);
    let placed: Vec<_> = states(&image).iter().map(|state| state.2).collect();
    let expected = [51, 52, 53, 51, 52].map(|n| Some(id(n)));
    assert_eq!(placed, expected);
    // One directory more: it is filled first.
    let image = start(&image, 2, online(&[51, 52, 53, 54]));
    let image = with_topics(&image, vec![new_topic("u", 3, 1)]);
    let of_u = &image.topic("u").unwrap().partitions;
    let placed: Vec<_> = of_u.iter().map(|p| p.directory(NODE)).collect();
    assert_eq!(placed, [54, 53, 54].map(|n| Some(id(n))));
    assert_eq!(DirectoryPlacement::new(&image, NODE, &[]).place(), None);
}

#[test]
fn r33_partitions_of_a_failed_directory_have_no_leader_and_come_back_with_it() {
    let image = start(&Image::new(), 1, online(&[51, 52]));
    let image = with_topics(&image, vec![new_topic("t", 4, 1)]);
    let failed = apply(&image, &directories_offline(&image, NODE, &[id(52)]));
    let leaders: Vec<_> = states(&failed).iter().map(|s| (s.0, s.1)).collect();
    assert_eq!(leaders, [(1, 0), (-1, 1), (1, 0), (-1, 1)]);
    assert_eq!(failed.topic("t").unwrap().partitions[1].isr, [NODE]);
    assert_eq!(directories_offline(&failed, NODE, &[id(52)]), []);
    // Clients are told, and new partitions keep off.
    let broker = BrokerConfig::default();
    let context = ApiContext {
        cluster_id: "c",
        controller_id: NODE,
        listener: "PLAINTEXT",
        broker: &broker,
    };
    let all = MetadataRequestData::default().with_topics(None);
    let answer = metadata(&failed, &context, 9, &all).response;
    let told = &answer.topics[0].partitions[1];
    assert_eq!(told.error_code, ErrorCode::LeaderNotAvailable.code());
    assert_eq!(
        (told.leader_id, &told.offline_replicas[..]),
        (-1, &[NODE][..])
    );
    assert_eq!(told.isr_nodes, [NODE]);
    assert_eq!(answer.topics[0].partitions[0].offline_replicas, []);
    let more = with_topics(&failed, vec![new_topic("u", 2, 1)]);
    let of_u = &more.topic("u").unwrap().partitions;
    assert!(of_u.iter().all(|p| p.directory(NODE) == Some(id(51))));
    // Still gone at the next start, back at the one after.
    let found = FoundDirectories {
        is_any_offline: true,
        ..online(&[51])
    };
    let gone = start(&more, 2, found);
    let leaders: Vec<_> = states(&gone).iter().map(|s| (s.0, s.1)).collect();
    assert_eq!(leaders, [(1, 1), (-1, 1), (1, 1), (-1, 1)]);
    let back = start(&gone, 3, online(&[51, 52]));
    let leaders: Vec<_> = states(&back).iter().map(|s| (s.0, s.1)).collect();
    assert_eq!(leaders, [(1, 2), (1, 2), (1, 2), (1, 2)]);
}

#[test]
fn r33_a_directory_that_left_the_configuration_keeps_its_partitions_offline() {
    let image = start(&Image::new(), 1, online(&[51, 52]));
    let image = with_topics(&image, vec![new_topic("t", 2, 1)]);
    // No directory of the list is broken; one is just not in it any more.
    let removed = start(&image, 2, online(&[51]));
    assert_eq!(
        states(&removed),
        [(1, 1, Some(id(51))), (-1, 1, Some(id(52)))]
    );
    // Somebody moved the files meanwhile: where they are is where the partition is.
    let found = FoundDirectories {
        partitions: BTreeMap::from([(("t".to_owned(), 0), id(51)), (("t".to_owned(), 1), id(51))]),
        ..online(&[51])
    };
    let moved = start(&removed, 3, found);
    assert_eq!(states(&moved), [(1, 2, Some(id(51))), (1, 2, Some(id(51)))]);
    // The image says all of it after a snapshot too.
    let records = decode_records(&encode_records(&moved.snapshot())).unwrap();
    assert_eq!(
        Image::from_snapshot(moved.version(), &records).unwrap(),
        moved
    );
}

#[test]
fn r33_partitions_from_before_there_were_directories_are_placed_where_they_are_found() {
    let image = start(&Image::new(), 1, FoundDirectories::default());
    let image = with_topics(&image, vec![new_topic("t", 3, 1)]);
    assert!(states(&image).iter().all(|state| state.2.is_none()));
    let found = FoundDirectories {
        partitions: BTreeMap::from([(("t".to_owned(), 1), id(52))]),
        ..online(&[51, 52])
    };
    // Those that are found nowhere were never made, since all directories are there.
    let placed = start(&image, 2, found.clone());
    let directories: Vec<_> = states(&placed).iter().map(|state| state.2).collect();
    assert_eq!(directories, [51, 52, 52].map(|n| Some(id(n))));
    // One that is found nowhere may be in a directory that does not work.
    let partly = FoundDirectories {
        is_any_offline: true,
        ..found
    };
    let placed = start(&image, 2, partly);
    let leaders: Vec<_> = states(&placed).iter().map(|s| (s.0, s.2)).collect();
    assert_eq!(leaders, [(-1, None), (1, Some(id(52))), (-1, None)]);
}
