//! What the tests share: hex, frames, and messages of chance.
#![allow(dead_code, missing_docs)]

use bytes::{Bytes, BytesMut};
use corelog_net::ApiKey;
use corelog_net::fetch::Part;
use corelog_net::response::split_response;

pub mod random;

pub fn unhex(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex
        .chars()
        .map(|c| c.to_digit(16).expect("hex") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The parts of a response as they go over the wire.
pub fn assemble(parts: Vec<Part<Bytes>>) -> Bytes {
    let mut frame = BytesMut::new();
    for part in parts {
        assert!(!part.is_empty());
        match part {
            Part::Bytes(bytes) => frame.extend_from_slice(&bytes),
            Part::Records(range, len) => {
                assert_eq!(range.len(), len);
                frame.extend_from_slice(&range);
            }
        }
    }
    frame.freeze()
}

/// The body of a response frame, after its size and header are found right.
pub fn body_of(api: ApiKey, version: i16, correlation_id: i32, frame: &Bytes) -> Bytes {
    let size = i32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(
        size as usize,
        frame.len() - 4,
        "{api} v{version}: size field"
    );
    let (id, body) = split_response(api, version, &frame.slice(4..)).unwrap();
    assert_eq!(id, correlation_id, "{api} v{version}");
    body
}
