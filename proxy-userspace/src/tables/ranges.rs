//! Ranges of addresses that programs look through: what the user says, and what objects say.
//!
//! Pure. Where ClusterIPs are taken from: a packet that would leave the node for such an address, which no Service has,
//! goes nowhere (kube-proxy: `OnServiceCIDRsChanged` in `pkg/proxy/nftables/proxier.go`). And which clients count as pods
//! of this node (kube-proxy: `detectLocalMode`).

use std::collections::BTreeSet;

use ipnet::IpNet;
use proxy_common::layout::{self, Prefix};

/// As many as programs look through; those that are not used come last.
pub type Ranges = [Prefix; layout::RANGES as usize];

/// None.
pub const NONE: Ranges = [Prefix::NONE; layout::RANGES as usize];

/// What the user has chosen, then what else was found; and how many did not fit. A range within another one needs no
/// place of its own.
#[must_use]
pub fn with(chosen: &Ranges, found: &BTreeSet<IpNet>) -> (Ranges, usize) {
    let mut all = *chosen;
    let mut left_out = 0;
    for net in IpNet::aggregate(&found.iter().copied().collect()) {
        let prefix = Prefix::new(net.addr(), net.prefix_len());
        match all.iter().position(|place| *place == prefix || !place.is_some()) {
            Some(place) => all[place] = prefix,
            None => left_out += 1,
        }
    }
    (all, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    fn places(texts: &[&str]) -> Ranges {
        let mut places = NONE;
        for (place, net) in places.iter_mut().zip(texts) {
            let net: IpNet = net.parse().expect("a range");
            *place = Prefix::new(net.addr(), net.prefix_len());
        }
        places
    }

    #[test]
    fn what_is_found_follows_what_is_chosen() {
        assert_eq!(with(&NONE, &nets(&[])), (NONE, 0));
        let chosen = places(&["10.96.0.0/12"]);
        let found = nets(&["10.96.0.0/12", "fd00:10:96::/112"]);
        assert_eq!(with(&chosen, &found), (places(&["10.96.0.0/12", "fd00:10:96::/112"]), 0));
        let nested = nets(&["10.0.0.0/16", "10.0.8.0/24"]);
        assert_eq!(with(&NONE, &nested), (places(&["10.0.0.0/16"]), 0));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let found: BTreeSet<IpNet> =
            (0..10).map(|n| format!("10.{}.0.0/24", 2 * n).parse().expect("a range")).collect();
        let (all, left_out) = with(&places(&["192.168.0.0/24"]), &found);
        assert!(all.iter().all(Prefix::is_some));
        assert_eq!(left_out, 3);
    }
}
