//! `corelog produce`.

use crate::cluster::{Cluster, TopicLeaders, pair};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use corelog_net::api::ApiKey;
use corelog_net::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use corelog_net::wire::WireStr;
use corelog_record::{BatchBuilder, Codec, Header};
use corelog_runtime::blocking;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::pin::Pin;

/// Uncompressed bytes after which a batch is sent.
const BATCH_BYTES: usize = 256 << 10;
const LINES_PER_READ: usize = 10_000;
const IN_FLIGHT_MAX: usize = 8;
/// The last version that names topics.
const NAMED_VERSION_MAX: i16 = 12;
const TIMEOUT_MS: i32 = 30_000;

/// Where the records come from and how they are sent.
#[derive(Args)]
pub struct Options {
    /// The topic; it must exist.
    topic: String,
    /// Reads this file instead of standard input.
    #[arg(long)]
    file: Option<PathBuf>,
    /// What stands between key and value; without it a line is a value without a key.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// All records go to this partition. Else the key decides, as for Kafka's clients; without a key, turn by turn.
    #[arg(long)]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, default_value = "none", value_parser = codec)]
    compression: Codec,
    /// Which acknowledgement to wait for: 0, 1 or all.
    #[arg(long, default_value = "all", value_parser = acks)]
    acks: i16,
    /// A header of every record; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
}

fn codec(name: &str) -> Result<Codec, String> {
    Codec::from_name(name)
        .ok_or_else(|| format!("`{name}` is none of none, gzip, snappy, lz4, zstd"))
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        "all" | "-1" => Ok(-1),
        other => Err(format!("`{other}` is none of 0, 1, all")),
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<ProduceResponse>>>>;

/// Batches that grow, and requests on their way.
struct Sender<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    leaders: TopicLeaders,
    batches: BTreeMap<i32, BatchBuilder>,
    in_flight: VecDeque<(i32, i32, Answer)>,
    turn: usize,
    acknowledged: u64,
}

/// Sends everything and reports how many records were acknowledged.
pub async fn run(cluster: &Cluster, options: Options) -> Result<()> {
    let leaders = cluster.leaders(&options.topic).await?;
    if let Some(partition) = options.partition {
        leaders.of(partition)?;
    }
    let turn = cluster.rt.random_u64() as usize % leaders.leaders.len().max(1);
    let mut sender = Sender {
        cluster,
        options: &options,
        leaders,
        batches: BTreeMap::new(),
        in_flight: VecDeque::new(),
        turn,
        acknowledged: 0,
    };
    let sent = sender.send_all().await;
    eprintln!(
        "{} records {}",
        sender.acknowledged,
        if options.acks == 0 {
            "sent"
        } else {
            "acknowledged"
        }
    );
    sent
}

impl Sender<'_> {
    async fn send_all(&mut self) -> Result<()> {
        let input: Box<dyn Read + Send> = match &self.options.file {
            Some(path) => {
                Box::new(blocking::open_file(path).with_context(|| path.display().to_string())?)
            }
            None => Box::new(io::stdin()),
        };
        let mut reader = BufReader::with_capacity(BATCH_BYTES, input);
        loop {
            // On a helper thread: answers are taken while a person types.
            let (lines, back) = self
                .cluster
                .rt
                .blocking(move || {
                    let lines = read_lines(&mut reader);
                    (lines, reader)
                })
                .await;
            reader = back;
            let lines = lines.context("cannot read the input")?;
            if lines.is_empty() {
                break;
            }
            for line in &lines {
                self.add(line).await?;
            }
            let ready: Vec<i32> = self.batches.keys().copied().collect();
            for partition in ready {
                self.send(partition).await?;
            }
        }
        while !self.in_flight.is_empty() {
            self.take_answer().await?;
        }
        Ok(())
    }

    async fn add(&mut self, line: &[u8]) -> Result<()> {
        let (key, value) = match &self.options.key_separator {
            Some(separator) => {
                let (key, value) = split(line, separator.as_bytes()).with_context(|| {
                    format!(
                        "no `{separator}` in line `{}`",
                        String::from_utf8_lossy(line)
                    )
                })?;
                (Some(key), value)
            }
            None => (None, line),
        };
        let partitions = self.leaders.leaders.len();
        let partition = match (self.options.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, partitions),
            (None, None) => self.turn as i32,
        };
        let now = self.cluster.rt.wall_clock_ms();
        let headers: Vec<Header<'_>> = self
            .options
            .header
            .iter()
            .map(|(key, value)| Header::new(key, value.as_bytes()))
            .collect();
        let batch = self
            .batches
            .entry(partition)
            .or_insert_with(|| BatchBuilder::new(self.options.compression, now));
        batch.append(now, key, Some(value), &headers);
        if batch.size_bytes() >= BATCH_BYTES {
            self.send(partition).await?;
        }
        Ok(())
    }

    async fn send(&mut self, partition: i32) -> Result<()> {
        let Some(batch) = self.batches.remove(&partition) else {
            return Ok(());
        };
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.take_answer().await?;
        }
        let client = self.cluster.broker(self.leaders.of(partition)?).await?;
        let version = client.version(ApiKey::Produce)?.min(NAMED_VERSION_MAX);
        let records = ProducePartition {
            index: partition,
            records: Some(Bytes::from(batch.build())),
        };
        let topic = ProduceTopic {
            name: WireStr::from(self.options.topic.as_str()),
            partitions: vec![records],
            ..ProduceTopic::default()
        };
        let request = ProduceRequest {
            transactional_id: None,
            acks: self.options.acks,
            timeout_ms: TIMEOUT_MS,
            topics: vec![topic],
        };
        let answer = client.produce(version, &request)?;
        let answer: Answer = Box::pin(async move { Ok(answer.await?) });
        self.in_flight
            .push_back((partition, batch.records_count(), answer));
        self.turn = (self.turn + 1) % self.leaders.leaders.len().max(1);
        Ok(())
    }

    async fn take_answer(&mut self) -> Result<()> {
        let Some((partition, records, answer)) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let response = answer
            .await
            .with_context(|| format!("{}-{partition}", self.options.topic))?;
        if self.options.acks != 0 {
            let answer = response
                .topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .find(|p| p.index == partition);
            let answer = answer.context("the broker left the partition out of its answer")?;
            let error = answer.error_code;
            if !error.is_none() {
                let message = answer
                    .error_message
                    .as_ref()
                    .map_or(error.message(), |message| message.as_str());
                bail!(
                    "{}-{partition}: {}: {message}",
                    self.options.topic,
                    error.name()
                );
            }
            ensure!(
                answer.base_offset >= 0,
                "{}-{partition}: acknowledged without an offset",
                self.options.topic
            );
        }
        self.acknowledged += u64::try_from(records).unwrap_or(0);
        Ok(())
    }
}

/// Waits for one line, then takes what is there already. Empty at the end.
fn read_lines(reader: &mut BufReader<Box<dyn Read + Send>>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    while lines.is_empty() || (lines.len() < LINES_PER_READ && reader.buffer().contains(&b'\n')) {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        lines.push(line);
    }
    Ok(lines)
}

fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line
        .windows(separator.len().max(1))
        .position(|window| window == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

/// The partition Kafka's own producer gives a key.
fn partition_of(key: &[u8], partitions: usize) -> i32 {
    let positive = murmur2(key) & 0x7fff_ffff;
    (positive as usize % partitions.max(1)) as i32
}

/// Kafka's hash of keys (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafkas_own_producer_sends_them() {
        // From UtilsTest.testMurmur2 of Apache Kafka.
        let known: &[(&[u8], i32)] = &[
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(
                murmur2(key).cast_signed(),
                *hash,
                "{}",
                String::from_utf8_lossy(key)
            );
        }
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split(b"k::v::w", b"::"), Some((&b"k"[..], &b"v::w"[..])));
        assert_eq!(split(b":v", b":"), Some((&b""[..], &b"v"[..])));
        assert_eq!(split(b"no separator", b":"), None);
    }

    #[test]
    fn lines_are_taken_as_they_are_and_the_last_needs_no_newline() {
        let bytes: Box<dyn Read + Send> = Box::new(&b"one\r\n\ntwo"[..]);
        let mut reader = BufReader::new(bytes);
        assert_eq!(
            read_lines(&mut reader).unwrap(),
            [b"one\r".to_vec(), Vec::new()]
        );
        assert_eq!(read_lines(&mut reader).unwrap(), [b"two".to_vec()]);
        assert!(read_lines(&mut reader).unwrap().is_empty());
    }
}
