//! On which of the node's addresses NodePorts answer: `nodePortAddresses`.
//!
//! Pure. kube-proxy: `pkg/proxy/util/nodeport_addresses.go`. Each family by itself: one that is not mentioned has all of
//! the node's addresses. Loopback is one of them (in the host's network namespace only, which the programs see to).

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use proxy_common::{address::Address, layout::node_address};

use crate::cluster::model::{Family, NodeInfo};

/// The node's addresses, and what they are to it: bits of [`node_address`].
pub type NodeAddresses = BTreeMap<Address, u32>;

/// What the user has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// All.
    #[default]
    All,
    /// The first of the Node's addresses of each family.
    Primary,
    /// Those in one of these ranges.
    Within(Vec<IpNet>),
}

/// One word of a choice: a range of addresses, or `primary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// `primary`
    Primary,
    /// Addresses.
    Range(IpNet),
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        let net = text.parse().map(Self::Range);
        net.map_err(|_| format!("{text:?} is neither a range of addresses, as in 10.0.0.0/8, nor `primary`"))
    }
}

/// `primary` is said together with ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixed;

impl fmt::Display for Mixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`primary` stands alone: say either that or ranges of addresses")
    }
}

impl std::error::Error for Mixed {}

impl Choice {
    /// What words mean together.
    ///
    /// # Errors
    /// When `primary` is not the only one.
    pub fn of(words: &[Word]) -> Result<Self, Mixed> {
        let ranges: Vec<IpNet> = words
            .iter()
            .filter_map(|word| if let Word::Range(net) = word { Some(*net) } else { None })
            .collect();
        match (words.len() - ranges.len(), ranges.is_empty()) {
            (0, true) => Ok(Self::All),
            (0, false) => Ok(Self::Within(ranges)),
            (_, true) => Ok(Self::Primary),
            (_, false) => Err(Mixed),
        }
    }

    /// The ranges of one family; none if it has all addresses.
    fn of_family(&self, family: Family, node: &NodeInfo) -> Vec<IpNet> {
        let is_ours = |net: &IpNet| Family::of(net.addr()) == family;
        match self {
            Self::All => Vec::new(),
            Self::Primary => {
                node.addresses.iter().map(|own| IpNet::from(*own)).find(is_ours).into_iter().collect()
            }
            Self::Within(ranges) => ranges.iter().copied().filter(is_ours).collect(),
        }
    }
}

/// Where NodePorts answer, all told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `nodePortAddresses`.
    pub choice: Choice,
    /// The node's primary address of its family, whatever its object says: `bindAddress`.
    pub primary: Option<IpAddr>,
    /// Whether they answer on loopback, if chosen: `iptables.localhostNodePorts`.
    pub on_loopback: bool,
}

impl Rule {
    /// What each of the node's `own` addresses, which loopback is not among, is to it.
    #[must_use]
    pub fn addresses<'a>(
        &self,
        own: impl IntoIterator<Item = &'a Address>,
        node: &NodeInfo,
    ) -> NodeAddresses {
        let mut node = node.clone();
        node.addresses.splice(..0, self.primary);
        let mut addresses = addresses(own, &self.choice, &node);
        if !self.on_loopback {
            for loopback in [Address::LOOPBACK_V4, Address::LOOPBACK_V6] {
                addresses.remove(&loopback);
            }
        }
        addresses
    }
}

/// What each of the node's `own` addresses, which loopback is not among, is to it.
#[must_use]
pub fn addresses<'a>(
    own: impl IntoIterator<Item = &'a Address>,
    choice: &Choice,
    node: &NodeInfo,
) -> NodeAddresses {
    let chosen = [Family::V4, Family::V6].map(|family| choice.of_family(family, node));
    let is_chosen = |ip: IpAddr| {
        let ranges = &chosen[usize::from(ip.is_ipv6())];
        ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0 || net.contains(&ip))
    };
    let node_ports = |address: &Address| {
        if is_chosen(address.to_ip()) { node_address::NODE_PORTS } else { 0 }
    };
    let own = own.into_iter().map(|address| (*address, node_address::OWN | node_ports(address)));
    let loopback =
        [Address::LOOPBACK_V4, Address::LOOPBACK_V6].map(|address| (address, node_ports(&address)));
    own.chain(loopback.into_iter().filter(|(_, is)| *is != 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 4] = ["10.0.0.1", "192.168.0.1", "fd00::1", "2001:db8::1"];

    fn node(addresses: &[&str]) -> NodeInfo {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        NodeInfo { addresses, ..NodeInfo::default() }
    }

    /// Where NodePorts answer, by choice.
    fn answers(words: &[&str], node: &NodeInfo) -> Vec<String> {
        let words: Vec<Word> = words.iter().map(|word| word.parse().expect("a word")).collect();
        let own = OWN.map(|text| Address::from(text.parse::<IpAddr>().expect("an address")));
        let all = addresses(&own, &Choice::of(&words).expect("one or the other"), node);
        assert!(own.iter().all(|own| all[own] & node_address::OWN != 0), "all are the node's");
        let mut answering: Vec<IpAddr> = all
            .iter()
            .filter(|(_, is)| **is & node_address::NODE_PORTS != 0)
            .map(|(address, _)| address.to_ip())
            .collect();
        answering.sort_unstable();
        answering.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn by_default_all_addresses_of_the_node_answer() {
        let all = ["10.0.0.1", "127.0.0.1", "192.168.0.1", "::1", "2001:db8::1", "fd00::1"];
        assert_eq!(answers(&[], &node(&[])), all);
        assert_eq!(answers(&["0.0.0.0/0", "::/0"], &node(&[])), all);
    }

    #[test]
    fn a_list_of_one_family_leaves_the_other_as_it_is() {
        let v6 = ["::1", "2001:db8::1", "fd00::1"];
        assert_eq!(answers(&["10.0.0.0/8"], &node(&[])), [&["10.0.0.1"], &v6[..]].concat());
        assert_eq!(answers(&["172.16.0.0/12"], &node(&[])), v6, "no address of IPv4 is in the range");
        let v4 = ["10.0.0.1", "127.0.0.1", "192.168.0.1"];
        assert_eq!(answers(&["fd00::/8"], &node(&[])), [&v4[..], &["fd00::1"]].concat());
    }

    #[test]
    fn loopback_answers_if_the_list_says_so() {
        assert_eq!(answers(&["127.0.0.0/8", "::1/128"], &node(&[])), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn primary_is_the_first_address_of_the_node_object_in_each_family() {
        let dual = node(&["192.168.0.1", "10.0.0.1", "2001:db8::1"]);
        assert_eq!(answers(&["primary"], &dual), ["192.168.0.1", "2001:db8::1"]);
        let v6 = ["::1", "2001:db8::1", "fd00::1"];
        let single = node(&["10.0.0.1"]);
        assert_eq!(answers(&["primary"], &single), [&["10.0.0.1"], &v6[..]].concat());
    }

    #[test]
    fn the_rule_knows_another_primary_address_and_whether_loopback_counts() {
        let own = OWN.map(|text| Address::from(text.parse::<IpAddr>().expect("an address")));
        let node = node(&["192.168.0.1", "2001:db8::1"]);
        let answering = |rule: &Rule| -> Vec<String> {
            let all = rule.addresses(&own, &node);
            let chosen = all.iter().filter(|(_, is)| **is & node_address::NODE_PORTS != 0);
            chosen.map(|(address, _)| address.to_ip().to_string()).collect()
        };
        let primary = Rule { choice: Choice::Primary, primary: "10.0.0.1".parse().ok(), on_loopback: true };
        assert_eq!(answering(&primary), ["10.0.0.1", "2001:db8::1"], "the other family is the Node's");
        let everywhere = Rule { choice: Choice::All, primary: None, on_loopback: false };
        assert_eq!(answering(&everywhere).len(), OWN.len());
    }

    #[test]
    fn primary_stands_alone() {
        let words = ["primary".parse().expect("a word"), "10.0.0.0/8".parse().expect("a word")];
        assert_eq!(Choice::of(&words), Err(Mixed));
        assert!("10.0.0.1/33".parse::<Word>().is_err());
        assert!("Primary".parse::<Word>().is_err());
    }
}
