//! Rows of docs/PERFORMANCE.md: the broker and the bare limit of the same work, interleaved, with
//! the same client, medians and ratio.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use corelog_runtime::blocking;

use crate::load::{Measured, ProduceArgs};

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Memory of the broker: its caches are full, and so reused, within the second of warm-up.
const MEMORY_BYTES: u64 = 256 << 20;

/// Which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// 1 KiB produce, 64 connections with one request in flight each, acks=1; against the bare
    /// mixed loop.
    #[value(name = "produce-1k")]
    Produce1k,
    /// flush.messages=1, one partition, 64 KiB batches, 4 requests in flight; against a bare
    /// RWF_DSYNC loop.
    #[value(name = "flush-64k")]
    Flush64k,
}

/// How to run a row.
#[derive(Debug, Args)]
pub struct RowArgs {
    /// Which row.
    pub row: Row,
    /// Runs of each side.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Seconds of one run.
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
    #[command(flatten)]
    pub place: Place,
}

/// What is measured, and where.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The broker.
    #[arg(long, default_value = "target/release/corelogd")]
    pub corelogd: PathBuf,
    /// Directory for data; on the disk to be measured.
    #[arg(long, default_value = "target/bench")]
    pub dir: PathBuf,
    /// CPU of the broker's shard, or of the limit.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
}

/// A process that is killed when it is no longer needed.
pub(crate) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    line: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Server> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let out = BufReader::new(child.stdout.take().context("stdout was piped")?);
        Ok(Server {
            child,
            out,
            line: String::new(),
        })
    }

    /// The word after `key` on the first line that has it.
    pub(crate) fn wait_word(&mut self, key: &str) -> anyhow::Result<String> {
        loop {
            self.line.clear();
            if self.out.read_line(&mut self.line)? == 0 {
                bail!("the server ended without saying {key}");
            }
            if self.line.contains(key) {
                return self.last_word(key);
            }
        }
    }

    /// The word after `key` on the line that [`Server::wait_word`] stopped at.
    pub(crate) fn last_word(&self, key: &str) -> anyhow::Result<String> {
        let at = self
            .line
            .find(key)
            .with_context(|| format!("the server did not say {key}"))?;
        let rest = &self.line[at + key.len()..];
        Ok(rest.split_whitespace().next().unwrap_or("").to_owned())
    }

    /// CPU seconds used so far.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = blocking::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let ticks: u64 = fields.get(11).context("utime")?.parse::<u64>()?
            + fields.get(12).context("stime")?.parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }
}

/// Runs a row and prints it.
pub fn run(args: &RowArgs) -> anyhow::Result<()> {
    blocking::create_dir_all(&args.place.dir)?;
    println!("runs={} seconds={}", args.runs, args.seconds);
    with_cubic(|| measure(args))
}

/// Runs with the congestion control that does not pace loopback, and puts the old one back.
pub(crate) fn with_cubic(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before = blocking::read_to_string(CONGESTION_CONTROL)?;
    // Without the right to change it the figure is still printed.
    let _ = blocking::write_file(CONGESTION_CONTROL, "cubic");
    let now = blocking::read_to_string(CONGESTION_CONTROL)?;
    println!("congestion_control={}", now.trim());
    let outcome = run();
    let _ = blocking::write_file(CONGESTION_CONTROL, before.trim());
    outcome
}

/// Starts a broker on an empty directory, its one shard on `cpu`.
pub(crate) fn start_broker(
    corelogd: &Path,
    data: &Path,
    cpu: usize,
    http: &str,
) -> anyhow::Result<Server> {
    let mut command = Command::new(corelogd);
    for setting in [
        format!("log.dirs={}", data.display()),
        "listeners=PLAINTEXT://127.0.0.1:0".to_owned(),
        format!("corelog.http.listener={http}"),
        format!("corelog.cores={cpu}"),
        format!("corelog.memory.bytes={MEMORY_BYTES}"),
    ] {
        command.arg("--override").arg(setting);
    }
    Server::start(command.env("CORELOG_LOG", "error"))
}

fn measure(args: &RowArgs) -> anyhow::Result<()> {
    let mut broker = Vec::new();
    let mut limit = Vec::new();
    for run in 1..=args.runs {
        let (of_broker, cpu) = broker_run(args)?;
        let of_limit = limit_run(args)?;
        println!(
            "run={run} broker={of_broker:.1} broker_cpu_percent={cpu:.0} limit={of_limit:.1} ratio={:.3}",
            of_broker / of_limit
        );
        broker.push(of_broker);
        limit.push(of_limit);
    }
    let unit = match args.row {
        Row::Produce1k => "requests/s",
        Row::Flush64k => "MB/s",
    };
    let (of_broker, of_limit) = (median(&mut broker), median(&mut limit));
    println!(
        "median broker={of_broker:.1} limit={of_limit:.1} {unit} ratio={:.3}",
        of_broker / of_limit
    );
    Ok(())
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn load(args: &RowArgs, server: SocketAddr) -> ProduceArgs {
    let base = ProduceArgs {
        bootstrap_server: server,
        topic: "bench".to_owned(),
        partitions: 1,
        configs: Vec::new(),
        connections: 64,
        record_bytes: 1024,
        records: 1,
        acks: 1,
        seconds: args.seconds,
        cpu: Some(args.place.load_cpu),
        raw: false,
    };
    match args.row {
        Row::Produce1k => ProduceArgs {
            partitions: 8,
            ..base
        },
        Row::Flush64k => ProduceArgs {
            configs: vec!["flush.messages=1".to_owned()],
            connections: 4,
            record_bytes: 1000,
            records: 64,
            ..base
        },
    }
}

fn broker_run(args: &RowArgs) -> anyhow::Result<(f64, f64)> {
    let data = args.place.dir.join("broker-data");
    let _ = blocking::remove_dir_all(&data);
    let mut server = start_broker(&args.place.corelogd, &data, args.place.server_cpu, "")?;
    let address: SocketAddr = server.wait_word("kafka=")?.parse()?;
    let load = load(args, address);
    let began = blocking::now();
    let before = server.cpu_seconds()?;
    let measured = on_own_thread(load)?;
    let cpu = (server.cpu_seconds()? - before) / began.elapsed().as_secs_f64() * 100.0;
    drop(server);
    let _ = blocking::remove_dir_all(&data);
    Ok((figure(args.row, &measured), cpu))
}

/// The load pins its thread; servers started later must not inherit that.
fn on_own_thread(load: ProduceArgs) -> anyhow::Result<Measured> {
    let thread = blocking::spawn("load", move || crate::load::produce(&load))?;
    thread.join().map_err(|_| anyhow!("the load panicked"))?
}

fn figure(row: Row, measured: &Measured) -> f64 {
    match row {
        Row::Produce1k => measured.requests_per_s,
        Row::Flush64k => measured.mb_per_s,
    }
}

fn limit_run(args: &RowArgs) -> anyhow::Result<f64> {
    let file: PathBuf = Path::new(&args.place.dir).join("limit-file");
    match args.row {
        Row::Produce1k => {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args([
                    "limits",
                    "mixed",
                    "--cpu",
                    &args.place.server_cpu.to_string(),
                    "--file",
                ])
                .arg(&file);
            let mut server = Server::start(&mut command)?;
            let address: SocketAddr = server.wait_word("listening ")?.parse()?;
            let load = ProduceArgs {
                raw: true,
                ..load(args, address)
            };
            Ok(on_own_thread(load)?.requests_per_s)
        }
        Row::Flush64k => {
            let mut command = Command::new(std::env::current_exe()?);
            let seconds = args.seconds.to_string();
            command.args([
                "limits",
                "dsync",
                "--cpu",
                &args.place.server_cpu.to_string(),
                "--seconds",
                &seconds,
                "--file",
            ]);
            let mut server = Server::start(command.arg(&file))?;
            Ok(server.wait_word("mb_per_s=")?.parse()?)
        }
    }
}
