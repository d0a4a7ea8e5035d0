//! From which ports masqueraded flows take theirs.
//!
//! The node's own sockets have ports too. The kernel chooses theirs without asking us, so the two must not choose from
//! the same: what is left beside `net.ipv4.ip_local_port_range` (which holds for both families) and NodePorts is ours.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use proxy_common::layout::PortRanges;
use thiserror::Error;

type Range = RangeInclusive<u16>;

/// Below are the ports of services everybody knows.
const UNPRIVILEGED: Range = 1024..=u16::MAX;

/// kube-apiserver's `--service-node-port-range`, as it is by default.
const NODE_PORTS: Range = 30_000..=32_767;

/// The user's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What others leave.
    Auto,
    /// One range, or two that do not overlap.
    Explicit(Vec<Range>),
}

/// Why a text is no choice of ports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It does not say from where to where.
    #[error("{0:?} is no range of ports; write FIRST-LAST, as in 1024-29999, or auto")]
    NotARange(String),
    /// It ends before it begins, or begins with 0.
    #[error("{0} holds no port that can be used; ranges go from 1-1 to 65535-65535")]
    Empty(String),
    /// The row has room for two.
    #[error("more than two ranges of ports")]
    TooMany,
    /// A port twice would be as likely again.
    #[error("the two ranges of ports overlap")]
    Overlap,
}

impl FromStr for Choice {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        match &ranges[..] {
            [_] => {}
            [one, other] if overlap(one, other) => return Err(Unusable::Overlap),
            [_, _] => {}
            _ => return Err(Unusable::TooMany),
        }
        Ok(Self::Explicit(ranges))
    }
}

fn range(text: &str) -> Result<Range, Unusable> {
    let not = || Unusable::NotARange(text.to_owned());
    let (first, last) = text.trim().split_once('-').ok_or_else(not)?;
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| not());
    let range = number(first)?..=number(last)?;
    // All 65,536 numbers would not fit a length of 16 bits, but 0 is no port anyway.
    if range.is_empty() || *range.start() == 0 { Err(Unusable::Empty(text.to_owned())) } else { Ok(range) }
}

fn overlap(one: &Range, other: &Range) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// Something about the choice that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// The node's own sockets may take the same ports.
    Shared {
        /// The kernel's range.
        local: Range,
        /// Whether nothing would have been left otherwise.
        forced: bool,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Shared { local, forced } = self;
        let why = if *forced { "leaves no ports for masquerading" } else { "overlaps --masquerade-ports" };
        write!(
            f,
            "net.ipv4.ip_local_port_range ({}-{}) {why}: a connection of this node itself may break when a flow to the \
             same backend takes the same port; make the two differ",
            local.start(),
            local.end()
        )
    }
}

impl Choice {
    /// The ports, given those from which the kernel chooses for the node's own sockets.
    #[must_use]
    pub fn resolve(&self, local: &Range) -> (PortRanges, Option<Remark>) {
        let shared = |forced| Some(Remark::Shared { local: local.clone(), forced });
        match self {
            Self::Explicit(ranges) => {
                let remark =
                    ranges.iter().any(|range| overlap(range, local)).then(|| shared(false)).flatten();
                (row(ranges), remark)
            }
            Self::Auto => {
                let ours = without(without(vec![UNPRIVILEGED], &NODE_PORTS), local);
                if ours.is_empty() {
                    return (row(&without(vec![UNPRIVILEGED], &NODE_PORTS)), shared(true));
                }
                (row(&ours), None)
            }
        }
    }
}

/// What is left of ranges.
fn without(ranges: Vec<Range>, taken: &Range) -> Vec<Range> {
    let cut = |range: Range| {
        if !overlap(&range, taken) {
            return vec![range];
        }
        let below = taken.start().checked_sub(1).map(|last| *range.start()..=last);
        let above = taken.end().checked_add(1).map(|first| first..=*range.end());
        below.into_iter().chain(above).filter(|rest| !rest.is_empty()).collect()
    };
    ranges.into_iter().flat_map(cut).collect()
}

/// The two largest.
fn row(ranges: &[Range]) -> PortRanges {
    let mut pieces: Vec<(u16, u16)> = ranges
        .iter()
        .map(|range| (*range.start(), (range.end() - range.start()).saturating_add(1)))
        .collect();
    pieces.sort_unstable_by_key(|(_, len)| std::cmp::Reverse(*len));
    let piece = |at: usize| pieces.get(at).copied().unwrap_or_default();
    PortRanges::new(piece(0), piece(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_auto_leaves_is_nobody_elses(first in 1..=u16::MAX, len in 0..u16::MAX) {
            let local = first..=first.saturating_add(len);
            let (ports, remark) = Choice::Auto.resolve(&local);
            prop_assert!(!ports.is_empty());
            for index in 0..ports.len() {
                let port = ports.port(index);
                prop_assert!(ports.contains(port));
                prop_assert!(port.number() >= 1024 && !(30_000..=32_767).contains(&port.number()));
                prop_assert!(remark.is_some() || !local.contains(&port.number()));
            }
        }
    }

    #[test]
    fn ports_beside_the_kernels() {
        let auto = |local| Choice::Auto.resolve(&local);
        assert_eq!(auto(32_768..=60_999), (PortRanges::new((1024, 28_976), (61_000, 4_536)), None));
        // Three pieces remain: the smallest is left.
        assert_eq!(auto(10_000..=19_999).0, PortRanges::new((32_768, 32_768), (20_000, 10_000)));
        let (ports, remark) = auto(1024..=65_535);
        assert_eq!(ports.len(), 28_976 + 32_768);
        assert!(remark.unwrap().to_string().contains("1024-65535"));
    }

    #[test]
    fn ports_that_the_user_names() {
        let ports = |text: &str| text.parse::<Choice>();
        let resolved = |text: &str| ports(text).unwrap().resolve(&(32_768..=60_999));
        assert_eq!(resolved("2000-2999"), (PortRanges::new((2000, 1000), (0, 0)), None));
        assert_eq!(resolved("2000-2000, 61000-65535"), (PortRanges::new((61_000, 4_536), (2000, 1)), None));
        let (all, remark) = resolved("1-65535");
        assert_eq!(all.len(), 65_535);
        assert!(remark.unwrap().to_string().contains("overlaps --masquerade-ports"));
        assert_eq!(ports("auto"), Ok(Choice::Auto));
        for text in ["", "80", "a-b", "1-70000", "-1-5", "1-2,"] {
            assert!(matches!(ports(text), Err(Unusable::NotARange(_))), "{text}");
        }
        assert_eq!(ports("9-8"), Err(Unusable::Empty("9-8".to_owned())));
        assert_eq!(ports("0-8"), Err(Unusable::Empty("0-8".to_owned())));
        assert_eq!(ports("1-2,3-4,5-6"), Err(Unusable::TooMany));
        assert_eq!(ports("10-20,20-30"), Err(Unusable::Overlap));
    }
}
