//! `corelog consume`.

use crate::cluster::{Cluster, TopicLeaders, check};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use corelog_net::api::ApiKey;
use corelog_net::fetch::{FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic};
use corelog_net::wire::WireStr;
use corelog_record::{BatchIter, BatchView, Record, TimestampType};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

/// The last version that names topics.
const NAMED_VERSION_MAX: i16 = 12;
const MAX_WAIT_MS: i32 = 500;
const RESPONSE_BYTES: i32 = 32 << 20;
const PARTITION_BYTES: i32 = 4 << 20;
/// A compressed batch may not unfold to more.
const BATCH_BYTES_MAX: usize = 256 << 20;
/// Timestamps that ListOffsets understands as places.
const END: i64 = -1;
const BEGINNING: i64 = -2;

/// What to read and how to print it.
#[derive(Args)]
pub struct Options {
    /// The topic.
    topic: String,
    /// Only this partition; all of them without it.
    #[arg(long)]
    partition: Option<i32>,
    /// Where to begin: earliest, latest or a number.
    #[arg(long, default_value = "latest", conflicts_with = "timestamp")]
    offset: Start,
    /// Begins at the first record with this timestamp (milliseconds) or a later one.
    #[arg(long, value_name = "MILLISECONDS")]
    timestamp: Option<i64>,
    /// Ends after so many records.
    #[arg(long)]
    count: Option<u64>,
    /// Ends where the partitions ended when it began.
    #[arg(long)]
    exit: bool,
    /// Prints the partition before the value.
    #[arg(long)]
    print_partition: bool,
    /// Prints the offset before the value.
    #[arg(long)]
    print_offset: bool,
    /// Prints the timestamp (milliseconds) before the value.
    #[arg(long)]
    print_timestamp: bool,
    /// Prints the headers before the value.
    #[arg(long)]
    print_headers: bool,
    /// Prints the key before the value.
    #[arg(long)]
    print_key: bool,
}

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    Earliest,
    Latest,
    At(i64),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Start, String> {
        match text {
            "earliest" | "beginning" => Ok(Start::Earliest),
            "latest" | "end" => Ok(Start::Latest),
            number => match number.parse() {
                Ok(offset) if offset >= 0 => Ok(Start::At(offset)),
                _ => Err(format!("`{text}` is none of earliest, latest or an offset")),
            },
        }
    }
}

struct Consumer<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    leaders: TopicLeaders,
    /// Next offset per partition that is still read.
    positions: BTreeMap<i32, i64>,
    /// Where to stop, with `--exit`.
    ends: BTreeMap<i32, i64>,
    printed: u64,
}

/// Reads until told to stop.
pub async fn run(cluster: &Cluster, options: Options) -> Result<()> {
    let leaders = cluster.leaders(&options.topic).await?;
    let partitions = match options.partition {
        Some(partition) => vec![partition],
        None => (0..leaders.leaders.len() as i32).collect(),
    };
    let mut consumer = Consumer {
        cluster,
        options: &options,
        leaders,
        positions: BTreeMap::new(),
        ends: BTreeMap::new(),
        printed: 0,
    };
    for partition in partitions {
        consumer.begin(partition).await?;
    }
    while !consumer.is_done() {
        consumer.round().await?;
    }
    Ok(())
}

impl Consumer<'_> {
    async fn begin(&mut self, partition: i32) -> Result<()> {
        let position = match (self.options.timestamp, self.options.offset) {
            (Some(timestamp), _) => match self.offset_at(partition, timestamp).await? {
                -1 => self.offset_at(partition, END).await?,
                offset => offset,
            },
            (None, Start::Earliest) => self.offset_at(partition, BEGINNING).await?,
            (None, Start::Latest) => self.offset_at(partition, END).await?,
            (None, Start::At(offset)) => offset,
        };
        self.positions.insert(partition, position);
        if self.options.exit {
            let end = self.offset_at(partition, END).await?;
            self.ends.insert(partition, end);
            self.leave_if_read(partition);
        }
        Ok(())
    }

    async fn offset_at(&self, partition: i32, timestamp: i64) -> Result<i64> {
        let leader = self.cluster.broker(self.leaders.of(partition)?).await?;
        let answer = leader
            .list_offset(&self.options.topic, partition, timestamp, 0)
            .await?;
        check(answer.error_code, None)
            .with_context(|| format!("{}-{partition}", self.options.topic))?;
        Ok(answer.offset)
    }

    fn is_done(&self) -> bool {
        self.positions.is_empty() || self.has_enough()
    }

    fn has_enough(&self) -> bool {
        self.options
            .count
            .is_some_and(|count| self.printed >= count)
    }

    fn leave_if_read(&mut self, partition: i32) {
        let (position, end) = (self.positions.get(&partition), self.ends.get(&partition));
        if position
            .zip(end)
            .is_some_and(|(position, end)| position >= end)
        {
            self.positions.remove(&partition);
        }
    }

    /// One fetch from every leader, and what it brought.
    async fn round(&mut self) -> Result<()> {
        let mut by_leader: BTreeMap<SocketAddr, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, position) in &self.positions {
            let wanted = FetchPartition {
                index: *partition,
                fetch_offset: *position,
                max_bytes: PARTITION_BYTES,
                ..FetchPartition::default()
            };
            by_leader
                .entry(self.leaders.of(*partition)?)
                .or_default()
                .push(wanted);
        }
        let mut answers = Vec::new();
        for (leader, partitions) in by_leader {
            let client = self.cluster.broker(leader).await?;
            let version = client.version(ApiKey::Fetch)?.min(NAMED_VERSION_MAX);
            let name = WireStr::from(self.options.topic.as_str());
            let request = FetchRequest {
                max_wait_ms: MAX_WAIT_MS,
                min_bytes: 1,
                max_bytes: RESPONSE_BYTES,
                topics: vec![FetchTopic {
                    name,
                    partitions,
                    ..FetchTopic::default()
                }],
                ..FetchRequest::default()
            };
            answers.push(client.fetch(version, &request)?);
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        for answer in answers {
            let response = answer.await?;
            check(response.error_code.code(), None)?;
            for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
                self.take(partition, &mut out)?;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn take(&mut self, answer: &FetchPartitionResponse<Bytes>, out: &mut impl Write) -> Result<()> {
        let partition = answer.index;
        check(answer.error_code.code(), None).with_context(|| {
            let position = self.positions.get(&partition).copied().unwrap_or(-1);
            format!("{}-{partition} at offset {position}", self.options.topic)
        })?;
        let bytes = answer.record_bytes();
        for batch in BatchIter::new(&bytes) {
            let (at, _, _) = batch
                .with_context(|| format!("{}-{partition}: broken batch", self.options.topic))?;
            self.print_batch(partition, &bytes[at..], out)?;
        }
        self.leave_if_read(partition);
        Ok(())
    }

    fn print_batch(&mut self, partition: i32, bytes: &[u8], out: &mut impl Write) -> Result<()> {
        let batch = BatchView::parse(bytes)?;
        batch.check_crc()?;
        let header = batch.header;
        let Some(position) = self.positions.get(&partition).copied() else {
            return Ok(());
        };
        if !header.is_control() {
            for record in &batch.decompressed_records(BATCH_BYTES_MAX)? {
                let record = record?;
                let offset = header.base_offset + i64::from(record.offset_delta);
                let read_all = self.ends.get(&partition).is_some_and(|end| offset >= *end);
                if offset < position || read_all {
                    continue;
                }
                if self.has_enough() {
                    return Ok(());
                }
                let timestamp = match header.timestamp_type() {
                    TimestampType::LogAppendTime => header.max_timestamp,
                    TimestampType::CreateTime => {
                        header.base_timestamp.wrapping_add(record.timestamp_delta)
                    }
                };
                print(self.options, partition, offset, timestamp, &record, out)?;
                self.printed += 1;
            }
        }
        if header.next_offset() <= position {
            // A batch that ends before the position is no progress and would be fetched for ever.
            bail!(
                "{}-{partition}: asked for offset {position}, got a batch up to {}",
                self.options.topic,
                header.last_offset()
            );
        }
        self.positions.insert(partition, header.next_offset());
        Ok(())
    }
}

/// What was asked for, then the value, with tabs between; null is `null`, as Kafka's own console consumer has it.
fn print(
    options: &Options,
    partition: i32,
    offset: i64,
    timestamp: i64,
    record: &Record<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    if options.print_partition {
        write!(out, "{partition}\t")?;
    }
    if options.print_offset {
        write!(out, "{offset}\t")?;
    }
    if options.print_timestamp {
        write!(out, "{timestamp}\t")?;
    }
    if options.print_headers {
        for (at, header) in record.headers().enumerate() {
            let comma: &[u8] = if at > 0 { b"," } else { b"" };
            out.write_all(comma)?;
            out.write_all(header.key)?;
            out.write_all(b":")?;
            out.write_all(header.value.unwrap_or(b"null"))?;
        }
        out.write_all(b"\t")?;
    }
    if options.print_key {
        out.write_all(record.key.unwrap_or(b"null"))?;
        out.write_all(b"\t")?;
    }
    out.write_all(record.value.unwrap_or(b"null"))?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::Start;

    #[test]
    fn a_start_is_a_word_or_an_offset() {
        assert_eq!("earliest".parse(), Ok(Start::Earliest));
        assert_eq!("latest".parse(), Ok(Start::Latest));
        assert_eq!("42".parse(), Ok(Start::At(42)));
        assert!("-1".parse::<Start>().is_err());
        assert!("tomorrow".parse::<Start>().is_err());
    }
}
