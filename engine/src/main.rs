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
    /// Checks the configuration, prints every key in use with its value in force, and exits.
    #[arg(long)]
    check_config: bool,
    /// Prints the metadata log of a log directory as text and exits; with exit code 1 when it is
    /// damaged.
    #[arg(long, value_name = "DIR")]
    dump_metadata: Option<PathBuf>,
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
    if let Some(directory) = args.dump_metadata {
        let whole = corelog_engine::metadata_log::dump::dump(&directory, &mut std::io::stdout());
        return match whole {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => {
                eprintln!("corelogd: the metadata log is damaged");
                ExitCode::FAILURE
            }
            // The reader of our output has seen enough.
            Err(_) => ExitCode::SUCCESS,
        };
    }
    let options = corelog_engine::daemon::Options {
        server_properties: args.server_properties,
        overrides: args.overrides,
        #[cfg(feature = "planted")]
        planted: args.planted,
        #[cfg(not(feature = "planted"))]
        planted: None,
    };
    let outcome = if args.check_config {
        corelog_engine::daemon::check_config(&options)
    } else {
        corelog_engine::daemon::run(options)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelogd: {error}");
            ExitCode::FAILURE
        }
    }
}
