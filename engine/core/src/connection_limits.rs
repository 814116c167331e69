//! Who may connect: connections per address, and how fast new ones come.
//!
//! An address and the time go in, a wait or a refusal comes out. The number of all open connections
//! is the caller's: every shard counts its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest burst that the rate allows, in microseconds of it.
const BURST_US: u64 = 1_000_000;

/// The limits in force.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTerms<'a> {
    /// Connections open at once.
    pub max: usize,
    /// Connections open at once from one address.
    pub max_per_address: u32,
    /// Other limits for single addresses.
    pub overrides: &'a BTreeMap<IpAddr, u32>,
    /// New connections per second; `None` = no limit.
    pub rate_per_s: Option<u32>,
}

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// There are too many.
    Total,
    /// There are too many from its address.
    Address,
    /// The rate is zero.
    Rate,
}

/// Connections by address, and when the next one may be served.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    by_address: BTreeMap<IpAddr, u32>,
    /// When the rate has forgotten all connections so far, in microseconds.
    free_at_us: u64,
}

impl ConnectionLimits {
    /// Takes a connection into the books, or refuses it. Gives the microseconds that it is not to
    /// be served: newcomers above the rate wait for their turn, a second's worth comes at once.
    pub fn admit(
        &mut self,
        address: IpAddr,
        open: usize,
        terms: &ConnectionTerms<'_>,
        now_us: u64,
    ) -> Result<u64, ConnectionRefusal> {
        if open >= terms.max {
            return Err(ConnectionRefusal::Total);
        }
        let from_address = self.by_address.get(&address).copied().unwrap_or(0);
        let max = terms.overrides.get(&address).copied();
        if from_address >= max.unwrap_or(terms.max_per_address) {
            return Err(ConnectionRefusal::Address);
        }
        let wait_us = match terms.rate_per_s {
            None => 0,
            Some(0) => return Err(ConnectionRefusal::Rate),
            Some(rate) => {
                let share_us = 1_000_000 / u64::from(rate);
                self.free_at_us = self.free_at_us.max(now_us) + share_us;
                (self.free_at_us - now_us).saturating_sub(BURST_US.max(share_us))
            }
        };
        self.by_address.insert(address, from_address + 1);
        Ok(wait_us)
    }

    /// A connection of this address has ended.
    pub fn end(&mut self, address: IpAddr) {
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Addresses with connections.
    pub fn addresses(&self) -> usize {
        self.by_address.len()
    }
}

/// Reads `address:limit,address:limit`. Names are not resolved: an address is a number.
pub fn parse_overrides(text: &str) -> Result<BTreeMap<IpAddr, u32>, String> {
    let mut overrides = BTreeMap::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let parsed = item.rsplit_once(':').and_then(|(address, limit)| {
            let address = address.trim().trim_start_matches('[').trim_end_matches(']');
            let address: IpAddr = address.parse().ok()?;
            Some((address.to_canonical(), limit.trim().parse().ok()?))
        });
        let (address, limit) = parsed
            .ok_or_else(|| format!("'{item}': address:limit is expected, with an IP address"))?;
        overrides.insert(address, limit);
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn terms(overrides: &BTreeMap<IpAddr, u32>, rate_per_s: Option<u32>) -> ConnectionTerms<'_> {
        ConnectionTerms {
            max: 10,
            max_per_address: 2,
            overrides,
            rate_per_s,
        }
    }

    #[test]
    fn r20_an_address_has_its_limit_and_no_more() {
        let overrides = parse_overrides("10.0.0.9:1, [::1]:3,::2:0").unwrap();
        let terms = terms(&overrides, None);
        let mut limits = ConnectionLimits::default();
        for (of, max) in [
            ("10.0.0.1", 2),
            ("10.0.0.2", 2),
            ("10.0.0.9", 1),
            ("::1", 3),
            ("::2", 0),
        ] {
            let of = address(of);
            for _ in 0..max {
                assert_eq!(limits.admit(of, 0, &terms, 0), Ok(0));
            }
            for _ in 0..3 {
                assert_eq!(
                    limits.admit(of, 0, &terms, 0),
                    Err(ConnectionRefusal::Address)
                );
            }
        }
        limits.end(address("10.0.0.9"));
        assert_eq!(limits.admit(address("10.0.0.9"), 0, &terms, 0), Ok(0));
        assert_eq!(
            limits.admit(address("10.0.0.7"), 10, &terms, 0),
            Err(ConnectionRefusal::Total)
        );
        // Nothing is kept of those that are gone, nor of those that never were.
        for _ in 0..3 {
            for of in ["10.0.0.1", "10.0.0.2", "10.0.0.9", "::1", "::2", "10.0.0.7"] {
                limits.end(address(of));
            }
        }
        assert_eq!(limits.addresses(), 0);
    }

    #[test]
    fn newcomers_above_the_rate_wait_their_turn() {
        let none = BTreeMap::new();
        let terms = ConnectionTerms {
            max_per_address: u32::MAX,
            ..terms(&none, Some(4))
        };
        let mut limits = ConnectionLimits::default();
        let mut come = |now_us| limits.admit(address("::1"), 0, &terms, now_us).unwrap();
        let at_once: Vec<_> = (0..7).map(|_| come(5_000_000)).collect();
        assert_eq!(at_once, [0, 0, 0, 0, 250_000, 500_000, 750_000]);
        // A second later a second's worth is forgiven, and after a pause all.
        assert_eq!([come(6_000_000), come(6_000_000)], [0, 250_000]);
        assert_eq!([come(60_000_000), come(60_000_000)], [0, 0]);
        let slow = ConnectionTerms {
            rate_per_s: Some(1),
            ..terms
        };
        let mut limits = ConnectionLimits::default();
        let mut come = |now_us| limits.admit(address("::1"), 0, &slow, now_us).unwrap();
        assert_eq!([come(0), come(0), come(0)], [0, 1_000_000, 2_000_000]);
        let never = ConnectionTerms {
            rate_per_s: Some(0),
            ..terms
        };
        let refused = ConnectionLimits::default().admit(address("::1"), 0, &never, 0);
        assert_eq!(refused, Err(ConnectionRefusal::Rate));
    }

    #[test]
    fn overrides_name_addresses() {
        let read = |text| parse_overrides(text).map(|all| all.into_iter().collect::<Vec<_>>());
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(
            read("::ffff:10.0.0.1:7"),
            Ok(vec![(address("10.0.0.1"), 7)])
        );
        for bad in [
            "10.0.0.1",
            "10.0.0.1:",
            "host:3",
            "10.0.0.1:-1",
            ":5",
            "10.0.0.1:99999999999",
        ] {
            assert!(read(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
