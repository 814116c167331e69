//! `corelogd`: the broker.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Kafka-compatible streaming log server.
///
/// Without a file it starts on 127.0.0.1:9092, keeps its data in ./corelog-data and serves
/// /metrics and /health on 127.0.0.1:9644.
#[derive(Debug, Parser)]
#[command(name = "corelogd", version)]
struct Args {
    /// Configuration file with Kafka's keys and units.
    server_properties: Option<PathBuf>,
    /// Sets one key, over the file.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Prints every configuration key as Markdown and exits.
    #[arg(long)]
    config_docs: bool,
    /// Plants a known bug, to show that the tests find it.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.config_docs {
        print!("{}", corelog_core::config::config_docs());
        return ExitCode::SUCCESS;
    }
    let options = corelog_engine::daemon::Options {
        server_properties: args.server_properties,
        overrides: args.overrides,
        #[cfg(feature = "planted")]
        planted: args.planted,
        #[cfg(not(feature = "planted"))]
        planted: None,
    };
    match corelog_engine::daemon::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelogd: {error}");
            ExitCode::FAILURE
        }
    }
}
