//! A blocking connection, with frames from `corelog_net`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_net::api::ApiKey;
use corelog_net::cold::{ColdCall, ColdMessage, encode_request};
use corelog_net::fetch::{FetchRequest, FetchResponse};
use corelog_net::frame::begin_request;
use corelog_net::produce::{ProduceRequest, ProduceResponse};
use corelog_net::response::{close_frame, split_response};
use corelog_runtime::blocking;

/// Longest wait for bytes. Only a hang comes near it.
const RECEIVE_MAX: Duration = Duration::from_secs(30);
const CLIENT_ID: Option<&str> = Some("test");

/// One connection.
pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Sent {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Connection {
        let stream = blocking::tcp_connect(addr).unwrap();
        stream.set_read_timeout(Some(RECEIVE_MAX)).unwrap();
        stream.set_write_timeout(Some(RECEIVE_MAX)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection {
            stream,
            correlation_id: 0,
        }
    }

    fn next(&mut self, api: ApiKey, version: i16) -> Sent {
        self.correlation_id += 1;
        Sent {
            api,
            version,
            correlation_id: self.correlation_id,
        }
    }

    /// Sends bytes as they are; an error when the peer is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Nothing more will be sent.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a request.
    pub fn send<T: ColdCall>(&mut self, version: i16, request: &T) -> Sent {
        self.try_send(version, request).unwrap()
    }

    /// Sends a request; an error when the peer is gone.
    pub fn try_send<T: ColdCall>(&mut self, version: i16, request: &T) -> std::io::Result<Sent> {
        let sent = self.next(T::API, version);
        let frame = encode_request(version, sent.correlation_id, CLIENT_ID, request).unwrap();
        self.send_bytes(&frame)?;
        Ok(sent)
    }

    /// Sends a Produce request; an error when the peer is gone.
    pub fn try_send_produce(
        &mut self,
        version: i16,
        request: &ProduceRequest,
    ) -> std::io::Result<Sent> {
        let sent = self.next(ApiKey::Produce, version);
        let frame = request.encode_frame(version, sent.correlation_id, CLIENT_ID);
        self.send_bytes(&frame.unwrap().concat())?;
        Ok(sent)
    }

    /// Sends a Produce request.
    pub fn send_produce(&mut self, version: i16, request: &ProduceRequest) -> Sent {
        self.try_send_produce(version, request).unwrap()
    }

    /// Sends a Fetch request.
    pub fn send_fetch(&mut self, version: i16, request: &FetchRequest) -> Sent {
        let sent = self.next(ApiKey::Fetch, version);
        let mut buf = BytesMut::new();
        begin_request(&mut buf, sent.api, version, sent.correlation_id, CLIENT_ID);
        request.encode(version, &mut buf).unwrap();
        close_frame(&mut buf, 0).unwrap();
        self.send_bytes(&buf).unwrap();
        sent
    }

    /// The next frame, without its size; `None` when the peer has closed.
    pub fn try_receive(&mut self) -> Option<Bytes> {
        let mut size = [0; 4];
        if !self.fill(&mut size) {
            return None;
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(size)).unwrap()];
        self.fill(&mut frame).then(|| Bytes::from(frame))
    }

    fn fill(&mut self, out: &mut [u8]) -> bool {
        match self.stream.read_exact(out) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no answer came")
            }
            Err(_) => false,
        }
    }

    /// The body of the next answer, which must be that of `sent`; `None` when the peer has closed.
    pub fn try_answer(&mut self, sent: Sent) -> Option<Bytes> {
        let frame = self.try_receive()?;
        let (correlation_id, body) = split_response(sent.api, sent.version, &frame).unwrap();
        assert_eq!(
            correlation_id, sent.correlation_id,
            "answers keep the order"
        );
        Some(body)
    }

    /// The body of the next answer, which must be that of `sent`.
    #[track_caller]
    pub fn answer(&mut self, sent: Sent) -> Bytes {
        let body = self.try_answer(sent);
        body.unwrap_or_else(|| panic!("closed instead of answering {sent:?}"))
    }

    /// The answer of a cold request.
    pub fn answer_as<T: ColdMessage>(&mut self, sent: Sent) -> T {
        let body = self.answer(sent);
        T::decode(sent.version, &body).unwrap()
    }

    /// The answer of a Produce request.
    pub fn produced(&mut self, sent: Sent) -> ProduceResponse {
        let body = self.answer(sent);
        ProduceResponse::decode(sent.version, &body).unwrap()
    }

    /// The answer of a Fetch request.
    pub fn fetched(&mut self, sent: Sent) -> FetchResponse<Bytes> {
        let body = self.answer(sent);
        FetchResponse::decode(sent.version, &body).unwrap()
    }

    /// Sends a cold request in our highest version and waits for its answer.
    pub fn call<T: ColdCall>(&mut self, request: &T) -> T::Response {
        let sent = self.send(T::API.max_version(), request);
        self.answer_as(sent)
    }

    /// No byte has come.
    pub fn is_silent(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Waits for the peer to close; false when an answer comes instead.
    pub fn closes(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("neither an answer nor the end came")
            }
            Err(_) => true,
        }
    }
}
