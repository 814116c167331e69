//! `corelog`: the command line for topics, configuration, consumer groups and records.
//!
//! It speaks to any Kafka-compatible broker through [`corelog_net::client`] and must never know how a broker works
//! inside; [`dump`] and [`doctor`] alone look at files and at the machine. Start reading at [`Command`]; each
//! command is a file.

/// `println!` that ends the program quietly when the reader of its output has seen enough.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write;
        if writeln!(std::io::stdout(), $($arg)*).is_err() {
            std::process::exit(0);
        }
    }};
}
pub(crate) use say;

mod cluster;
mod configs;
mod consume;
mod corelogd;
mod doctor;
mod dump;
mod groups;
mod produce;
mod topics;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Rt, ShardId, check_environment};
use std::process::ExitCode;

/// Buffers that one connection at a time needs; more is allocated and given back.
const POOL_BYTES: usize = 8 << 20;
const RING_ENTRIES: u32 = 64;

/// Topics, configuration, consumer groups and records of a Kafka-compatible broker.
#[derive(Parser)]
#[command(name = "corelog", version)]
struct Args {
    /// Any broker of the cluster.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    bootstrap_server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists, creates, describes, changes and deletes topics.
    #[command(subcommand)]
    Topic(topics::Command),
    /// Reads and changes the configuration of topics and brokers.
    #[command(subcommand)]
    Config(configs::Command),
    /// Lists and describes consumer groups, resets their offsets, deletes them.
    #[command(subcommand)]
    Group(groups::Command),
    /// Sends the lines of a file or of standard input, one record each.
    Produce(produce::Options),
    /// Prints records, one line each.
    Consume(consume::Options),
    /// Examines the machine: kernel, limits, disks, network, CPUs, memory; says what to change.
    Doctor(doctor::Options),
    /// Prints and checks the files of a log directory; needs no broker.
    Dump(dump::Options),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelog: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// False: what was asked for was done, and its finding is bad.
fn run(args: Args) -> Result<bool> {
    match args.command {
        Command::Doctor(options) => doctor::run(&options),
        Command::Dump(options) => dump::run(&options),
        command => with_cluster(&args.bootstrap_server, command).map(|()| true),
    }
}

fn with_cluster(bootstrap_server: &str, command: Command) -> Result<()> {
    check_environment()?;
    let driver = UringDriver::new(RING_ENTRIES).context("cannot make an io_uring")?;
    let rt = Rt::new(ShardId(0), Box::new(driver), BufferPool::new(POOL_BYTES));
    let done = rt.block_on(async {
        let cluster = cluster::Cluster::connect(&rt, bootstrap_server).await?;
        match command {
            Command::Topic(command) => topics::run(&cluster, command).await,
            Command::Config(command) => configs::run(&cluster, command).await,
            Command::Group(command) => groups::run(&cluster, command).await,
            Command::Produce(options) => produce::run(&cluster, options).await,
            Command::Consume(options) => consume::run(&cluster, options).await,
            Command::Doctor(_) | Command::Dump(_) => Ok(()), // need no cluster
        }
    });
    rt.close();
    done
}
