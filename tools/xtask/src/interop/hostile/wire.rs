//! As much of Kafka's protocol as the suite needs, written by hand: what is sent must not depend on the code under test.

use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for an answer: a producer beside an attack may wait, but not for ever.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A frame: size, API, version, correlation id, no client id, body.
pub fn frame(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = (10 + body.len() as i32).to_be_bytes().to_vec();
    frame.extend(api.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(body);
    frame
}

/// A string of the protocol.
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A batch of one record with a value of so many bytes, stamped now.
pub fn batch_of(bytes: usize) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = now.map_or(0, |since| since.as_millis() as i64);
    let mut body = vec![0, 0, 0];
    varint(-1, &mut body);
    varint(bytes as i64, &mut body);
    body.extend(std::iter::repeat_n(0x5a, bytes));
    varint(0, &mut body);
    let mut record = Vec::new();
    varint(body.len() as i64, &mut record);
    record.extend(body);

    let mut tail = vec![0, 0]; // attributes
    tail.extend(0i32.to_be_bytes());
    tail.extend(now_ms.to_be_bytes());
    tail.extend(now_ms.to_be_bytes());
    tail.extend((-1i64).to_be_bytes());
    tail.extend((-1i16).to_be_bytes());
    tail.extend((-1i32).to_be_bytes());
    tail.extend(1i32.to_be_bytes());
    tail.extend(record);
    let mut batch = 0i64.to_be_bytes().to_vec();
    batch.extend((tail.len() as i32 + 9).to_be_bytes());
    batch.extend((-1i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c(&tail).to_be_bytes());
    batch.extend(tail);
    batch
}

/// The body of a Fetch (version 4) of one partition from its start, up to 50 MB at once.
pub fn fetch_body(topic: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [-1, 0, 1, 50 << 20] {
        body.extend(i32::to_be_bytes(number));
    }
    body.push(0);
    body.extend(1i32.to_be_bytes());
    body.extend(string(topic));
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(0i64.to_be_bytes());
    body.extend((50i32 << 20).to_be_bytes());
    body
}

/// A client that waits for each answer.
pub struct Client(TcpStream);

impl Client {
    /// Connects.
    pub fn connect(kafka: &str) -> Result<Client> {
        let stream = TcpStream::connect(kafka)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Client(stream))
    }

    fn call(&mut self, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.0.write_all(&frame(api, version, body))?;
        let mut size = [0; 4];
        self.0.read_exact(&mut size)?;
        let size = u32::from_be_bytes(size) as usize;
        ensure!(size < 64 << 20, "an answer of {size} bytes");
        let mut answer = vec![0; size];
        self.0.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, name: &str, partitions: i32) -> Result<()> {
        let mut body = 1i32.to_be_bytes().to_vec();
        body.extend(string(name));
        body.extend(partitions.to_be_bytes());
        body.extend([0, 1, 0, 0, 0, 0, 0, 0, 0, 0]); // factor 1, no assignments, no configs
        body.extend(30_000i32.to_be_bytes());
        body.push(0);
        let answer = self.call(19, 2, &body)?;
        // Correlation id, throttle time, count, name, error.
        let at = 4 + 4 + 4 + 2 + name.len();
        ensure!(
            answer.get(at..at + 2) == Some(&[0, 0]),
            "creating {name}: {answer:?}"
        );
        Ok(())
    }

    /// Produces a batch with acks=1.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> Result<()> {
        let mut body = vec![0xff, 0xff, 0, 1];
        body.extend(30_000i32.to_be_bytes());
        body.extend(1i32.to_be_bytes());
        body.extend(string(topic));
        body.extend(1i32.to_be_bytes());
        body.extend(partition.to_be_bytes());
        body.extend((batch.len() as i32).to_be_bytes());
        body.extend(batch);
        let answer = self.call(0, 3, &body)?;
        // Correlation id, count, name, count, partition, error.
        let at = 4 + 4 + 2 + topic.len() + 4 + 4;
        ensure!(
            answer.get(at..at + 2) == Some(&[0, 0]),
            "produce to {topic}: {answer:?}"
        );
        Ok(())
    }
}
