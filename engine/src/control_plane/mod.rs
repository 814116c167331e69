//! HTTP: `/metrics` and `/health`, on a small tokio runtime of its own thread.
//!
//! It owns no partition state: a scrape asks every shard for a snapshot of its counters through the
//! gateway and turns the answers into text. This is the one room where tokio is allowed.

mod histograms;
pub mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use corelog_runtime::{Gateway, ShardId};

use crate::shard::message::{Request, Response};
use crate::stats::ShardStats;

/// How long a shard may take to answer a scrape.
const SHARD_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Asks one shard for its counters; the receiver ends without a value when the shard is gone.
pub type AskShard =
    dyn Fn(usize) -> Option<tokio::sync::oneshot::Receiver<ShardStats>> + Send + Sync;

/// Asks through the shards' gateway.
pub fn ask_through(
    gateway: Gateway<Request, Response>,
) -> impl Fn(usize) -> Option<tokio::sync::oneshot::Receiver<ShardStats>> + Send + Sync {
    move |shard| {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let to = ShardId(u16::try_from(shard).ok()?);
        let sent = gateway.send_with(to, Request::Stats, move |answer| {
            if let Some(Response::Stats(stats)) = answer {
                // The scrape may have given up.
                let _ = sender.send(*stats);
            }
        });
        sent.ok().map(|()| receiver)
    }
}

/// What the handlers need.
#[derive(Clone)]
pub struct ControlPlane {
    /// Number of shards.
    pub shards: usize,
    /// How to ask a shard.
    pub ask: Arc<AskShard>,
}

/// A running HTTP server.
#[derive(Debug)]
pub struct HttpServer {
    /// Where it listens (the port that port 0 became).
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl HttpServer {
    /// Stops accepting; requests under way are dropped with the process.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// Binds `address` and serves on a thread of its own.
///
/// Errors: the address is in use or cannot be bound.
pub fn start(address: SocketAddr, plane: ControlPlane) -> std::io::Result<HttpServer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    corelog_runtime::blocking::spawn("control-plane", move || {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .with_state(plane);
        let served = runtime.block_on(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server ended");
        }
    })?;
    Ok(HttpServer {
        address,
        stop: Some(stop),
    })
}

async fn gather(plane: &ControlPlane) -> Result<Vec<ShardStats>, usize> {
    let mut all = Vec::with_capacity(plane.shards);
    let asked: Vec<_> = (0..plane.shards).map(|shard| (plane.ask)(shard)).collect();
    for (shard, receiver) in asked.into_iter().enumerate() {
        let receiver = receiver.ok_or(shard)?;
        let answer = tokio::time::timeout(SHARD_ANSWER_MAX, receiver).await;
        all.push(answer.map_err(|_| shard)?.map_err(|_| shard)?);
    }
    Ok(all)
}

async fn metrics(State(plane): State<ControlPlane>) -> impl IntoResponse {
    match gather(&plane).await {
        Ok(stats) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (
                StatusCode::OK,
                [(header::CONTENT_TYPE, kind)],
                text::encode(&stats),
            )
        }
        Err(shard) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("shard {shard} did not answer within {SHARD_ANSWER_MAX:?}\n"),
        ),
    }
}

async fn health(State(plane): State<ControlPlane>) -> impl IntoResponse {
    match gather(&plane).await {
        // Also with a failed disk: what is left is served, and a restart would not mend it.
        Ok(stats) => (StatusCode::OK, health_text(&stats)),
        Err(shard) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("shard {shard} did not answer\n"),
        ),
    }
}

/// `ok`, or `degraded` and a line per log directory that does not serve.
fn health_text(stats: &[ShardStats]) -> String {
    let dirs = stats.iter().flat_map(|shard| &shard.log_dirs);
    let mut state = "ok";
    let mut lines = String::new();
    for dir in dirs {
        if let Some(why) = &dir.failure {
            state = "degraded";
            lines += &format!("log directory {} is offline: {why}\n", dir.path);
        } else if dir.is_full {
            state = "degraded";
            lines += &format!("log directory {} is full\n", dir.path);
        }
    }
    format!("{state} shards={}\n{lines}", stats.len())
}
