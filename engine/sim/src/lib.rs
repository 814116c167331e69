//! A whole broker from one seed: shards, net, storage, engine and groups run over the twin's disk,
//! network, clock and chance in one thread, simulated clients talk to it over the simulated network,
//! faults strike, and an oracle judges what the clients saw.
//!
//! Reading order: [`plan`] (what a seed is), [`history`] and [`director`] (how it is run), [`troupe`] and [`clients`] (who
//! talks to the broker), [`oracle`] (what the world must look like to them) and [`invariants`] (one rule per file).

pub mod broker;
pub mod chance;
pub mod clients;
pub mod director;
pub mod history;
pub mod invariants;
pub mod many;
pub mod oracle;
pub mod plan;
pub mod stage;
pub mod tally;
pub mod troupe;
