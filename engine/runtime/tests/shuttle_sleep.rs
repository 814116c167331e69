//! The sleep protocol of shards under every interleaving a model checker tries: no message is left
//! with a shard that sleeps.

use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

mod atomics {
    pub use shuttle::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/sleep.rs"]
mod sleep;

/// A shard's inbox and doorbell (an eventfd: it counts).
struct Shard {
    inbox: Mutex<Vec<u32>>,
    flag: sleep::SleepFlag,
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Shard {
    fn send(&self, message: u32) {
        self.inbox.lock().expect("no poison").push(message);
        if self.flag.must_ring() {
            *self.rung.lock().expect("no poison") = true;
            self.bell.notify_one();
        }
    }

    /// Receives `count` messages, sleeping whenever the protocol allows it. A lost wake-up is a
    /// deadlock, which the checker reports.
    fn receive(&self, count: usize) -> Vec<u32> {
        let mut got = Vec::new();
        loop {
            got.append(&mut self.inbox.lock().expect("no poison"));
            if got.len() >= count {
                return got;
            }
            let has_work = || !self.inbox.lock().expect("no poison").is_empty();
            if self.flag.prepare(has_work) {
                let mut rung = self.rung.lock().expect("no poison");
                while !*rung {
                    rung = self.bell.wait(rung).expect("no poison");
                }
                *rung = false;
            }
            self.flag.awake();
        }
    }
}

fn one_sleeper(senders: u32, each: u32) {
    let shard = Arc::new(Shard {
        inbox: Mutex::new(Vec::new()),
        flag: sleep::SleepFlag::new(),
        rung: Mutex::new(false),
        bell: Condvar::new(),
    });
    let threads: Vec<_> = (0..senders)
        .map(|sender| {
            let shard = shard.clone();
            thread::spawn(move || (0..each).for_each(|n| shard.send(sender * 100 + n)))
        })
        .collect();
    let mut got = shard.receive((senders * each) as usize);
    got.sort_unstable();
    let expected: Vec<u32> = (0..senders)
        .flat_map(|s| (0..each).map(move |n| s * 100 + n))
        .collect();
    assert_eq!(got, expected);
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn no_message_is_left_with_a_sleeper_one_sender() {
    shuttle::check_dfs(|| one_sleeper(1, 2), Some(20_000));
}

#[test]
fn no_message_is_left_with_a_sleeper_many_senders() {
    shuttle::check_random(|| one_sleeper(3, 2), 3_000);
    shuttle::check_pct(|| one_sleeper(2, 3), 3_000, 3);
}
