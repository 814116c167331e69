//! The load: pre-encoded Produce requests, their CRC computed once, over many connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use corelog_net::api::ApiKey;
use corelog_net::client::{Client, ClientConfig};
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use corelog_net::frame::begin_request;
use corelog_net::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use corelog_net::response::{close_frame, split_response};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_runtime::buf::AlignedBuf;
use corelog_runtime::driver::SocketHandle;
use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Rt, ShardId, cpus};
use hdrhistogram::Histogram;

/// Version of the Produce requests: topics by name.
const PRODUCE_VERSION: i16 = 9;
/// Bytes of the largest answer to one of our requests.
const ANSWER_BYTES_MAX: usize = 4096;
const LATENCY_US_MAX: u64 = 60_000_000;

/// What to send.
#[derive(Debug, Clone, Args)]
pub struct ProduceArgs {
    /// Broker, or `limits mixed`.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap_server: SocketAddr,
    /// Topic; made when missing.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of the topic; connection i writes to partition i modulo this.
    #[arg(long, default_value_t = 1)]
    pub partitions: i32,
    /// Configs of the topic when it is made, `key=value`.
    #[arg(long = "config")]
    pub configs: Vec<String>,
    /// Connections, one request in flight on each.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Bytes of the value of each record.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Records in a batch.
    #[arg(long, default_value_t = 1)]
    pub records: usize,
    /// 0, 1 or -1.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    pub acks: i16,
    /// Seconds measured, after one second of warm-up.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// CPU to pin to.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// The server is `limits mixed`: no topic is made, answers are not read as Kafka's.
    #[arg(long)]
    pub raw: bool,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Requests per second.
    pub requests_per_s: f64,
    /// Record bytes per second, in MB (10^6).
    pub mb_per_s: f64,
    /// Median latency, µs.
    pub p50_us: u64,
    /// 99th percentile, µs.
    pub p99_us: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requests_per_s={:.0} mb_per_s={:.1} p50_us={} p99_us={}",
            self.requests_per_s, self.mb_per_s, self.p50_us, self.p99_us
        )
    }
}

struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    requests: Cell<u64>,
    latency_us: RefCell<Histogram<u64>>,
    error: RefCell<Option<anyhow::Error>>,
}

/// Runs the load on this thread.
pub fn produce(args: &ProduceArgs) -> anyhow::Result<Measured> {
    if let Some(cpu) = args.cpu {
        cpus::pin(cpu);
    }
    let driver = UringDriver::new(1024).context("io_uring")?;
    let rt = Rt::new(ShardId(0), Box::new(driver), BufferPool::new(64 << 20));
    rt.block_on(run(rt.clone(), args.clone()))
}

async fn run(rt: Rt, args: ProduceArgs) -> anyhow::Result<Measured> {
    if !args.raw {
        make_topic(&rt, &args).await?;
    }
    let shared = Rc::new(Shared {
        measuring: Cell::new(false),
        stop: Cell::new(false),
        requests: Cell::new(0),
        latency_us: RefCell::new(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?),
        error: RefCell::new(None),
    });
    let batch = batch(&args);
    let mut tasks = Vec::new();
    for number in 0..args.connections {
        let frame = frame(&args, number as i32 % args.partitions.max(1), batch.clone())?;
        let (rt2, shared2, args2) = (rt.clone(), Rc::clone(&shared), args.clone());
        tasks.push(rt.spawn("load", async move {
            if let Err(error) = connection(&rt2, &args2, &shared2, frame).await {
                shared2.error.borrow_mut().get_or_insert(error);
            }
        }));
    }
    rt.sleep(Duration::from_secs(1)).await;
    shared.measuring.set(true);
    let began = rt.now();
    rt.sleep(Duration::from_secs(args.seconds)).await;
    let took = rt.now().saturating_duration_since(began).as_secs_f64();
    let requests = shared.requests.get();
    shared.stop.set(true);
    for task in tasks {
        task.await;
    }
    if let Some(error) = shared.error.borrow_mut().take() {
        return Err(error);
    }
    let latency = shared.latency_us.borrow();
    Ok(Measured {
        requests_per_s: requests as f64 / took,
        mb_per_s: requests as f64 * (args.record_bytes * args.records) as f64 / took / 1e6,
        p50_us: latency.value_at_quantile(0.5),
        p99_us: latency.value_at_quantile(0.99),
    })
}

/// The batch that every request carries.
pub(crate) fn batch(args: &ProduceArgs) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None, 1_700_000_000_000);
    let value = vec![b'x'; args.record_bytes];
    for _ in 0..args.records {
        batch.append(1_700_000_000_000, None, Some(&value), &[]);
    }
    Bytes::from(batch.build())
}

/// Makes the topic unless it is there.
pub(crate) async fn make_topic(rt: &Rt, args: &ProduceArgs) -> anyhow::Result<()> {
    let client = Client::connect(rt, args.bootstrap_server, ClientConfig::default()).await?;
    let mut configs = Vec::new();
    for config in &args.configs {
        let (key, value) = config
            .split_once('=')
            .with_context(|| format!("--config {config}: KEY=VALUE is expected"))?;
        configs.push(
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value))),
        );
    }
    let topic = CreatableTopic::default()
        .with_name(text(&args.topic))
        .with_num_partitions(args.partitions)
        .with_replication_factor(1)
        .with_configs(configs);
    let request = CreateTopicsRequestData::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    let response = client.call(&request).await?;
    for topic in response.topics {
        // 36 = TOPIC_ALREADY_EXISTS
        if topic.error_code != 0 && topic.error_code != 36 {
            bail!("topic {}: error {}", args.topic, topic.error_code);
        }
    }
    Ok(())
}

fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// A Produce request, ready to be sent again and again.
pub(crate) fn frame(args: &ProduceArgs, partition: i32, batch: Bytes) -> anyhow::Result<Bytes> {
    let request = ProduceRequest {
        transactional_id: None,
        acks: args.acks,
        timeout_ms: 30_000,
        topics: vec![ProduceTopic {
            name: args.topic.as_str().into(),
            partitions: vec![ProducePartition {
                index: partition,
                records: Some(batch),
            }],
            ..ProduceTopic::default()
        }],
    };
    let mut buf = BytesMut::new();
    begin_request(
        &mut buf,
        ApiKey::Produce,
        PRODUCE_VERSION,
        1,
        Some("corelog-bench"),
    );
    request.encode(PRODUCE_VERSION, &mut buf)?;
    close_frame(&mut buf, 0)?;
    Ok(buf.freeze())
}

async fn connection(
    rt: &Rt,
    args: &ProduceArgs,
    shared: &Shared,
    frame: Bytes,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(rt, args.bootstrap_server).await?;
    while !shared.stop.get() {
        let began = rt.now();
        connection.exchange(&frame, !args.raw).await?;
        if shared.measuring.get() && !shared.stop.get() {
            shared.requests.set(shared.requests.get() + 1);
            let took = rt.now().saturating_duration_since(began).as_micros() as u64;
            shared.latency_us.borrow_mut().saturating_record(took);
        }
    }
    Ok(())
}

/// A connection with one request in flight, whose answers are small.
pub(crate) struct Connection {
    rt: Rt,
    socket: SocketHandle,
    buf: Option<AlignedBuf>,
}

impl Connection {
    pub(crate) async fn open(rt: &Rt, server: SocketAddr) -> anyhow::Result<Connection> {
        Ok(Connection {
            rt: rt.clone(),
            socket: rt.connect(server).await.context("connect")?,
            buf: Some(rt.pool().get(ANSWER_BYTES_MAX)),
        })
    }

    /// Sends a Produce request and waits for its answer; an error in it is an error.
    pub(crate) async fn exchange(&mut self, frame: &Bytes, check: bool) -> anyhow::Result<()> {
        self.rt
            .send(&self.socket, vec![frame.clone()], false)
            .await
            .context("send")?;
        let mut buf = self.buf.take().context("an exchange failed before")?;
        let mut filled = 0;
        let size = loop {
            let room = ANSWER_BYTES_MAX - filled;
            let (result, back) = self.rt.recv(&self.socket, buf, filled, room, false).await;
            buf = back;
            match result.context("receive")? {
                0 => bail!("the server closed the connection"),
                received => filled += received,
            }
            let bytes = buf.as_mut_slice();
            if filled < 4 {
                continue;
            }
            let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            if size > ANSWER_BYTES_MAX - 4 {
                bail!("an answer of {size} bytes");
            }
            if filled >= 4 + size {
                break size;
            }
        };
        if check {
            check_answer(&Bytes::copy_from_slice(&buf.as_mut_slice()[4..4 + size]))?;
        }
        self.buf = Some(buf);
        Ok(())
    }
}

fn check_answer(answer: &Bytes) -> anyhow::Result<()> {
    let (_, body) = split_response(ApiKey::Produce, PRODUCE_VERSION, answer)?;
    let response = ProduceResponse::decode(PRODUCE_VERSION, &body)?;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        if partition.error_code.code() != 0 {
            bail!("produce: {:?}", partition.error_code);
        }
    }
    Ok(())
}
