//! Pure state machines of the broker: configuration, the metadata image, the controller's
//! decisions over it, consumer groups, placement, and the answers to requests that only read the image.
//!
//! An event goes in, records or an answer come out: the same input gives the same output.
//! This crate must never know clocks, files, sockets or chance; whatever it needs of them is an
//! argument. `kacrab-protocol`'s message structs are used as plain data.
//!
//! Start reading at [`metadata::image::Image`], then [`metadata::controller`] (what changes it),
//! [`api`] (what reads it), [`group`] (consumer groups), [`fetch_session`] (what consumers fetch, remembered) and [`config::BrokerConfig`] with [`config::keys`] (the table of every
//! configuration key).
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod connection_limits;
pub mod fetch_session;
pub mod group;
pub mod metadata;
pub mod placement;

/// Longest sentence of an error, in bytes: what a client wrote is quoted in it, and old versions
/// of the protocol cannot carry more than 32767.
const MAX_MESSAGE_BYTES: usize = 2000;

/// A sentence for a client, cut where it quotes too much.
fn client_message(message: &str) -> kacrab_protocol::KafkaString {
    if message.len() <= MAX_MESSAGE_BYTES {
        return kacrab_protocol::KafkaString::from(message.to_owned());
    }
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    kacrab_protocol::KafkaString::from(format!("{}...", &message[..end]))
}

/// Id of a topic, of a broker's incarnation, or of a directory: 16 bytes, shown as base64url.
pub use kacrab_protocol::KafkaUuid as Uuid;
