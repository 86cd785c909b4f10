//! Consistent hashing: `kong/runloop/balancer/consistent_hashing.lua`, point for point.

use std::io::Write as _;

use twox_hash::XxHash32;

/// Points of an address when all weigh the same.
const POINTS_EACH: u64 = 160;
/// Fewer slots than these are not used.
const MIN_SLOTS: u32 = 1000;

/// A circle of slots, some of which belong to an address.
#[derive(Debug, Default)]
pub(crate) struct Continuum {
    slots: u32,
    /// Slot and index of the address, in order of the slots.
    taken: Vec<(u32, u16)>,
}

/// An address on the circle.
pub(crate) struct Share<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) weight: u64,
    /// What it is called outside.
    pub(crate) index: u16,
}

impl Continuum {
    /// `shares` in any order: the circle does not depend on it. `targets` is how many targets there are, whatever
    /// number of addresses they have.
    pub(crate) fn new(slots: u32, targets: usize, shares: &[Share<'_>]) -> Self {
        let slots = slots.max(MIN_SLOTS);
        let total: u64 = shares.iter().map(|share| share.weight).sum();
        let mut sorted: Vec<&Share<'_>> = shares.iter().filter(|share| share.weight > 0).collect();
        sorted.sort_by(|a, b| (a.host, a.port).cmp(&(b.host, b.port)));
        let mut circle: Vec<Option<u16>> = vec![None; slots as usize];
        let mut free = slots as usize;
        for share in sorted {
            let entries = (share.weight * targets as u64 * POINTS_EACH / total.max(1)).max(1);
            let mut placed = 0;
            let mut number = 1_u32;
            let mut name = format!("{}::{} ", share.host, share.port).into_bytes();
            let prefix = name.len();
            // A slot that is taken already costs one more try, as long as there are slots at all.
            while placed < entries && free > 0 && number <= slots {
                name.truncate(prefix);
                // Writing to memory does not fail.
                let _ = write!(name, "{number}");
                let slot = hash(&name) % slots;
                if let Some(place @ None) = circle.get_mut(slot as usize) {
                    *place = Some(share.index);
                    placed += 1;
                    free -= 1;
                }
                number += 1;
            }
        }
        let taken = (0..slots).zip(circle).filter_map(|(slot, index)| Some((slot, index?))).collect();
        Self { slots, taken }
    }

    /// The addresses in the order in which a value may go to them: from its own slot downwards, around the circle. An
    /// address comes as often as it has points.
    pub(crate) fn from(&self, value: &str) -> impl Iterator<Item = u16> {
        let slot = hash(value.as_bytes()) % self.slots.max(1);
        let next = self.taken.partition_point(|(taken, _)| *taken <= slot);
        let (before, after) = self.taken.split_at(next);
        before.iter().rev().chain(after.iter().rev()).map(|(_, index)| *index)
    }
}

fn hash(bytes: &[u8]) -> u32 {
    XxHash32::oneshot(0, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn continuum(hosts: &[(&str, u64)]) -> Continuum {
        let shares: Vec<Share<'_>> = hosts
            .iter()
            .map(|(host, weight)| Share {
                host,
                port: 80,
                weight: *weight,
                index: host.rsplit('.').next().unwrap().parse().unwrap(),
            })
            .collect();
        Continuum::new(10_000, hosts.len(), &shares)
    }

    fn owner(continuum: &Continuum, key: usize) -> u16 {
        continuum.from(&format!("key-{key}")).next().unwrap()
    }

    const FIVE: [(&str, u64); 5] =
        [("10.0.0.1", 100), ("10.0.0.2", 100), ("10.0.0.3", 100), ("10.0.0.4", 100), ("10.0.0.5", 100)];

    #[test]
    fn the_hash_is_xxh32_whatever_computes_it() {
        assert_eq!((hash(b""), hash(b"abc")), (0x02cc_5d05, 0x32d1_53ff));
    }

    #[test]
    fn the_order_of_the_targets_does_not_matter() {
        let mut reversed = FIVE;
        reversed.reverse();
        let (one, other) = (continuum(&FIVE), continuum(&reversed));
        assert!((0..1000).all(|key| owner(&one, key) == owner(&other, key)));
    }

    #[test]
    fn only_the_keys_of_a_target_that_goes_move() {
        let (all, fewer) = (continuum(&FIVE), continuum(&FIVE[..4]));
        let moved = (0..10_000).filter(|key| owner(&all, *key) != owner(&fewer, *key)).count();
        let lost = (0..10_000).filter(|key| owner(&all, *key) == 5).count();
        // Two targets that wanted the same slot may settle it anew.
        assert!(moved >= lost && moved <= lost + 300, "{moved} of {lost} keys moved");
    }

    #[test]
    fn weights_are_shares() {
        let continuum = continuum(&[("10.0.0.1", 300), ("10.0.0.2", 100)]);
        let mut counts: HashMap<u16, usize> = HashMap::new();
        (0..10_000).for_each(|key| *counts.entry(owner(&continuum, key)).or_default() += 1);
        assert!((6500..8500).contains(&counts[&1]), "{counts:?}");
    }

    #[test]
    fn more_addresses_than_slots_do_no_harm() {
        let hosts: Vec<String> = (0..3000).map(|n| format!("10.{}.{}.1", n / 250, n % 250)).collect();
        let shares: Vec<Share<'_>> =
            hosts.iter().enumerate().map(|(n, host)| Share { host, port: 80, weight: 1, index: n as u16 }).collect();
        let continuum = Continuum::new(10, hosts.len(), &shares);
        assert!(continuum.taken.len() <= 1000);
        assert!(continuum.from("x").next().is_some());
        assert!(Continuum::default().from("x").next().is_none());
    }

    proptest! {
        #[test]
        fn every_value_comes_past_every_address(value in ".*", count in 1_usize..5) {
            let continuum = continuum(&FIVE[..count]);
            let mut seen: Vec<u16> = continuum.from(&value).collect();
            prop_assert_eq!(seen.len(), continuum.taken.len());
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), count);
        }
    }
}
