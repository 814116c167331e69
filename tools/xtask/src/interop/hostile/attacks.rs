//! What hostile clients do, each on connections of its own and at a bounded pace: the machine's other half is theirs,
//! and what is measured is the broker, not who gets the processor.

use super::wire::{batch_of, fetch_body, frame, string};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// One kind of attack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    RandomBytes,
    HalfFrames,
    HugeArrays,
    HugeFrames,
    NeverReads,
}

impl Attack {
    pub const ALL: [Attack; 5] = [
        Attack::RandomBytes,
        Attack::HalfFrames,
        Attack::HugeArrays,
        Attack::HugeFrames,
        Attack::NeverReads,
    ];

    /// For the report.
    pub fn what(self) -> &'static str {
        match self {
            Attack::RandomBytes => "random bytes on 500 connections",
            Attack::HalfFrames => "frames that stop half-way",
            Attack::HugeArrays => "arrays of 2^31-1 elements",
            Attack::HugeFrames => "frames of 2 GB",
            Attack::NeverReads => "readers that never read",
        }
    }

    /// Connections at once, and the pause between two rounds over them.
    fn shape(self) -> (usize, Duration) {
        match self {
            Attack::RandomBytes => (500, Duration::from_millis(200)),
            Attack::HalfFrames => (100, Duration::from_millis(1000)),
            Attack::HugeArrays | Attack::HugeFrames => (50, Duration::from_millis(100)),
            Attack::NeverReads => (8, Duration::from_millis(1000)),
        }
    }

    /// What a connection sends; `round` makes one unlike the other.
    fn bytes(self, connection: usize, round: u64) -> Vec<u8> {
        match self {
            Attack::RandomBytes => noise(connection as u64 ^ (round << 16), 512),
            Attack::HalfFrames => half_frame(connection),
            Attack::HugeArrays => huge_array(connection),
            Attack::HugeFrames => {
                let size = [i32::MAX, 2_000_000_000, 1 << 30, -1][connection % 4];
                let mut bytes = frame([0, 1, 3, 18][connection % 4], 1, &[0; 64]);
                bytes[..4].copy_from_slice(&size.to_be_bytes());
                bytes
            }
            Attack::NeverReads => frame(1, 4, &fetch_body("stored")).repeat(8),
        }
    }

    /// The connection is kept to the end of the attack, without a word.
    fn stays(self) -> bool {
        matches!(self, Attack::HalfFrames | Attack::NeverReads)
    }
}

fn half_frame(connection: usize) -> Vec<u8> {
    let announced = [60_000, 10_000, 900_000, 90_000_000][connection % 4];
    let mut bytes = frame(0, 9, &batch_of(8 << 10));
    bytes[..4].copy_from_slice(&i32::to_be_bytes(announced));
    bytes.truncate(bytes.len().min(announced as usize / 2));
    bytes
}

fn huge_array(connection: usize) -> Vec<u8> {
    let most = i32::MAX.to_be_bytes();
    match connection % 6 {
        0 => frame(3, 1, &most), // Metadata
        1 => frame(0, 3, &[&[0xff, 0xff, 0, 1, 0, 0, 0, 9], &most[..]].concat()), // Produce
        2 => frame(1, 4, &[&[0; 17], &most[..]].concat()), // Fetch
        3 => frame(19, 2, &[&most[..], &[0; 32]].concat()), // CreateTopics
        4 => frame(2, 1, &[&[0xff; 4], &most[..]].concat()), // ListOffsets
        _ => frame(8, 2, &[&string("g")[..], &[0; 14], &most].concat()), // OffsetCommit
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// All attacks, one thread each.
pub struct Attackers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

/// Starts all attacks.
pub fn start(kafka: &str) -> Attackers {
    let stop = Arc::new(AtomicBool::new(false));
    let begin = |attack: &Attack| {
        let (attack, kafka, stop) = (*attack, kafka.to_owned(), Arc::clone(&stop));
        std::thread::spawn(move || go_on(attack, &kafka, &stop))
    };
    let threads = Attack::ALL.iter().map(begin).collect();
    Attackers { stop, threads }
}

impl Attackers {
    /// Ends them; how often each was carried out.
    pub fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<u64>| thread.join().unwrap_or(0);
        self.threads.into_iter().map(join).collect()
    }
}

fn go_on(attack: Attack, kafka: &str, stop: &AtomicBool) -> u64 {
    let (connections, pause) = attack.shape();
    let mut open: Vec<Option<TcpStream>> = (0..connections).map(|_| None).collect();
    let mut count = 0;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        for (number, place) in open.iter_mut().enumerate() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if attack.stays() && place.as_mut().is_some_and(is_open) {
                continue;
            }
            // What the broker has closed, or this side is done with, is opened anew.
            *place = TcpStream::connect(kafka).ok();
            if let Some(stream) = place
                && stream.set_nonblocking(true).is_ok()
                && stream.write(&attack.bytes(number, round)).is_ok()
            {
                count += 1;
            }
        }
        round += 1;
        std::thread::sleep(pause);
    }
    count
}

/// Looks whether the peer has closed, taking nothing that a reader who never reads would take.
fn is_open(stream: &mut TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
