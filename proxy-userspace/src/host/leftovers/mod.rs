//! What kube-proxy has left in this network namespace: found, named, removed on request, without any other program.
//!
//! - [`chains`]: pure: whose chain it is, and what can go;
//! - [`nftables`]: nftables, and what iptables writes there;
//! - [`legacy`]: the old iptables; [`blob`]: pure: a table of theirs;
//! - [`keeper`]: what keeps connections alive that kube-proxy has translated;
//! - [`ipvs`]: the device and the virtual servers of the mode ipvs;
//! - [`running`]: whether a kube-proxy is at work;
//! - [`attendance`]: what a running kubeshunt does about all of this.
//!
//! conntrack's entries stay: connections that kube-proxy has translated go on by them.

mod attendance;
mod blob;
mod chains;
mod ipvs;
mod keeper;
mod legacy;
mod nftables;
pub mod running;

use std::{collections::BTreeSet, fmt};

use anyhow::{Context as _, Result};
use netlink_packet_netfilter::NetfilterProtoFamily;
use serde::{Serialize, Serializer};

pub use attendance::attend;
pub use chains::Chains;
use nftables::Nftables;

/// How many names a line has room for.
const NAMED: usize = 4;

/// Whose packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<Family> for NetfilterProtoFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::IPv4,
            Family::V6 => Self::IPv6,
        }
    }
}

impl TryFrom<NetfilterProtoFamily> for Family {
    type Error = ();

    fn try_from(family: NetfilterProtoFamily) -> Result<Self, ()> {
        match family {
            NetfilterProtoFamily::IPv4 => Ok(Self::V4),
            NetfilterProtoFamily::IPv6 => Ok(Self::V6),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// Something that kube-proxy has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Its table in nftables.
    Table(Family),
    /// Its chains among those that iptables keeps in nftables.
    Chains(Chains),
    /// Its chains among those of the old iptables.
    OldChains(Chains),
    /// The device with all addresses of Services, and the virtual servers, of the mode ipvs.
    Ipvs,
}

impl Leftover {
    /// What kind of thing it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "nftables table",
            Self::Chains(_) => "iptables-nft chains",
            Self::OldChains(_) => "iptables-legacy chains",
            Self::Ipvs => "ipvs",
        }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Table(family) => family.to_string(),
            Self::Chains(chains) | Self::OldChains(chains) => format!("{} {}", chains.family, chains.table),
            Self::Ipvs => "this network namespace".to_owned(),
        }
    }

    /// Every name of it.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Table(_) => vec![nftables::KUBE_PROXY],
            Self::Chains(chains) | Self::OldChains(chains) => {
                chains.chains.iter().map(String::as_str).collect()
            }
            Self::Ipvs => vec![ipvs::DEVICE],
        }
    }

    /// What is kube-proxy's, too, and stays.
    #[must_use]
    pub fn kept(&self) -> Vec<&str> {
        match self {
            Self::Chains(chains) | Self::OldChains(chains) => {
                chains.kept.iter().map(String::as_str).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whose packets conntrack has translated by it. IPVS has connections of its own, which nothing keeps alive.
    fn families(&self) -> Vec<Family> {
        match self {
            Self::Table(family) => vec![*family],
            Self::Chains(chains) | Self::OldChains(chains) => vec![chains.family],
            Self::Ipvs => Vec::new(),
        }
    }

    /// Some of its names.
    #[must_use]
    pub fn summary(&self) -> String {
        let names = self.names();
        let mut text = names[..names.len().min(NAMED)].join(", ");
        if let Some(more) = names.len().checked_sub(NAMED).filter(|more| *more > 0) {
            text += &format!(" and {more} more");
        }
        if let Self::Chains(chains) | Self::OldChains(chains) = self {
            match chains.jumps.len() {
                0 => {}
                1 => text += "; 1 rule leads there",
                jumps => text += &format!("; {jumps} rules lead there"),
            }
        }
        let kept = self.kept();
        if !kept.is_empty() {
            text += &format!("; not {}: rules of others lead there", kept.join(", "));
        }
        text
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind(), self.place(), self.summary())
    }
}

impl Serialize for Leftover {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            kind: &'a str,
            place: String,
            names: Vec<&'a str>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            kept: Vec<&'a str>,
        }
        let fields =
            Fields { kind: self.kind(), place: self.place(), names: self.names(), kept: self.kept() };
        fields.serialize(serializer)
    }
}

/// Looks for what kube-proxy has left in the network namespace of this thread. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// When the kernel does not tell.
pub fn find() -> Result<Vec<Leftover>> {
    let found = Nftables::open()
        .and_then(|nftables| nftables.find())
        .context("cannot look for kube-proxy's rules in nftables (that takes CAP_NET_ADMIN)")?;
    let mut leftovers: Vec<_> = found.tables.into_iter().map(Leftover::Table).collect();
    leftovers.extend(found.chains.into_iter().filter(Chains::can_go).map(Leftover::Chains));
    let old = legacy::find()
        .context("cannot look for kube-proxy's chains in the old iptables (that takes CAP_NET_ADMIN)")?;
    leftovers.extend(old.into_iter().filter(Chains::can_go).map(Leftover::OldChains));
    if ipvs::is_there() {
        leftovers.push(Leftover::Ipvs);
    }
    Ok(leftovers)
}

/// Removes what was found, one thing after the other; each goes as a whole or stays. First of all comes what keeps the
/// connections alive that it has translated.
///
/// # Errors
/// When the kernel refuses; what is named before is gone then.
pub fn remove(leftovers: &[Leftover]) -> Result<()> {
    let nftables = Nftables::open().context("cannot open netlink to nftables")?;
    for family in leftovers.iter().flat_map(Leftover::families).collect::<BTreeSet<_>>() {
        let kept = nftables.keep_connections(family);
        kept.with_context(|| format!("cannot make table {family} {}; nothing was removed", keeper::TABLE))?;
    }
    for leftover in leftovers {
        let removed = match leftover {
            Leftover::Table(family) => nftables.remove_table(*family, nftables::KUBE_PROXY),
            Leftover::Chains(chains) => nftables.remove_chains(chains),
            Leftover::OldChains(chains) => legacy::remove(chains),
            Leftover::Ipvs => ipvs::remove(),
        };
        removed.with_context(|| format!("cannot remove {} {}", leftover.kind(), leftover.place()))?;
    }
    Ok(())
}

/// Removes what keeps alive the connections that kube-proxy has translated; says whether there was something.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_keeper() -> Result<bool> {
    let nftables = Nftables::open().context("cannot open netlink to nftables")?;
    let families = nftables.tables(keeper::TABLE).context("cannot list nftables' tables")?;
    for family in &families {
        let removed = nftables.remove_table(*family, keeper::TABLE);
        removed.with_context(|| format!("cannot remove table {family} {}", keeper::TABLE))?;
    }
    Ok(!families.is_empty())
}
