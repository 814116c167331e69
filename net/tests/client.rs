//! The client against a server of our own decoders, over real loopback sockets of one shard.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_net::api::ApiKey;
use corelog_net::api_versions::ApiVersionsAnswer;
use corelog_net::client::{Client, ClientConfig, ClientError};
use corelog_net::cold::messages::metadata_response::{MetadataResponseData, MetadataResponseTopic};
use corelog_net::cold::{ColdRequest, encode_response};
use corelog_net::fetch::{
    FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse, Part, RecordRange,
    ResponseBuilder,
};
use corelog_net::frame::{FrameLimits, FramePrefix, PREFIX_BYTES, RequestFrame, SIZE_BYTES};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse,
};
use corelog_net::{ErrorCode, WireStr};
use corelog_runtime::driver::SocketHandle;
use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Rt, ShardId, listen};

/// What the server saw, and how it answers.
#[derive(Default)]
struct Server {
    seen: RefCell<Vec<(ApiKey, i16, Option<String>)>>,
    /// acks=0 requests, by their records' length.
    unanswered: RefCell<Vec<usize>>,
}

async fn read_exact(rt: &Rt, socket: &SocketHandle, len: usize) -> Option<Bytes> {
    let (received, buf) = rt
        .recv(socket, rt.pool().get(len.max(1)), 0, len, true)
        .await;
    (received.ok()? == len).then(|| buf.freeze())
}

fn answer(server: &Server, request: RequestFrame) -> Option<Vec<Bytes>> {
    let RequestFrame {
        api,
        version,
        correlation_id,
        client_id,
        body,
    } = request;
    server
        .seen
        .borrow_mut()
        .push((api, version, client_id.map(|id| id.to_string())));
    let whole = |frame: BytesMut| Some(vec![frame.freeze()]);
    match api {
        ApiKey::ApiVersions => whole(
            ApiVersionsAnswer::default()
                .encode_frame(version, correlation_id)
                .unwrap(),
        ),
        ApiKey::Produce => {
            let request = ProduceRequest::decode(version, &body).unwrap();
            let bytes = |p: &ProducePartition| p.records.as_ref().map_or(0, Bytes::len);
            if request.acks == 0 {
                let all = request.topics.iter().flat_map(|t| &t.partitions).map(bytes);
                server.unanswered.borrow_mut().extend(all);
                return None;
            }
            let partition = |p: &ProducePartition| ProducePartitionResponse {
                index: p.index,
                base_offset: bytes(p) as i64,
                ..Default::default()
            };
            let topic = |t: &ProduceTopic| ProduceTopicResponse {
                name: t.name.clone(),
                topic_id: t.topic_id,
                partitions: t.partitions.iter().map(partition).collect(),
            };
            let topics = request.topics.iter().map(topic).collect();
            whole(
                ProduceResponse {
                    topics,
                    ..Default::default()
                }
                .encode_frame(version, correlation_id)
                .unwrap(),
            )
        }
        ApiKey::Fetch => {
            let request = FetchRequest::decode(version, &body).unwrap();
            let records = Bytes::from(vec![request.max_wait_ms as u8; request.max_bytes as usize]);
            let partition = FetchPartitionResponse {
                records: vec![RecordRange {
                    len: records.len(),
                    range: records,
                }],
                ..Default::default()
            };
            let topics = vec![FetchTopicResponse {
                name: WireStr::from_static("t"),
                topic_id: [7; 16],
                partitions: vec![partition],
            }];
            let response = FetchResponse {
                topics,
                ..Default::default()
            };
            let parts = ResponseBuilder::new(version, correlation_id)
                .unwrap()
                .build(response)
                .unwrap();
            Some(
                parts
                    .into_iter()
                    .map(|part| match part {
                        Part::Bytes(b) | Part::Records(b, _) => b,
                    })
                    .collect(),
            )
        }
        _ => {
            let ColdRequest::Metadata(request) = ColdRequest::decode(api, version, &body).unwrap()
            else {
                return None;
            };
            let named = request.topics.unwrap_or_default().into_iter();
            let topics = named
                .map(|t| MetadataResponseTopic::default().with_name(t.name))
                .collect();
            let response = MetadataResponseData::default().with_topics(topics);
            whole(encode_response(version, correlation_id, &response).unwrap())
        }
    }
}

async fn serve(rt: Rt, server: Rc<Server>, socket: SocketHandle) {
    while let Some(head) = read_exact(&rt, &socket, SIZE_BYTES + PREFIX_BYTES).await {
        let prefix =
            FramePrefix::decode(head[..].try_into().unwrap(), &FrameLimits::default()).unwrap();
        let mut frame = BytesMut::from(&head[SIZE_BYTES..]);
        frame.extend_from_slice(
            &read_exact(&rt, &socket, prefix.size - PREFIX_BYTES)
                .await
                .unwrap(),
        );
        let request = RequestFrame::decode(&frame.freeze()).unwrap();
        if let Some(pieces) = answer(&server, request)
            && rt.send(&socket, pieces, false).await.is_err()
        {
            return;
        }
    }
}

/// Runs a test on a shard of its own with a server that takes connections as `serve_one` says.
fn with_server<S, F>(
    serve_one: impl Fn(Rt, Rc<Server>, SocketHandle) -> S + 'static,
    test: impl FnOnce(Rt, SocketAddr, Rc<Server>) -> F,
) where
    S: Future<Output = ()> + 'static,
    F: Future<Output = ()>,
{
    let rt = Rt::new(
        ShardId(0),
        Box::new(UringDriver::new(64).unwrap()),
        BufferPool::new(1 << 20),
    );
    let (listener, addr) = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let server = Rc::new(Server::default());
    rt.block_on(async {
        let (accepting, shared) = (rt.clone(), server.clone());
        let acceptor = rt.spawn("acceptor", async move {
            while let Ok(socket) = accepting.accept(&listener).await {
                accepting
                    .spawn(
                        "server",
                        serve_one(accepting.clone(), shared.clone(), socket),
                    )
                    .detach();
            }
        });
        test(rt.clone(), addr, server).await;
        acceptor.cancel_and_wait().await;
        rt.drain().await;
    });
}

fn produce(acks: i16, sizes: &[usize]) -> ProduceRequest {
    let partition = |(index, size): (usize, &usize)| ProducePartition {
        index: index as i32,
        records: Some(Bytes::from(vec![index as u8; *size])),
    };
    let topic = ProduceTopic {
        name: WireStr::from_static("t"),
        topic_id: [7; 16],
        partitions: sizes.iter().enumerate().map(partition).collect(),
    };
    ProduceRequest {
        acks,
        topics: vec![topic],
        ..Default::default()
    }
}

#[test]
fn requests_are_pipelined_and_answers_reach_their_askers() {
    with_server(serve, |rt, addr, server| async move {
        let client = Client::connect(&rt, addr, ClientConfig::default())
            .await
            .unwrap();
        for api in ApiKey::ALL {
            let version = match api.is_served() {
                true => Ok(api.max_version()),
                false => Err(ClientError::NotServed { api: *api }),
            };
            assert_eq!(client.version(*api), version);
        }
        // All are on their way before the first answer is awaited; small and large pieces, short and long answers.
        let first = client
            .produce(13, &produce(1, &[10, 5_000, 300_000]))
            .unwrap();
        let fetch = |wait, bytes| FetchRequest {
            max_wait_ms: wait,
            max_bytes: bytes,
            ..Default::default()
        };
        let long = client.fetch(18, &fetch(1, 1_000_000)).unwrap();
        let short = client.fetch(12, &fetch(2, 3)).unwrap();
        let nothing = client.produce(9, &produce(0, &[7, 8_000])).unwrap();
        let last = client.produce(3, &produce(-1, &[1])).unwrap();

        let offsets = |r: ProduceResponse| {
            r.topics[0]
                .partitions
                .iter()
                .map(|p| p.base_offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(offsets(last.await.unwrap()), [1]);
        assert_eq!(offsets(first.await.unwrap()), [10, 5_000, 300_000]);
        let records = |r: FetchResponse<Bytes>| r.topics[0].partitions[0].record_bytes();
        assert_eq!(records(long.await.unwrap()), vec![1; 1_000_000]);
        assert_eq!(records(short.await.unwrap()), vec![2; 3]);
        assert_eq!(nothing.await.unwrap(), ProduceResponse::default());
        assert_eq!(*server.unanswered.borrow(), [7, 8_000]);

        let metadata = client.metadata(Some(&["a", "b"])).await.unwrap();
        let names: Vec<_> = metadata
            .topics
            .iter()
            .map(|t| t.name.clone().unwrap().to_string())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let seen = server.seen.borrow();
        assert_eq!(seen[0], (ApiKey::ApiVersions, 4, Some("corelog".into())));
        assert_eq!(seen.last().unwrap().0, ApiKey::Metadata);
    });
}

#[test]
fn an_answer_over_the_limit_ends_the_connection_before_memory_is_taken() {
    with_server(serve, |rt, addr, _| async move {
        let config = ClientConfig {
            response_bytes_max: 10_000,
            ..Default::default()
        };
        let client = Client::connect(&rt, addr, config).await.unwrap();
        let request = FetchRequest {
            max_bytes: 10_001,
            ..Default::default()
        };
        let error = client.fetch(12, &request).unwrap().await.unwrap_err();
        assert!(
            matches!(error, ClientError::BadSize { max: 10_000, .. }),
            "{error}"
        );
        assert_eq!(
            client.metadata(None).await.unwrap_err(),
            error,
            "closed for good"
        );
    });
}

#[test]
fn a_broker_that_closes_or_stays_silent_fails_what_is_in_flight() {
    // The first connection is closed after ApiVersions, the second never answered.
    let connections = RefCell::new(0);
    let serve_one = move |rt: Rt, server: Rc<Server>, socket: SocketHandle| {
        *connections.borrow_mut() += 1;
        let silent = *connections.borrow() == 2;
        async move {
            if silent {
                while read_exact(&rt, &socket, 1).await.is_some() {}
                return;
            }
            let head = read_exact(&rt, &socket, SIZE_BYTES).await.unwrap();
            let size = i32::from_be_bytes(head[..].try_into().unwrap()) as usize;
            let frame = read_exact(&rt, &socket, size).await.unwrap();
            let pieces = answer(&server, RequestFrame::decode(&frame).unwrap()).unwrap();
            rt.send(&socket, pieces, false).await.unwrap();
            let _ = rt.shutdown(&socket).await;
        }
    };
    with_server(serve_one, |rt, addr, _| async move {
        let client = Client::connect(&rt, addr, ClientConfig::default())
            .await
            .unwrap();
        let error = client.metadata(None).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Closed | ClientError::Io { .. }),
            "{error}"
        );

        let config = ClientConfig {
            request_timeout: Duration::from_millis(50),
            ..Default::default()
        };
        let error = Client::connect(&rt, addr, config).await.err().unwrap();
        assert_eq!(
            error,
            ClientError::TimedOut {
                api: Some(ApiKey::ApiVersions)
            }
        );
    });
}

#[test]
fn an_older_broker_is_spoken_to_in_its_version() {
    // Knows ApiVersions up to 2 and Metadata up to 5; its answer to version 4 is that of Kafka (KIP-511).
    let serve_one = |rt: Rt, server: Rc<Server>, socket: SocketHandle| async move {
        while let Some(head) = read_exact(&rt, &socket, SIZE_BYTES).await {
            let size = i32::from_be_bytes(head[..].try_into().unwrap()) as usize;
            let frame = read_exact(&rt, &socket, size).await.unwrap();
            let request = RequestFrame::decode(&frame).unwrap();
            server
                .seen
                .borrow_mut()
                .push((request.api, request.version, None));
            let mut body = BytesMut::new();
            let error = if request.version > 2 {
                ErrorCode::UnsupportedVersion
            } else {
                ErrorCode::None
            };
            body.extend_from_slice(&error.code().to_be_bytes());
            let rows: &[[i16; 3]] = if request.version > 2 {
                &[[18, 0, 2]]
            } else {
                &[[18, 0, 2], [3, 0, 5], [1, 0, 3]]
            };
            body.extend_from_slice(&(rows.len() as i32).to_be_bytes());
            for value in rows.iter().flatten() {
                body.extend_from_slice(&value.to_be_bytes());
            }
            if (1..=2).contains(&request.version) {
                body.extend_from_slice(&0i32.to_be_bytes());
            }
            let mut out = BytesMut::new();
            out.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
            out.extend_from_slice(&request.correlation_id.to_be_bytes());
            out.extend_from_slice(&body);
            rt.send(&socket, vec![out.freeze()], false).await.unwrap();
        }
    };
    with_server(serve_one, |rt, addr, server| async move {
        let client = Client::connect(&rt, addr, ClientConfig::default())
            .await
            .unwrap();
        let versions: Vec<_> = server.seen.borrow().iter().map(|seen| seen.1).collect();
        assert_eq!(versions, [4, 2]);
        assert_eq!(client.version(ApiKey::Metadata), Ok(5));
        let not_served = |api| Err(ClientError::NotServed { api });
        assert_eq!(
            client.version(ApiKey::Fetch),
            not_served(ApiKey::Fetch),
            "0 to 3 ends below our 4"
        );
        assert_eq!(client.version(ApiKey::Produce), not_served(ApiKey::Produce));
    });
}
