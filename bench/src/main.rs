//! `corelog-bench`: measures a broker, and what this machine can do at best, with the same load.
//!
//! It must never know how the broker works: it speaks Kafka's protocol and reads the clock. Start
//! reading at [`rows`] (a table row: broker and bare limit, interleaved), then [`load`] (the load),
//! [`limits`] (the bare loops).

mod beside;
mod limits;
mod load;
mod rows;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Load generator for Corelog and any broker that speaks Kafka's protocol.
#[derive(Debug, Parser)]
#[command(name = "corelog-bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends Produce requests over many connections, one in flight on each (closed loop).
    Produce(load::ProduceArgs),
    /// What this machine can do at best, without a broker.
    Limits {
        #[command(subcommand)]
        limit: Limit,
    },
    /// One row of docs/PERFORMANCE.md: the broker and its limit, interleaved, medians and ratio.
    Row(rows::RowArgs),
    /// A producer at a fixed rate, alone and beside a consumer that reads what no cache holds,
    /// interleaved: p99.9 and ratio (open loop).
    Beside(beside::BesideArgs),
}

#[derive(Debug, Subcommand)]
enum Limit {
    /// Serves the produce load without a broker: answers each frame at once, and keeps four 64 KiB
    /// direct writes in flight. Runs until it is killed.
    Mixed {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// CPU to pin to.
        #[arg(long)]
        cpu: Option<usize>,
        /// File to overwrite; made and filled when missing.
        #[arg(long)]
        file: PathBuf,
    },
    /// Overwrites a file with RWF_DSYNC, one write in flight.
    Dsync {
        /// File to overwrite; made and filled when missing.
        #[arg(long)]
        file: PathBuf,
        /// Bytes of one write.
        #[arg(long, default_value_t = 64 << 10)]
        bytes: usize,
        /// How long, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// CPU to pin to.
        #[arg(long)]
        cpu: Option<usize>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Produce(args) => {
            println!("{}", load::produce(&args)?);
            Ok(())
        }
        Command::Limits {
            limit: Limit::Mixed { listen, cpu, file },
        } => limits::mixed(listen, cpu, &file),
        Command::Limits {
            limit:
                Limit::Dsync {
                    file,
                    bytes,
                    seconds,
                    cpu,
                },
        } => {
            println!("{}", limits::dsync(&file, bytes, seconds, cpu)?);
            Ok(())
        }
        Command::Row(args) => rows::run(&args),
        Command::Beside(args) => beside::run(&args),
    }
}
