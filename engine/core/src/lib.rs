//! Pure state machines of the broker: configuration, the metadata image, the controller's
//! decisions over it, placement, and the answers to requests that only read the image.
//!
//! An event goes in, records or an answer come out: the same input gives the same output.
//! This crate must never know clocks, files, sockets or chance; whatever it needs of them is an
//! argument. `kacrab-protocol`'s message structs are used as plain data.
//!
//! Start reading at [`metadata::image::Image`], then [`metadata::controller`] (what changes it),
//! [`api`] (what reads it) and [`config::BrokerConfig`] with [`config::keys`] (the table of every
//! configuration key).
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod metadata;
pub mod placement;

/// Id of a topic, of a broker's incarnation, or of a directory: 16 bytes, shown as base64url.
pub use kacrab_protocol::KafkaUuid as Uuid;
