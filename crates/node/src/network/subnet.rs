//! Choosing a block of addresses that nobody on this machine uses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    base: u32,
    prefix: u8,
}

/// The blocks that are tried: the 64 /16 of 10.64.0.0/10.
const CANDIDATES: u32 = 64;
const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// Prefix of the chosen block.
pub(crate) const PREFIX: u8 = 16;

impl Subnet {
    pub(crate) fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// The address number `number` of the block; 1 is the bridge.
    pub(crate) fn host(&self, number: u16) -> Ipv4Addr {
        Ipv4Addr::from(self.base | u32::from(number))
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.trim().split_once('/').ok_or(())?;
        Ok(Self::new(address.parse().map_err(|_| ())?, prefix.parse().map_err(|_| ())?))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// The first free block, starting at one that `seed` decides so that several platforms seldom meet.
pub(crate) fn choose(used: &[Subnet], seed: u32) -> Option<Subnet> {
    (0..CANDIDATES)
        .map(|n| FIRST + (((seed.wrapping_add(n)) % CANDIDATES) << 16))
        .map(|base| Subnet { base, prefix: PREFIX })
        .find(|candidate| !used.iter().any(|used| used.overlaps(candidate)))
}

/// What the kernel routes and answers for. `routes` is `/proc/net/route`, `tree` is `/proc/net/fib_trie`.
/// Default routes are left out: they overlap everything.
pub(crate) fn used(routes: &str, tree: &str) -> Vec<Subnet> {
    let mut used = Vec::new();
    for line in routes.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (Some(destination), Some(mask)) = (fields.nth(1), fields.nth(5)) else { continue };
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
        if let (Some(base), Some(mask)) = (number(destination), number(mask))
            && mask != 0
        {
            used.push(Subnet::new(Ipv4Addr::from(base), mask.count_ones().try_into().unwrap_or(32)));
        }
    }
    for line in tree.lines() {
        if let Some(text) = line.trim_start().strip_prefix("|-- ")
            && let Ok(address) = text.trim().parse::<Ipv4Addr>()
            && !address.is_unspecified()
        {
            used.push(Subnet::new(address, 32));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        tun0\t0000400A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn the_default_route_does_not_count_and_others_do() {
        let used = used(ROUTES, "  +-- 10.65.0.0/16\n     |-- 10.65.0.1\n        /32 host LOCAL\n");
        assert_eq!(
            used,
            [Subnet::new(Ipv4Addr::new(10, 64, 0, 0), 16), Subnet::new(Ipv4Addr::new(10, 65, 0, 1), 32)]
        );
        assert_eq!(choose(&used, 0).unwrap().to_string(), "10.66.0.0/16");
        assert_eq!(choose(&used, 9).unwrap().to_string(), "10.73.0.0/16");
    }

    #[test]
    fn a_machine_that_routes_all_of_10_has_no_free_block() {
        assert_eq!(choose(&["10.0.0.0/8".parse().unwrap()], 3), None);
    }

    #[test]
    fn the_last_block_wraps_around() {
        let used = ["10.127.0.0/16".parse().unwrap()];
        assert_eq!(choose(&used, 63).unwrap().to_string(), "10.64.0.0/16");
    }
}
