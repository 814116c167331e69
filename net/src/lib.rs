//! The wire: Kafka's protocol between sockets and the broker.
//!
//! Knows frames, headers, versions and message bodies; decodes what comes in with bounds taken from
//! what was received, and encodes what goes out. It must never know where records lie (the engine's
//! range type is a type parameter here), what a topic is, or what time it is.
//!
//! Start reading at [`api`] (what is served, and in which versions), then [`frame`] (how a request
//! begins), then [`produce`] and [`fetch`] (the two hot messages, written by hand) and [`cold`] (all
//! other messages, over generated structs). [`client`] is the one client.

pub mod api;
pub mod api_versions;
pub mod client;
pub mod cold;
pub mod error_code;
pub mod fetch;
pub mod frame;
pub mod produce;
pub mod response;
pub mod wire;

pub use api::ApiKey;
pub use error_code::ErrorCode;
pub use wire::{TopicId, WireError, WireStr};
