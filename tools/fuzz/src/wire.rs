//! What clients send, and what the client reads.

use bytes::{Bytes, BytesMut};
use corelog_net::ApiKey;
use corelog_net::cold::{ColdRequest, decode_charge_bytes, recode_response};
use corelog_net::fetch::{
    FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse, Part, RecordRange,
    ResponseBuilder,
};
use corelog_net::frame::{FrameLimits, FramePrefix, PREFIX_BYTES, RequestFrame, SIZE_BYTES};
use corelog_net::produce::{ProduceRequest, ProduceResponse};
use corelog_net::response::split_response;
use corelog_net::wire::WireError;

use crate::memory::bounded;
use crate::take;

/// For what does not grow with the input: an error's text, a first small vector.
const SLACK_BYTES: usize = 4096;
/// Bytes of structs per byte received, at most, of the hot decoders: an empty topic takes 3 bytes.
const HOT_FACTOR: usize = 32;
/// Bytes per byte received that encoding it again may take: a buffer that doubles, and its copy.
const ENCODE_FACTOR: usize = 8;

/// Size field and prefix against limits, then the header as the broker splits it.
pub fn frame(data: &[u8]) {
    let mut rest = data;
    let [which] = take::<1>(&mut rest);
    let limits = match which & 3 {
        0 => FrameLimits::default(),
        1 => FrameLimits::default().unauthenticated(),
        _ => FrameLimits {
            socket_request_max_bytes: 64,
            cold_bytes_max: 32,
        },
    };
    let mut head = rest;
    let head = take::<{ SIZE_BYTES + PREFIX_BYTES }>(&mut head);
    let prefix = bounded("prefix", SLACK_BYTES, || {
        FramePrefix::decode(&head, &limits)
    });
    if let Ok(prefix) = prefix {
        let max = prefix
            .api
            .frame_bytes_max(limits.socket_request_max_bytes, limits.cold_bytes_max);
        assert!(prefix.size <= max, "{prefix:?} is over {max}");
        assert!(prefix.api.is_served());
    }
    let bytes = Bytes::copy_from_slice(rest.get(SIZE_BYTES..).unwrap_or_default());
    let limit = SLACK_BYTES + bytes.len();
    if let Ok(frame) = bounded("header", limit, || RequestFrame::decode(&bytes)) {
        assert!(frame.body.len() <= bytes.len());
        if let Ok(prefix) = prefix
            && bytes.len() >= PREFIX_BYTES
        {
            assert_eq!(
                (prefix.api, prefix.version, prefix.correlation_id),
                (frame.api, frame.version, frame.correlation_id)
            );
        }
    }
}

/// An API and one of its versions by two bytes, so that every pair is easy to come by.
fn choose(data: &mut &[u8]) -> (ApiKey, i16) {
    let [api, version] = take::<2>(data);
    let api = ApiKey::ALL[usize::from(api) % ApiKey::ALL.len()];
    let versions = api.max_version() - api.min_version() + 1;
    (api, api.min_version() + i16::from(version) % versions)
}

/// The two bytes that choose an API and a version.
pub(crate) fn choice(api: ApiKey, version: i16) -> [u8; 2] {
    let at = ApiKey::ALL.iter().position(|known| *known == api);
    [
        at.map_or(0, |at| at as u8),
        (version - api.min_version()) as u8,
    ]
}

/// Decodes a body and encodes what was understood.
type Recode = fn(ApiKey, i16, &Bytes) -> Result<BytesMut, WireError>;

/// The body of any request: decoded within its charge, and what was understood survives being
/// encoded and decoded again.
pub fn request(data: &[u8]) {
    let mut rest = data;
    let (api, version) = choose(&mut rest);
    let recode: Recode = match api {
        ApiKey::Produce => |_, version, body| {
            let mut out = BytesMut::new();
            ProduceRequest::decode(version, body)?.encode(version, &mut out)?;
            Ok(out)
        },
        ApiKey::Fetch => |_, version, body| {
            let mut out = BytesMut::new();
            FetchRequest::decode(version, body)?.encode(version, &mut out)?;
            Ok(out)
        },
        _ => |api, version, body| {
            let request = ColdRequest::decode(api, version, body)?;
            let mut out = BytesMut::new();
            request
                .encode(version, &mut out)
                .unwrap_or_else(|error| panic!("{api} v{version}: {error}: {request:?}"));
            Ok(out)
        },
    };
    holds(api, version, &Bytes::copy_from_slice(rest), recode);
}

/// An answer, header and body, as the client reads it.
pub fn response(data: &[u8]) {
    let mut rest = data;
    let (api, version) = choose(&mut rest);
    let frame = Bytes::copy_from_slice(rest);
    let split = bounded("header", SLACK_BYTES, || {
        split_response(api, version, &frame)
    });
    let Ok((_, body)) = split else {
        return;
    };
    let recode: Recode = match api {
        ApiKey::Produce => |_, version, body| {
            let mut out = BytesMut::new();
            ProduceResponse::decode(version, body)?.encode(version, &mut out)?;
            Ok(out)
        },
        ApiKey::Fetch => |api, version, body| {
            let frame = encode_fetch(version, FetchResponse::decode(version, body)?);
            let (_, body) = split_response(api, version, &frame.slice(SIZE_BYTES..))?;
            Ok(BytesMut::from(&body[..]))
        },
        _ => recode_response,
    };
    holds(api, version, &body, recode);
}

/// What was understood is understood the same when it is encoded and decoded again, and costs no
/// more memory than is charged for it. Bytes are compared, not structs: a NaN is not equal to itself.
fn holds(api: ApiKey, version: i16, body: &Bytes, recode: Recode) {
    let decode = match api {
        ApiKey::Produce | ApiKey::Fetch => HOT_FACTOR * body.len(),
        _ => decode_charge_bytes(body.len()),
    };
    let limit = decode + ENCODE_FACTOR * body.len() + SLACK_BYTES;
    let Ok(first) = bounded(api.name(), limit, || recode(api, version, body)) else {
        return;
    };
    let first = first.freeze();
    let second = recode(api, version, &first)
        .unwrap_or_else(|error| panic!("{api} v{version}: {error}: {first:02x?}"));
    assert_eq!(first, second, "{api} v{version}");
}

/// The whole frame of a Fetch answer that holds its records in memory.
pub(crate) fn encode_fetch(version: i16, response: FetchResponse<Bytes>) -> Bytes {
    let parts = ResponseBuilder::new(version, 1)
        .expect("a version that is served")
        .build(response)
        .expect("smaller than 2 GiB");
    let mut frame = BytesMut::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) | Part::Records(bytes, _) => frame.extend_from_slice(&bytes),
        }
    }
    frame.freeze()
}

/// A Fetch answer with one partition of records.
pub(crate) fn fetch_answer(version: i16, records: Bytes) -> Bytes {
    let range = RecordRange {
        len: records.len(),
        range: records,
    };
    let partition = FetchPartitionResponse {
        records: vec![range],
        ..FetchPartitionResponse::default()
    };
    let topic = FetchTopicResponse {
        name: if version < 13 { "t".into() } else { "".into() },
        topic_id: if version < 13 { [0; 16] } else { [7; 16] },
        partitions: vec![partition],
    };
    let response = FetchResponse {
        topics: vec![topic],
        ..FetchResponse::default()
    };
    encode_fetch(version, response)
}
