//! What a cold consumer does to a producer: a producer at a fixed rate, alone and beside a consumer
//! that reads a large, uncached topic from its start, interleaved, medians of percentiles and ratio.
//!
//! Open loop: a request is due on a schedule, whether the earlier ones are answered or not, and its
//! latency counts from when it was due (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::Args;
use corelog_net::client::{Client, ClientConfig};
use corelog_net::fetch::{FetchPartition, FetchRequest, FetchTopic};
use corelog_net::wire::WireStr;
use corelog_record::batch::BatchHeader;
use corelog_runtime::driver::{Advice, OpenOptions, SocketHandle};
use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Instant, Rt, ShardId, blocking, cpus};
use hdrhistogram::Histogram;

use crate::load::{self, ProduceArgs};
use crate::rows::{Place, median, start_broker, with_cubic};

/// Version of the Fetch requests: topics by name.
const FETCH_VERSION: i16 = 12;
/// Bytes one fetch may bring.
const FETCH_BYTES: i32 = 4 << 20;
const COLD_TOPIC: &str = "cold";
const LIVE_TOPIC: &str = "live";
/// Requests of the filling load in flight, and records in each.
const FILL_CONNECTIONS: usize = 4;
const FILL_RECORDS: usize = 512;
/// The rate stands this long before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);
const LATENCY_US_MAX: u64 = 60_000_000;
/// Bytes of an HTTP answer with metrics.
const METRICS_BYTES_MAX: usize = 4 << 20;

/// How to run it.
#[derive(Debug, Clone, Args)]
pub struct BesideArgs {
    /// Pairs of runs: the producer alone, the producer beside the consumer.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Bytes the consumer reads, in GB (10^9).
    #[arg(long, default_value_t = 8.0)]
    pub cold_gb: f64,
    /// Bytes of records per second of the producer, in MB (10^6).
    #[arg(long, default_value_t = 50.0)]
    pub rate_mb: f64,
    /// Connections of the producer, one request in flight on each, each to a partition of its own.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Records of 1 KiB in one request of the producer.
    #[arg(long, default_value_t = 16)]
    pub records: usize,
    /// Seconds of a run of the producer alone; beside the consumer it runs as long as that reads.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    #[command(flatten)]
    pub place: Place,
}

/// One run of the producer.
#[derive(Debug)]
struct Run {
    latency_us: Histogram<u64>,
    /// Seconds in which the latencies were taken.
    seconds: f64,
    /// Bytes the consumer read meanwhile.
    read_bytes: u64,
    /// By how much the broker's count of turns over 5 ms grew.
    stalls: f64,
}

impl Run {
    fn p999_ms(&self) -> f64 {
        self.latency_us.value_at_quantile(0.999) as f64 / 1e3
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        write!(
            f,
            "requests={} seconds={:.1} p50_ms={:.2} p99_ms={:.2} p999_ms={:.2} max_ms={:.1} read_mb_per_s={:.0} stalls={}",
            self.latency_us.len(),
            self.seconds,
            ms(0.5),
            ms(0.99),
            self.p999_ms(),
            self.latency_us.max() as f64 / 1e3,
            self.read_bytes as f64 / 1e6 / self.seconds,
            self.stalls
        )
    }
}

/// Runs and prints.
pub fn run(args: &BesideArgs) -> anyhow::Result<()> {
    println!(
        "expected_seconds={:.0} runs={} cold_gb={} rate_mb={}",
        // The disk is taken for one of 400 MB/s.
        args.cold_gb * 1e3 / 400.0 * (args.runs as f64 + 1.0)
            + (args.runs as u64 * (args.seconds + 2)) as f64,
        args.runs,
        args.cold_gb,
        args.rate_mb
    );
    with_cubic(|| {
        let data = args.place.dir.join("beside-data");
        let _ = blocking::remove_dir_all(&data);
        let mut server = start_broker(
            &args.place.corelogd,
            &data,
            args.place.server_cpu,
            "127.0.0.1:0",
        )?;
        let kafka: SocketAddr = server.wait_word("kafka=")?.parse()?;
        let http: SocketAddr = server.last_word("http=")?.parse()?;
        let (own, dir) = (args.clone(), data.clone());
        let thread = blocking::spawn("load", move || pairs(&own, kafka, http, &dir))?;
        let outcome = thread.join().map_err(|_| anyhow!("the load panicked"));
        drop(server);
        let _ = blocking::remove_dir_all(&data);
        outcome?
    })
}

fn pairs(
    args: &BesideArgs,
    kafka: SocketAddr,
    http: SocketAddr,
    data: &Path,
) -> anyhow::Result<()> {
    cpus::pin(args.place.load_cpu);
    let driver = UringDriver::new(1024).context("io_uring")?;
    let rt = Rt::new(ShardId(0), Box::new(driver), BufferPool::new(64 << 20));
    rt.block_on(async {
        let bench = Bench {
            rt: rt.clone(),
            args: args.clone(),
            kafka,
            http,
            cold_dir: data.join(format!("{COLD_TOPIC}-0")),
        };
        bench.fill().await?;
        bench.pairs().await
    })
}

struct Bench {
    rt: Rt,
    args: BesideArgs,
    kafka: SocketAddr,
    http: SocketAddr,
    cold_dir: PathBuf,
}

impl Bench {
    fn produce_args(&self, topic: &str, partitions: usize, records: usize) -> ProduceArgs {
        ProduceArgs {
            bootstrap_server: self.kafka,
            topic: topic.to_owned(),
            partitions: partitions as i32,
            configs: vec!["segment.bytes=268435456".to_owned()],
            connections: partitions,
            record_bytes: 1024,
            records,
            acks: 1,
            seconds: self.args.seconds,
            cpu: None,
            raw: false,
        }
    }

    /// Writes what the consumer will read.
    async fn fill(&self) -> anyhow::Result<()> {
        let args = self.produce_args(COLD_TOPIC, 1, FILL_RECORDS);
        load::make_topic(&self.rt, &args).await?;
        let frame = load::frame(&args, 0, load::batch(&args))?;
        let left = Rc::new(Cell::new((self.args.cold_gb * 1e9) as i64));
        let mut tasks = Vec::new();
        for _ in 0..FILL_CONNECTIONS {
            let (rt, left, frame) = (self.rt.clone(), Rc::clone(&left), frame.clone());
            let kafka = self.kafka;
            tasks.push(self.rt.spawn("fill", async move {
                let mut connection = load::Connection::open(&rt, kafka).await?;
                while left.get() > 0 {
                    left.set(left.get() - (FILL_RECORDS * 1024) as i64);
                    connection.exchange(&frame, true).await?;
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await.context("a filling task was dropped")??;
        }
        let args = self.produce_args(LIVE_TOPIC, self.args.connections, self.args.records);
        load::make_topic(&self.rt, &args).await
    }

    async fn pairs(&self) -> anyhow::Result<()> {
        let (mut alone, mut beside, mut stalls) = (Vec::new(), Vec::new(), 0.0);
        for pair in 1..=self.args.runs {
            // Whoever comes first meets another disk; so they take turns.
            for cold in [pair % 2 == 0, pair % 2 != 0] {
                let run = self.one(cold).await?;
                println!("pair={pair} cold_consumer={cold} {run}");
                stalls += run.stalls;
                let of = if cold { &mut beside } else { &mut alone };
                of.push(run.p999_ms());
            }
        }
        let (alone, beside) = (median(&mut alone), median(&mut beside));
        println!(
            "median p999_ms alone={alone:.2} beside={beside:.2} ratio={:.2} stalls={stalls}",
            beside / alone
        );
        Ok(())
    }

    async fn one(&self, cold: bool) -> anyhow::Result<Run> {
        if cold {
            self.drop_from_page_cache().await?;
        }
        let shared = Rc::new(Shared {
            measuring: Cell::new(false),
            stop: Cell::new(false),
            latency_us: RefCell::new(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?),
        });
        let producers = self.start_producers(&shared)?;
        self.rt.sleep(WARM_UP).await;
        let before = self.stalls().await?;
        shared.measuring.set(true);
        let began = self.rt.now();
        let read_bytes = if cold {
            self.consume().await?
        } else {
            let wait = Duration::from_secs(self.args.seconds);
            self.rt.sleep(wait).await;
            0
        };
        let seconds = self.rt.now().saturating_duration_since(began).as_secs_f64();
        shared.measuring.set(false);
        let stalls = self.stalls().await? - before;
        shared.stop.set(true);
        for producer in producers {
            producer.await.context("a producer was dropped")??;
        }
        Ok(Run {
            latency_us: shared.latency_us.borrow().clone(),
            seconds,
            read_bytes,
            stalls,
        })
    }

    fn start_producers(
        &self,
        shared: &Rc<Shared>,
    ) -> anyhow::Result<Vec<corelog_runtime::Task<anyhow::Result<()>>>> {
        let args = self.produce_args(LIVE_TOPIC, self.args.connections, self.args.records);
        let batch = load::batch(&args);
        let request_bytes = (args.records * args.record_bytes) as f64;
        let interval = Duration::from_secs_f64(request_bytes / (self.args.rate_mb * 1e6));
        let begin = self.rt.now();
        let mut tasks = Vec::new();
        for number in 0..self.args.connections {
            let frame = load::frame(&args, number as i32, batch.clone())?;
            let schedule = Schedule {
                begin: begin + interval * number as u32,
                step: interval * self.args.connections as u32,
            };
            let (rt, shared, kafka) = (self.rt.clone(), Rc::clone(shared), self.kafka);
            tasks.push(self.rt.spawn("produce", async move {
                produce(&rt, kafka, &frame, schedule, &shared).await
            }));
        }
        Ok(tasks)
    }

    /// Reads the cold topic from its start to its end.
    async fn consume(&self) -> anyhow::Result<u64> {
        let client = Client::connect(&self.rt, self.kafka, ClientConfig::default()).await?;
        let (mut offset, mut bytes) = (0, 0);
        let end = client.list_offset(COLD_TOPIC, 0, -1, 0).await?.offset;
        while offset < end {
            let partition = FetchPartition {
                index: 0,
                fetch_offset: offset,
                max_bytes: FETCH_BYTES,
                ..FetchPartition::default()
            };
            let request = FetchRequest {
                max_wait_ms: 500,
                min_bytes: 1,
                max_bytes: FETCH_BYTES,
                topics: vec![FetchTopic {
                    name: WireStr::from(COLD_TOPIC),
                    partitions: vec![partition],
                    ..FetchTopic::default()
                }],
                ..FetchRequest::default()
            };
            let response = client.fetch(FETCH_VERSION, &request)?.await?;
            for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
                let code = answer.error_code.code();
                ensure!(code == 0, "fetch at offset {offset}: error {code}");
                let records = answer.record_bytes();
                bytes += records.len() as u64;
                offset = next_offset(&records, offset)?;
            }
        }
        Ok(bytes)
    }

    async fn drop_from_page_cache(&self) -> anyhow::Result<()> {
        for entry in self.rt.read_dir(&self.cold_dir).await? {
            if !entry.name.ends_with(".log") {
                continue;
            }
            let options = OpenOptions {
                read: true,
                ..OpenOptions::default()
            };
            let file = self
                .rt
                .open(self.cold_dir.join(&entry.name), options)
                .await?;
            file.fdatasync().await?;
            file.fadvise(Advice::DontNeed, 0, 0).await?;
        }
        Ok(())
    }

    /// Turns over 5 ms, of all shards.
    async fn stalls(&self) -> anyhow::Result<f64> {
        let text = http_get(&self.rt, self.http, "/metrics").await?;
        let rows = text
            .lines()
            .filter(|line| line.starts_with("corelog_shard_stalls_total"));
        let values: Vec<f64> = rows
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(
            !values.is_empty(),
            "the broker has no corelog_shard_stalls_total"
        );
        Ok(values.iter().sum())
    }
}

struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    latency_us: RefCell<Histogram<u64>>,
}

/// When the requests of one connection are due.
#[derive(Clone, Copy)]
struct Schedule {
    begin: Instant,
    step: Duration,
}

async fn produce(
    rt: &Rt,
    kafka: SocketAddr,
    frame: &Bytes,
    schedule: Schedule,
    shared: &Shared,
) -> anyhow::Result<()> {
    let mut connection = load::Connection::open(rt, kafka).await?;
    let mut due = schedule.begin;
    while !shared.stop.get() {
        if due > rt.now() {
            rt.sleep_until(due).await;
        }
        connection.exchange(frame, true).await?;
        if shared.measuring.get() {
            let took = rt.now().saturating_duration_since(due).as_micros() as u64;
            shared.latency_us.borrow_mut().saturating_record(took);
        }
        due = due + schedule.step;
    }
    Ok(())
}

/// The offset after the last batch that is whole.
fn next_offset(records: &[u8], from: i64) -> anyhow::Result<i64> {
    let (mut at, mut next) = (0, from);
    while let Ok(header) = BatchHeader::parse(&records[at..]) {
        let size = header.size_bytes();
        if records.len() - at < size {
            break;
        }
        next = header.next_offset();
        at += size;
    }
    if next <= from {
        bail!("a fetch at offset {from} brought nothing");
    }
    Ok(next)
}

async fn http_get(rt: &Rt, server: SocketAddr, path: &str) -> anyhow::Result<String> {
    let socket: SocketHandle = rt.connect(server).await.context("connect")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    rt.send(&socket, vec![Bytes::from(request)], false).await?;
    let mut buf = rt.pool().get(METRICS_BYTES_MAX);
    let mut filled = 0;
    loop {
        ensure!(
            filled < METRICS_BYTES_MAX,
            "an answer over {METRICS_BYTES_MAX} bytes"
        );
        let room = METRICS_BYTES_MAX - filled;
        let (result, back) = rt.recv(&socket, buf, filled, room, false).await;
        buf = back;
        match result? {
            0 => break,
            received => filled += received,
        }
    }
    Ok(String::from_utf8_lossy(&buf.as_mut_slice()[..filled]).into_owned())
}
