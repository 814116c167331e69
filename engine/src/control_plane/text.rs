//! The text of `/metrics` (OpenMetrics), from copies of the shards' counters.

use std::fmt;

use corelog_net::api::ApiKey;
use corelog_net::error_code::ErrorCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::histograms;
use crate::groups::stats::Committed;
use crate::latency::LatencySummary;
use crate::stats::ShardStats;

/// Encodes the counters of all shards.
pub fn encode(stats: &[ShardStats]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        stats: stats.to_vec(),
    }));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a String does not fail");
    text
}

#[derive(Debug)]
struct Scrape {
    stats: Vec<ShardStats>,
}

pub(super) type Labels = Vec<(String, String)>;

impl Scrape {
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        rows: impl Fn(&ShardStats) -> Vec<(Labels, u64)>,
    ) -> fmt::Result {
        use prometheus_client::metrics::TypedMetric;
        let mut family = encoder.encode_descriptor(
            name,
            help,
            None,
            <ConstCounter<u64> as TypedMetric>::TYPE,
        )?;
        for shard in &self.stats {
            for (mut labels, value) in rows(shard) {
                labels.push(("shard".to_owned(), shard.shard.to_string()));
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        rows: impl Fn(&ShardStats) -> Vec<(Labels, i64)>,
    ) -> fmt::Result {
        use prometheus_client::metrics::TypedMetric;
        let mut family =
            encoder.encode_descriptor(name, help, None, <ConstGauge<i64> as TypedMetric>::TYPE)?;
        for shard in &self.stats {
            for (mut labels, value) in rows(shard) {
                labels.push(("shard".to_owned(), shard.shard.to_string()));
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(
            encoder,
            "corelog_requests",
            "Requests answered, by API.",
            |s| {
                s.requests
                    .iter()
                    .map(|(&key, &count)| (vec![label("api", api_name(key))], count))
                    .collect()
            },
        )?;
        self.counters(
            encoder,
            "corelog_errors",
            "Errors answered, by API and Kafka error.",
            |s| {
                let row = |(&(key, code), &count): (&(i16, i16), &u64)| {
                    (
                        vec![
                            label("api", api_name(key)),
                            label("error", error_name(code)),
                        ],
                        count,
                    )
                };
                s.errors.iter().map(row).collect()
            },
        )?;
        let one = |value: u64| vec![(Labels::new(), value)];
        self.counters(
            encoder,
            "corelog_produce_bytes",
            "Record bytes appended.",
            |s| one(s.produce_bytes),
        )?;
        self.counters(
            encoder,
            "corelog_produce_records",
            "Records appended.",
            |s| one(s.produce_records),
        )?;
        self.counters(
            encoder,
            "corelog_produce_batches",
            "Batches appended.",
            |s| one(s.produce_batches),
        )?;
        self.counters(
            encoder,
            "corelog_fetch_bytes",
            "Record bytes sent to consumers, by path.",
            |s| {
                let row = |(path, &bytes): (&&str, &u64)| {
                    (vec![label("path", (*path).to_owned())], bytes)
                };
                ["tail", "sendfile", "ring"]
                    .iter()
                    .zip(&s.fetch_bytes)
                    .map(row)
                    .collect()
            },
        )
    }

    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let one = |value: u64| vec![(Labels::new(), value)];
        self.counters(
            encoder,
            "corelog_connections_accepted",
            "Connections accepted.",
            |s| one(s.connections_accepted),
        )?;
        self.counters(
            encoder,
            "corelog_connections_refused",
            "Connections closed because what they sent was not acceptable.",
            |s| one(s.connections_refused),
        )?;
        self.gauges(encoder, "corelog_connections", "Connections open.", |s| {
            vec![(Labels::new(), s.connections as i64)]
        })?;
        self.gauges(
            encoder,
            "corelog_partitions",
            "Partitions this shard owns.",
            |s| vec![(Labels::new(), s.partitions as i64)],
        )
    }

    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let name = "corelog_latency_microseconds";
        let help =
            "Latency quantiles since start: produce and fetch requests, and flushes of the device.";
        self.gauges(encoder, name, help, |s| {
            let kinds = [
                ("produce", s.produce_latency),
                ("fetch", s.fetch_latency),
                ("flush", s.flush_latency),
            ];
            kinds
                .iter()
                .flat_map(|&(of, summary)| quantiles(of, summary))
                .collect()
        })?;
        self.counters(
            encoder,
            "corelog_latency_samples",
            "Values behind the latency quantiles.",
            |s| {
                let kinds = [
                    ("produce", s.produce_latency),
                    ("fetch", s.fetch_latency),
                    ("flush", s.flush_latency),
                ];
                kinds
                    .iter()
                    .map(|&(of, summary)| (vec![label("of", of.to_owned())], summary.count))
                    .collect()
            },
        )
    }

    fn groups(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.gauges(
            encoder,
            "corelog_groups",
            "Consumer groups, by state.",
            |s| {
                let counts = s.groups.counts;
                let states = [
                    ("Empty", counts.empty),
                    ("PreparingRebalance", counts.preparing_rebalance),
                    ("CompletingRebalance", counts.completing_rebalance),
                    ("Stable", counts.stable),
                    ("Dead", counts.dead),
                ];
                let row = |&(state, count): &(&str, usize)| {
                    (vec![label("state", state.to_owned())], count as i64)
                };
                states.iter().map(row).collect()
            },
        )?;
        self.gauges(
            encoder,
            "corelog_group_committed_offset",
            "Offset that a group has committed.",
            |s| {
                let row = |committed: &Committed| (of_group(committed), committed.offset);
                s.groups.committed.iter().map(row).collect()
            },
        )?;
        self.gauges(
            encoder,
            "corelog_group_lag",
            "Records between a group's committed offset and the high watermark.",
            |s| {
                let row = |committed: &Committed| Some((of_group(committed), committed.lag?));
                s.groups.committed.iter().filter_map(row).collect()
            },
        )?;
        self.gauges(
            encoder,
            "corelog_group_series_left_out",
            "Committed offsets that are not told of, because there are too many.",
            |s| vec![(Labels::new(), s.groups.left_out as i64)],
        )
    }

    fn shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(
            encoder,
            "corelog_task_stalls",
            "Pieces of turns over 5 ms, by what held the shard.",
            |s| {
                let row = |(task, stall): &(&'static str, corelog_runtime::Stall)| {
                    (vec![label("task", (*task).to_owned())], stall.count)
                };
                s.stalls.iter().map(row).collect()
            },
        )?;
        self.gauges(
            encoder,
            "corelog_memory_bytes",
            "Memory in use, by purpose.",
            |s| {
                let row = |&(purpose, bytes): &(&'static str, u64)| {
                    (vec![label("purpose", purpose.to_owned())], bytes as i64)
                };
                s.memory.iter().map(row).collect()
            },
        )
    }

    fn others(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(first) = self.stats.first() else {
            return Ok(());
        };
        for (at, (name, help, _)) in first.others.iter().enumerate() {
            self.counters(encoder, name, help, |s| {
                s.others
                    .get(at)
                    .map(|other| (Labels::new(), other.2))
                    .into_iter()
                    .collect()
            })?;
        }
        for (at, (name, help, _)) in first.gauges.iter().enumerate() {
            self.gauges(encoder, name, help, |s| {
                s.gauges
                    .get(at)
                    .map(|other| (Labels::new(), other.2))
                    .into_iter()
                    .collect()
            })?;
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.connections(&mut encoder)?;
        self.latencies(&mut encoder)?;
        histograms::encode(&mut encoder, &self.stats)?;
        self.groups(&mut encoder)?;
        self.shards(&mut encoder)?;
        self.others(&mut encoder)
    }
}

fn quantiles(of: &str, summary: LatencySummary) -> Vec<(Labels, i64)> {
    let rows = [
        ("0.5", summary.p50_us),
        ("0.99", summary.p99_us),
        ("0.999", summary.p999_us),
        ("1", summary.max_us),
    ];
    let row = |&(quantile, value): &(&str, u64)| {
        (
            vec![
                label("of", of.to_owned()),
                label("quantile", quantile.to_owned()),
            ],
            value as i64,
        )
    };
    rows.iter().map(row).collect()
}

fn of_group(committed: &Committed) -> Labels {
    vec![
        label("group", committed.group.clone()),
        label("topic", committed.topic.clone()),
        label("partition", committed.partition.to_string()),
    ]
}

pub(super) fn label(name: &str, value: String) -> (String, String) {
    (name.to_owned(), value)
}

fn api_name(key: i16) -> String {
    ApiKey::from_i16(key).map_or_else(|| key.to_string(), |api| api.name().to_owned())
}

fn error_name(code: i16) -> String {
    ErrorCode::from_i16(code).map_or_else(|| code.to_string(), |error| error.name().to_owned())
}
