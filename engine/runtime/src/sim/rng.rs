//! Chance and the trace hash of the twin: small, fast, the same on every machine.

/// xoshiro256**, seeded through splitmix64.
#[derive(Debug, Clone)]
pub(super) struct Rng([u64; 4]);

/// One step of splitmix64: a good mixer of a single word.
pub(super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// Independent streams of one seed differ in `stream`.
    pub(super) fn new(seed: u64, stream: u64) -> Rng {
        let mut state = seed;
        let mut mixed = splitmix(&mut state) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Rng(std::array::from_fn(|_| splitmix(&mut mixed)))
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// True `n` times out of 256.
    pub(super) fn of_256(&mut self, n: u32) -> bool {
        self.below(256) < u64::from(n)
    }

    /// True with probability `ppm` / 1,000,000. Draws nothing when `ppm` is 0.
    pub(super) fn ppm(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// How much of what is unsettled survives, out of 256: nothing, all, or something between.
    pub(super) fn survival(&mut self) -> u32 {
        [0, 16, 128, 128, 240, 256][self.below(6) as usize]
    }
}

/// Who is told of events. See [`super::SimWorld::set_trace`].
pub type TraceSink = Box<dyn FnMut(&str) + Send>;

/// Order-sensitive hash of all that happened, and the one who is told.
pub(super) struct Trace(u64, Option<TraceSink>);

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        Trace(seed ^ 0x51_7C_C1_B7_27_22_0A_95, None)
    }

    pub(super) fn set_sink(&mut self, sink: Option<TraceSink>) {
        self.1 = sink;
    }

    pub(super) fn is_told(&self) -> bool {
        self.1.is_some()
    }

    /// A line for the readable trace.
    pub(super) fn tell(&mut self, now_ns: u64, line: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.1 {
            let (s, ns) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
            sink(&format!("{s}.{ns:09} {}", line()));
        }
    }

    pub(super) fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        // Four lanes side by side: one alone waits for each multiplication.
        let mut lanes = [1u64, 2, 3, 4];
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                let word: [u8; 8] = word.try_into().expect("chunks of exactly eight");
                *lane = (lane.rotate_left(5) ^ u64::from_le_bytes(word))
                    .wrapping_mul(0x517C_C1B7_2722_0A95);
            }
        }
        for lane in lanes {
            self.add(lane);
        }
        for word in blocks.remainder().chunks(8) {
            let mut last = [0; 8];
            last[..word.len()].copy_from_slice(word);
            self.add(u64::from_le_bytes(last));
        }
        self.add((bytes.len() as u64).rotate_left(32));
    }

    pub(super) fn value(&self) -> u64 {
        let mut state = self.0;
        splitmix(&mut state)
    }
}
