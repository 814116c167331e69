//! Hostile bytes for every decoder of the project.
//!
//! A target is a function that takes any bytes: it must not panic, and must not hold more memory
//! than a small multiple of what it was given ([`memory`]). `cargo xtask fuzz TARGET SECONDS` feeds
//! the targets with what libFuzzer makes up (binary `corelog-fuzz`, feature `libfuzzer`);
//! `tests/corpus.rs` replays the seeds and what was found before with every `cargo test`.
//!
//! Start reading at [`TARGETS`]. `corpus/TARGET` holds inputs that reach different code;
//! `regressions/TARGET` holds inputs that once failed, named after what they found.

pub mod batch;
pub mod codec;
pub mod files;
pub mod memory;
pub mod seeds;
pub mod text;
pub mod wire;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line and in `corpus/`.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the project's own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is worth trying, bytes.
    pub max_len: usize,
    /// What it covers, in a few words.
    pub what: &'static str,
}

macro_rules! targets {
    ($($name:literal, $run:path, $seeds:path, $max_len:expr, $what:literal;)*) => {
        &[$(Target { name: $name, run: $run, seeds: $seeds, max_len: $max_len, what: $what },)*]
    };
}

/// All targets.
pub const TARGETS: &[Target] = targets! {
    "frame", wire::frame, seeds::frame, 512, "size field, limits and header of a request";
    "request", wire::request, seeds::request, 1024, "every request, every version, decoded and encoded again";
    "response", wire::response, seeds::response, 1024, "every answer, every version, as the client reads it";
    "batch", batch::batch, seeds::batch, 2048, "header, validation at once and in steps, records, rewrites";
    "gzip", codec::gzip, seeds::gzip, 1024, "decompression of gzip";
    "snappy", codec::snappy, seeds::snappy, 1024, "decompression of snappy, raw and framed";
    "lz4", codec::lz4, seeds::lz4, 1024, "decompression of lz4 frames";
    "zstd", codec::zstd, seeds::zstd, 1024, "decompression of zstd";
    "index", files::index, seeds::index, 512, "offset and time indexes, their lookups and truncation";
    "checkpoint", text::checkpoint, seeds::checkpoint, 512, "offset checkpoints";
    "leader_epochs", text::leader_epochs, seeds::leader_epochs, 512, "leader-epoch-checkpoint and its lookups";
    "meta", text::meta, seeds::meta, 512, "meta.properties, partition.metadata, clean marker, directory names";
    "producer_snapshot", files::producer_snapshot, seeds::producer_snapshot, 512, "producer snapshots and what is made of them";
    "metadata_log", files::metadata_log, seeds::metadata_log, 1024, "entries, vote and snapshot of the metadata log, and their records";
    "consumer_offsets", files::consumer_offsets, seeds::consumer_offsets, 512, "keys and values of __consumer_offsets";
    "group_load", files::group_load, seeds::group_load, 512, "a coordinator that loads records, and serves them";
    "properties", text::properties, seeds::properties, 512, "server.properties and values of its keys";
    "configs", text::configs, seeds::configs, 256, "values of topic configs";
    "subscription", files::subscription, seeds::subscription, 512, "a consumer's subscription";
};

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Splits `N` bytes off the front; zeros stand in for missing ones.
pub(crate) fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut head = [0; N];
    let n = N.min(data.len());
    head[..n].copy_from_slice(&data[..n]);
    *data = &data[n..];
    head
}
