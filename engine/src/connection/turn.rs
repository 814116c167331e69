//! How much one connection does before the others on its shard have their turn.

/// Requests of one turn.
const REQUESTS_MAX: u32 = 32;
/// Bytes of requests of one turn; one that is larger is a turn by itself.
const BYTES_MAX: usize = 256 << 10;

/// Work of a connection since it last let others run. Counted, not timed: what many requests start
/// runs in tasks of their own, which the time of this one does not show.
#[derive(Debug, Default)]
pub struct Turn {
    requests: u32,
    bytes: usize,
}

impl Turn {
    /// A request of so many bytes was begun. True when the turn is over; the next one starts.
    pub fn is_over_after(&mut self, bytes: usize) -> bool {
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let is_over = self.requests >= REQUESTS_MAX || self.bytes >= BYTES_MAX;
        if is_over {
            *self = Turn::default();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r20_a_turn_ends_after_so_many_requests_or_bytes() {
        let mut turn = Turn::default();
        let over = (0..1000).filter(|_| turn.is_over_after(20)).count();
        assert_eq!(over, 1000 / REQUESTS_MAX as usize);
        let mut turn = Turn::default();
        assert!((0..10).all(|_| turn.is_over_after(BYTES_MAX)));
        assert!((0..10).all(|_| turn.is_over_after(usize::MAX)));
        let over = (0..64)
            .filter(|_| turn.is_over_after(BYTES_MAX / 4))
            .count();
        assert_eq!(over, 16);
    }
}
