//! Histograms of `/metrics`.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::text::{Labels, label};
use crate::latency::Buckets;
use crate::stats::ShardStats;

/// Writes one family of histograms.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &[ShardStats],
    (name, help): (&str, &str),
    rows: impl Fn(&ShardStats) -> Vec<(Labels, Buckets)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for shard in stats {
        for (mut labels, buckets) in rows(shard) {
            labels.push(label("shard", shard.shard.to_string()));
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    buckets.sum_seconds,
                    buckets.count,
                    &buckets.counts,
                    None,
                )?;
        }
    }
    Ok(())
}

/// Stages of requests, and flushes.
pub fn encode(encoder: &mut DescriptorEncoder<'_>, stats: &[ShardStats]) -> fmt::Result {
    let help = "Time in the stages of Produce and Fetch requests.";
    family(
        encoder,
        stats,
        ("corelog_request_stage_seconds", help),
        |s| {
            let row = |(stage, buckets): &(crate::latency::Stage, Buckets)| {
                let (api, stage) = stage.names();
                let labels = vec![
                    label("api", api.to_owned()),
                    label("stage", stage.to_owned()),
                ];
                (labels, buckets.clone())
            };
            s.stages.iter().map(row).collect()
        },
    )?;
    let help = "Time of flushes of logs: fdatasync calls and durable writes.";
    family(encoder, stats, ("corelog_flush_seconds", help), |s| {
        vec![(Labels::new(), s.flush_buckets.clone())]
    })
}
