//! What a simulated network is like: its speed, its buffers, its faults; and how shards take turns.

/// Faults of the network by chance, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetFaultPlan {
    /// Sends whose bytes arrive in several pieces, cut at any place.
    pub split_ppm: u32,
    /// Sends that take up to [`NetConfig::slow_ns`] longer; what follows waits behind.
    pub slow_ppm: u32,
    /// Sends in which the connection is lost at any byte: what lies before still arrives, then
    /// both ends see ECONNRESET, each at its own time.
    pub reset_ppm: u32,
    /// Sends in which the connection is lost at any byte in silence: both ends see ETIMEDOUT, each
    /// after a time of its own out of [`NetConfig::silence_ns`].
    pub silence_ppm: u32,
    /// Connections that are refused.
    pub refuse_ppm: u32,
    /// Connections that are reset before they are accepted (accept answers ECONNABORTED).
    pub abort_ppm: u32,
    /// Connections one of whose ends takes bytes slowly, [`NetConfig::trickle_bytes`] at a time.
    pub slow_peer_ppm: u32,
    /// Sends with which the link between the two processes is cut for up to [`NetConfig::cut_ns`].
    pub cut_ppm: u32,
}

/// A simulated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// Time of a segment from one end to the other, from and to, ns.
    pub delay_ns: (u64, u64),
    /// What a slow segment takes more.
    pub slow_ns: (u64, u64),
    /// Bytes under way or unread that one direction of a connection holds; drawn per direction.
    pub buffer_bytes: (u64, u64),
    /// Pieces in which a slow peer takes its bytes, each after a delay of its own.
    pub trickle_bytes: u64,
    /// How long an end waits in silence until its connection has timed out.
    pub silence_ns: (u64, u64),
    /// How long a cut link stays cut.
    pub cut_ns: (u64, u64),
    /// After this time without an answer a connect ends with ETIMEDOUT.
    pub connect_timeout_ns: u64,
    /// Bytes that could not be delivered for so long end their connection with ETIMEDOUT.
    pub give_up_ns: u64,
    /// Faults by chance.
    pub faults: NetFaultPlan,
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            delay_ns: (20_000, 500_000),
            slow_ns: (5_000_000, 2_000_000_000),
            buffer_bytes: (16 << 10, 512 << 10),
            trickle_bytes: 1400,
            silence_ns: (200_000_000, 60_000_000_000),
            cut_ns: (1_000_000, 10_000_000_000),
            connect_timeout_ns: 30_000_000_000,
            give_up_ns: 60_000_000_000,
            faults: NetFaultPlan::default(),
        }
    }
}

/// How a connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Both ends see ECONNRESET, each at its own time.
    Reset,
    /// Both ends see ETIMEDOUT, each after a silence of its own.
    Silence,
}

/// What the network did, and how often each kind of trouble was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetCounters {
    /// Connections established.
    pub connections: u64,
    /// Pieces that arrived.
    pub deliveries: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Sends cut in several pieces by fault.
    pub splits: u64,
    /// Sends made slow.
    pub slow: u64,
    /// Connections lost with a reset, by plan or by [`super::SimWorld::break_connections`].
    pub resets: u64,
    /// Connections lost in silence, likewise.
    pub silences: u64,
    /// Losses that cut a send in the middle: some of its bytes arrive, some never.
    pub half_sent: u64,
    /// Connections refused by fault.
    pub refused: u64,
    /// Connections refused because nobody listened.
    pub nobody_listened: u64,
    /// Connections reset before they were accepted.
    pub aborted: u64,
    /// Connections with a slow end.
    pub slow_peers: u64,
    /// Links cut, by plan or by call.
    pub cuts: u64,
    /// Pieces that waited for the end of a cut.
    pub held_by_cuts: u64,
    /// Connections and connects that timed out.
    pub timed_out: u64,
    /// Sends that found no room, in whole or in part.
    pub pushed_back: u64,
    /// Ends of connections that went with their process.
    pub killed_ends: u64,
    /// Connects that waited because the listener's queue was full.
    pub full_backlogs: u64,
    /// Bytes answered with a reset because their receiver had gone.
    pub sent_to_closed: u64,
    /// sendfile calls.
    pub sendfiles: u64,
    /// sendfile calls for pages that were not cached: a kernel would have blocked the shard.
    pub sendfiles_uncached: u64,
}

/// How shards take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleConfig {
    /// Turns, in parts per million, before which the shard is held back, as a thread would be that
    /// the system does not run.
    pub held_ppm: u32,
    /// For how long, from and to, ns.
    pub held_ns: (u64, u64),
    /// Looks of a shard at its clock, in parts per million, that find that the task took long: so
    /// that it yields where it may.
    pub busy_ppm: u32,
    /// How long, from and to, ns.
    pub busy_ns: (u64, u64),
}

impl Default for ScheduleConfig {
    fn default() -> ScheduleConfig {
        ScheduleConfig {
            held_ppm: 2_000,
            held_ns: (10_000, 5_000_000),
            busy_ppm: 2_000,
            busy_ns: (100_000, 3_000_000),
        }
    }
}
