//! Replays, with every `cargo test`, what the fuzzer keeps: seeds, corpora, and inputs that once
//! failed.
#![expect(
    clippy::disallowed_methods,
    reason = "the rule is for the broker; these tests run beside it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use corelog_fuzz::{TARGETS, target};

/// The files of one target, in the order of their names.
fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(kind: &str) -> usize {
    let mut replayed = 0;
    for target in TARGETS {
        for file in files(kind, target.name) {
            let input = fs::read(&file).unwrap();
            // Shown only when the input fails: the test's output is captured.
            println!("{}", file.display());
            (target.run)(&input);
            replayed += 1;
        }
    }
    replayed
}

#[test]
fn r20_seeds_of_every_target_pass() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (at, seed) in seeds.iter().enumerate() {
            println!("{} seed {at}: {seed:02x?}", target.name);
            (target.run)(seed);
        }
    }
}

/// Values that lengths, counts and varints are attacked with.
const POISON: [&[u8]; 8] = [
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x7f, 0xff],
    &[0x80],
    &[0],
    &[1],
];

/// xorshift64*
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        value as usize % bound.max(1)
    }

    /// One change: a bit, a poisoned place, a cut, bytes taken out, or a part of another input.
    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(6) {
            0 | 1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 => {
                let poison = POISON[self.below(POISON.len())];
                let end = input.len().min(at + poison.len());
                input.splice(at..end, poison.iter().copied());
            }
            3 => input.truncate(at),
            4 => {
                let end = input.len().min(at + 1 + self.below(8));
                input.drain(at..end);
            }
            _ => {
                let from = self.below(other.len());
                let to = other.len().min(from + self.below(32));
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}

/// A poor relation of the fuzzer that every test run has: seeds with a few changes by chance.
#[test]
fn r20_changed_seeds_of_every_target_pass() {
    let times = std::env::var("CORELOG_FUZZ_CHANGES").ok();
    let times: usize = times.and_then(|times| times.parse().ok()).unwrap_or(10);
    for target in TARGETS {
        let seeds = (target.seeds)();
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for (at, seed) in seeds.iter().enumerate() {
            for _ in 0..times {
                let mut input = seed.clone();
                for _ in 0..=chance.below(4) {
                    let other = &seeds[chance.below(seeds.len())];
                    chance.change(&mut input, other);
                }
                let result = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(result.is_ok(), "{} seed {at}: {input:02x?}", target.name);
            }
        }
    }
}

#[test]
fn r20_what_fuzzing_kept_is_replayed() {
    let replayed = replay("corpus");
    assert!(replayed >= TARGETS.len(), "only {replayed} inputs are kept");
}

#[test]
fn r20_what_once_failed_passes() {
    assert!(replay("regressions") > 0);
}

#[test]
fn kept_inputs_belong_to_a_target_and_are_small() {
    for kind in ["corpus", "regressions"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind);
        let mut bytes = 0;
        for entry in fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                target(&name).is_some(),
                "{kind}/{name} belongs to no target"
            );
            for file in files(kind, &name) {
                bytes += fs::metadata(file).unwrap().len();
            }
        }
        assert!(bytes < 1 << 20, "{kind} holds {bytes} bytes");
    }
}
