//! The broker: it composes runtime, storage, net and core into `corelogd`.
//!
//! This is the only room that sees both the wire and the log. It acknowledges only what is as safe
//! as promised. It must never do itself what a room below it does: no bytes of the protocol are
//! laid out here, no file format, no decision about metadata.
//!
//! Start reading at [`daemon`] (how a broker starts and stops), then [`shard`] (what one core
//! owns), [`connection`] (the way of a request), [`controller`] (the way of a change of metadata).

pub mod codec_memory;
pub mod connection;
pub mod control_plane;
pub mod controller;
pub mod daemon;
pub mod errors;
pub mod groups;
pub mod latency;
pub mod log_dirs;
pub mod metadata_log;
mod race;
pub mod request_memory;
pub mod shard;
pub mod stats;
pub mod topic_settings;
