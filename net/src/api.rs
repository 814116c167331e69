//! What is served: the APIs, their versions, and how their frames begin.
//!
//! The ranges are those of Apache Kafka 4.3.1 (`ApiKeys` of kafka-clients 4.3.1: `oldestVersion` to
//! `latestVersion(false)`), so that every client that works with it works here. Both ends speak what is in
//! the table; a broker admits and advertises an API only once [`ApiKey::is_served`] says so, which it does
//! when all of its versions are served whole.

use std::fmt;
use std::ops::RangeInclusive;

/// Default limit of a frame that is not Produce, in bytes: their structs take many times the bytes they came in.
pub const COLD_FRAME_BYTES_MAX: usize = 4 << 20;

/// Most bytes of structs a cold request may decode to, for each byte of its frame, while it is decoded.
/// Memory is taken by this factor before the decode.
pub const COLD_DECODE_FACTOR: usize = 128;

macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $min:literal ..= $max:literal, flexible $flexible:literal;)*) => {
        /// An API; the discriminant is Kafka's number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey {
            $($(#[$doc])* $name = $key,)*
        }

        impl ApiKey {
            /// All APIs, by number.
            pub const ALL: &'static [ApiKey] = &[$(ApiKey::$name,)*];

            /// The API of a number, if it is in the table.
            pub const fn from_i16(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            const fn row(self) -> (i16, i16, i16) {
                match self {
                    $(ApiKey::$name => ($min, $max, $flexible),)*
                }
            }
        }
    };
}

apis! {
    /// Appends batches to partitions.
    Produce = 0, 3..=13, flexible 9;
    /// Reads batches of partitions.
    Fetch = 1, 4..=18, flexible 12;
    /// Offsets by timestamp, first and last.
    ListOffsets = 2, 1..=11, flexible 6;
    /// Brokers, topics, leaders.
    Metadata = 3, 0..=13, flexible 9;
    /// Commits offsets of a group.
    OffsetCommit = 8, 2..=10, flexible 8;
    /// Offsets that groups have committed.
    OffsetFetch = 9, 1..=10, flexible 6;
    /// Which broker coordinates a group or a transaction.
    FindCoordinator = 10, 0..=6, flexible 3;
    /// Enters a classic group, or its next generation.
    JoinGroup = 11, 0..=9, flexible 6;
    /// A member of a classic group is alive.
    Heartbeat = 12, 0..=4, flexible 4;
    /// Members leave a classic group.
    LeaveGroup = 13, 0..=5, flexible 4;
    /// The leader's assignment to a member of a classic group.
    SyncGroup = 14, 0..=5, flexible 4;
    /// State and members of classic groups.
    DescribeGroups = 15, 0..=6, flexible 5;
    /// The groups a broker coordinates.
    ListGroups = 16, 0..=5, flexible 3;
    /// This table.
    ApiVersions = 18, 0..=4, flexible 3;
    /// Creates topics.
    CreateTopics = 19, 2..=7, flexible 5;
    /// Deletes topics.
    DeleteTopics = 20, 1..=6, flexible 4;
    /// Raises the first offsets of partitions.
    DeleteRecords = 21, 0..=2, flexible 2;
    /// A producer's id and epoch. (Version 6 is unstable in 4.3.1: two-phase commit.)
    InitProducerId = 22, 0..=5, flexible 2;
    /// Where a leader epoch ended.
    OffsetForLeaderEpoch = 23, 2..=4, flexible 4;
    /// Configs of topics and brokers.
    DescribeConfigs = 32, 1..=4, flexible 4;
    /// Replaces all configs of topics and brokers.
    AlterConfigs = 33, 0..=2, flexible 2;
    /// Log directories: their partitions' sizes, total and free space.
    DescribeLogDirs = 35, 1..=5, flexible 2;
    /// Raises partition counts.
    CreatePartitions = 37, 0..=3, flexible 2;
    /// Deletes groups without members.
    DeleteGroups = 42, 0..=2, flexible 2;
    /// Makes preferred replicas leaders, or any replica where there is no leader.
    ElectLeaders = 43, 0..=2, flexible 2;
    /// Changes configs key by key.
    IncrementalAlterConfigs = 44, 0..=1, flexible 1;
    /// Partitions that are moving between brokers.
    ListPartitionReassignments = 46, 0..=0, flexible 0;
    /// Deletes offsets of a group.
    OffsetDelete = 47, 0..=0, flexible 1;
    /// Brokers and the controller.
    DescribeCluster = 60, 0..=2, flexible 0;
    /// Producers that a partition remembers.
    DescribeProducers = 61, 0..=0, flexible 0;
    /// What has configs.
    ListConfigResources = 74, 0..=1, flexible 0;
    /// Topics in pages.
    DescribeTopicPartitions = 75, 0..=0, flexible 0;
}

/// How many APIs brokers serve.
const SERVED_COUNT: usize = {
    let (mut count, mut i) = (0, 0);
    while i < ApiKey::ALL.len() {
        count += ApiKey::ALL[i].is_served() as usize;
        i += 1;
    }
    count
};

const SERVED: [ApiKey; SERVED_COUNT] = {
    let mut served = [ApiKey::ApiVersions; SERVED_COUNT];
    let (mut count, mut i) = (0, 0);
    while i < ApiKey::ALL.len() {
        if ApiKey::ALL[i].is_served() {
            served[count] = ApiKey::ALL[i];
            count += 1;
        }
        i += 1;
    }
    served
};

impl ApiKey {
    /// The APIs that brokers admit and advertise, by number.
    pub const SERVED: &'static [ApiKey] = &SERVED;

    /// Brokers admit and advertise the API: all of them now. One that only clients speak, because
    /// its broker's side is not whole, says so here.
    pub const fn is_served(self) -> bool {
        true
    }

    /// Kafka's number.
    pub const fn number(self) -> i16 {
        self as i16
    }

    /// Lowest version spoken.
    pub const fn min_version(self) -> i16 {
        self.row().0
    }

    /// Highest version spoken.
    pub const fn max_version(self) -> i16 {
        self.row().1
    }

    /// Lowest version that ApiVersions names. Produce says 0 and serves from 3: older librdkafka takes
    /// a higher minimum for a broker without compression (KAFKA-18659).
    pub const fn advertised_min_version(self) -> i16 {
        match self {
            ApiKey::Produce => 0,
            _ => self.min_version(),
        }
    }

    /// The versions spoken.
    pub const fn versions(self) -> RangeInclusive<i16> {
        self.min_version()..=self.max_version()
    }

    /// The version is spoken.
    pub const fn serves(self, version: i16) -> bool {
        version >= self.min_version() && version <= self.max_version()
    }

    /// The version has compact lengths and tagged fields.
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.row().2
    }

    /// Version of the request header: 2 with tagged fields, 1 without.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the response header: 1 with tagged fields, 0 without. ApiVersions always has 0, because
    /// its client cannot know yet what the broker speaks (KIP-511).
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            ApiKey::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }

    /// Largest frame (without its size field) in bytes. Only Produce may reach `socket_request_max_bytes`.
    pub const fn frame_bytes_max(
        self,
        socket_request_max_bytes: usize,
        cold_bytes_max: usize,
    ) -> usize {
        match self {
            ApiKey::Produce => socket_request_max_bytes,
            _ if cold_bytes_max < socket_request_max_bytes => cold_bytes_max,
            _ => socket_request_max_bytes,
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use kacrab_protocol::generated::{ApiKey as Generated, client_api_info};
    use kacrab_protocol::version::{request_header_version, response_header_version};

    use super::*;

    #[test]
    fn the_table_is_that_of_the_generated_schemas() {
        for api in ApiKey::ALL {
            let info = client_api_info(Generated::from_i16(api.number()).unwrap());
            let unstable = i16::from(*api == ApiKey::InitProducerId && info.max_version == 6);
            assert_eq!(api.min_version(), info.min_version, "{api}");
            assert_eq!(api.max_version(), info.max_version - unstable, "{api}");
            for version in api.versions() {
                let header = request_header_version(api.number(), version);
                assert_eq!(
                    api.request_header_version(version),
                    header,
                    "{api} v{version}"
                );
                let header = response_header_version(api.number(), version);
                assert_eq!(
                    api.response_header_version(version),
                    header,
                    "{api} v{version}"
                );
            }
        }
    }

    #[test]
    fn numbers_and_names_go_both_ways() {
        for api in ApiKey::ALL {
            assert_eq!(ApiKey::from_i16(api.number()), Some(*api));
            assert_eq!(api.to_string(), format!("{api:?}"));
        }
        let known = |key: &i16| ApiKey::from_i16(*key).is_some();
        assert_eq!(
            (i16::MIN..=i16::MAX).filter(known).count(),
            ApiKey::ALL.len()
        );
        assert_eq!(ApiKey::Produce.advertised_min_version(), 0);
    }

    #[test]
    fn the_served_apis_are_those_of_the_table_in_its_order() {
        let served = ApiKey::ALL.iter().filter(|api| api.is_served());
        assert!(served.eq(ApiKey::SERVED));
        assert!(ApiKey::ALL.is_sorted() && ApiKey::SERVED.contains(&ApiKey::ApiVersions));
    }
}
