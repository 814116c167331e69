//! ApiVersions: the first request of every connection, answered so that any client can read it.
//!
//! A version that is not served gets a version 0 body with UNSUPPORTED_VERSION and the range of
//! ApiVersions alone (KIP-511); the response header is always version 0.

use bytes::BytesMut;

use crate::api::ApiKey;
use crate::error_code::ErrorCode;
use crate::response::response_frame;
use crate::wire::{WireError, Writer};

/// A feature and the range of its levels that this broker supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportedFeature {
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest level.
    pub min_version: i16,
    /// Highest level.
    pub max_version: i16,
}

/// A feature and the level the cluster has switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalizedFeature {
    /// Kafka's name.
    pub name: &'static str,
    /// The level.
    pub level: i16,
}

/// `metadata.version` of Kafka 4.3.1: 3.3-IV3 to 4.3-IV0. `transaction.version` is not here, which keeps
/// clients on the first transaction protocol; nor are the features of groups that are not served.
pub const SUPPORTED_FEATURES: &[SupportedFeature] = &[SupportedFeature {
    name: "metadata.version",
    min_version: 7,
    max_version: 30,
}];

/// What is switched on: `metadata.version` 4.3-IV0.
pub const FINALIZED_FEATURES: &[FinalizedFeature] = &[FinalizedFeature {
    name: "metadata.version",
    level: 30,
}];

/// What ApiVersions says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersionsAnswer<'a> {
    /// APIs to name; the ranges are those of the table.
    pub apis: &'a [ApiKey],
    /// Supported features.
    pub supported: &'a [SupportedFeature],
    /// Finalized features.
    pub finalized: &'a [FinalizedFeature],
    /// Epoch of the finalized features (the offset of the metadata they were read from); -1 = unknown.
    pub finalized_epoch: i64,
    /// How long the client is muted, in milliseconds.
    pub throttle_time_ms: i32,
}

impl Default for ApiVersionsAnswer<'static> {
    fn default() -> ApiVersionsAnswer<'static> {
        ApiVersionsAnswer {
            apis: ApiKey::SERVED,
            supported: SUPPORTED_FEATURES,
            finalized: FINALIZED_FEATURES,
            finalized_epoch: 0,
            throttle_time_ms: 0,
        }
    }
}

impl ApiVersionsAnswer<'_> {
    /// The response frame, size field included, for a request of any version, served or not.
    pub fn encode_frame(&self, version: i16, correlation_id: i32) -> Result<BytesMut, WireError> {
        let api = ApiKey::ApiVersions;
        if api.serves(version) {
            return response_frame(api, version, correlation_id, |buf| {
                self.encode(version, buf)
            });
        }
        response_frame(api, 0, correlation_id, |buf| {
            let mut w = Writer::new(buf, false);
            w.i16(ErrorCode::UnsupportedVersion.code());
            encode_apis(&[api], &mut w);
        })
    }

    /// The response frame to a request whose client name or version is not acceptable.
    pub fn invalid_request_frame(version: i16, correlation_id: i32) -> Result<BytesMut, WireError> {
        response_frame(ApiKey::ApiVersions, version, correlation_id, |buf| {
            let empty = ApiVersionsAnswer {
                apis: &[],
                supported: &[],
                finalized: &[],
                finalized_epoch: -1,
                throttle_time_ms: 0,
            };
            empty.encode_with(ErrorCode::InvalidRequest, version, buf);
        })
    }

    fn encode(&self, version: i16, buf: &mut BytesMut) {
        self.encode_with(ErrorCode::None, version, buf);
    }

    fn encode_with(&self, error: ErrorCode, version: i16, buf: &mut BytesMut) {
        let mut w = Writer::new(buf, ApiKey::ApiVersions.is_flexible(version));
        w.i16(error.code());
        encode_apis(self.apis, &mut w);
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        if version < 3 {
            return;
        }
        // Clients of version 3 refuse a supported feature whose lowest level is 0 (KAFKA-17011).
        let supported = || {
            self.supported
                .iter()
                .filter(|feature| version >= 4 || feature.min_version > 0)
        };
        let count = supported().count();
        let with_finalized = !self.finalized.is_empty();
        let with_epoch = self.finalized_epoch != -1;
        w.tag_count(usize::from(count > 0) + usize::from(with_epoch) + usize::from(with_finalized));
        if count > 0 {
            w.tag(0, |w| {
                w.length(Some(count));
                for feature in supported() {
                    w.string(feature.name);
                    w.i16(feature.min_version);
                    w.i16(feature.max_version);
                    w.no_tags();
                }
            });
        }
        if with_epoch {
            w.tag(1, |w| w.i64(self.finalized_epoch));
        }
        if with_finalized {
            w.tag(2, |w| {
                w.length(Some(self.finalized.len()));
                for feature in self.finalized {
                    w.string(feature.name);
                    w.i16(feature.level);
                    w.i16(feature.level);
                    w.no_tags();
                }
            });
        }
    }
}

fn encode_apis(apis: &[ApiKey], w: &mut Writer<'_>) {
    w.length(Some(apis.len()));
    for api in apis {
        w.i16(api.number());
        w.i16(api.advertised_min_version());
        w.i16(api.max_version());
        w.no_tags();
    }
}

/// Kafka's rule for the client software name and version of a request from version 3: letters, digits,
/// dots and dashes, beginning and ending with a letter or digit.
pub fn is_valid_software_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| inner(*b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_rule() {
        for name in ["a", "corelog", "apache-kafka-java", "4.3.1", "a.b-c"] {
            assert!(is_valid_software_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a_b", "a b", "é", "."] {
            assert!(!is_valid_software_name(name), "{name}");
        }
    }

    #[test]
    fn transaction_version_is_not_finalized_before_it_is_served() {
        assert!(
            SUPPORTED_FEATURES
                .iter()
                .all(|f| f.name != "transaction.version")
        );
        assert!(
            FINALIZED_FEATURES
                .iter()
                .all(|f| f.name != "transaction.version")
        );
    }
}
