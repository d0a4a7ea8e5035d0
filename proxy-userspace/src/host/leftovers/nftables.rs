//! nftables, and with it what iptables writes there (`iptables-nft`), by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Immediate,
        ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
        VerdictAttribute,
    },
    none::ControlMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tracing::warn;

use super::{
    Family,
    chains::{self, Chains, Jump, Table},
    keeper,
};
use crate::netlink::Netlink;

/// The table of kube-proxy's mode nftables, one per family.
pub(super) const KUBE_PROXY: &str = "kube-proxy";

/// Nor does nftables tell its subsystem from the resource id that begins a batch.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// How often a list is read that changes meanwhile.
const ATTEMPTS: u32 = 10;

/// What nftables holds that concerns us.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Families that have kube-proxy's own table.
    pub(super) tables: BTreeSet<Family>,
    /// Its chains in iptables' tables.
    pub(super) chains: Vec<Chains>,
}

/// nftables of the network namespace that the thread was in when this was opened.
pub(super) struct Nftables(Netlink);

impl Nftables {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_NETFILTER).map(Self)
    }

    /// Looks for what is kube-proxy's. A kernel without nftables has nothing.
    pub(super) fn find(&self) -> io::Result<Found> {
        let mut by_table: BTreeMap<(Family, String), Table> = BTreeMap::new();
        let chains = match self.list(NetfilterProtoFamily::Unspec, all_chains()) {
            Err(error) if is_missing(&error) => return Ok(Found::default()),
            chains => chains?,
        };
        for (families, message) in chains {
            let NfTablesMessage::NewChain(chain) = message else { continue };
            let (Some(table), Some(name)) = (table_of(&chain), name_of(&chain)) else { continue };
            if let Ok(family) = Family::try_from(families)
                && chains::tables().any(|known| known == table)
            {
                by_table.entry((family, table.to_owned())).or_default().chains.insert(name.to_owned());
            }
        }
        let mut found = Found { tables: self.tables(KUBE_PROXY)?, chains: Vec::new() };
        for ((family, name), mut table) in by_table {
            table.jumps = self.jumps(family, &name)?;
            found.chains.extend(table.leftovers(family, &name));
        }
        Ok(found)
    }

    /// Removes it, each table's share all at once.
    pub(super) fn remove_chains(&self, chains: &Chains) -> io::Result<()> {
        let rule = |chain: &str, rule: Option<u64>| {
            let mut attributes =
                vec![RuleAttribute::Table(chains.table.clone()), RuleAttribute::Chain(chain.to_owned())];
            attributes.extend(rule.map(RuleAttribute::Handle));
            NfTablesMessage::DeleteRule(RuleMessage { attributes })
        };
        let chain = |chain: &String| {
            let attributes =
                vec![ChainAttribute::Table(chains.table.clone()), ChainAttribute::Name(chain.clone())];
            NfTablesMessage::DeleteChain(ChainMessage { attributes })
        };
        let jumps = chains.jumps.iter().map(|jump| rule(&jump.from, Some(jump.rule)));
        // Chains lead to each other: all are emptied before the first one goes.
        let contents = chains.chains.iter().map(|chain| rule(chain, None));
        let all = jumps.chain(contents).chain(chains.chains.iter().map(chain));
        self.commit(all.map(|message| (chains.family, message)))
    }

    /// Removes a table.
    pub(super) fn remove_table(&self, family: Family, name: &str) -> io::Result<()> {
        self.commit([(family, delete_table(name))])
    }

    /// Has the kernel go on tracking and translating whoever else asks for it, unless that is so already. A kernel without
    /// nftables cannot.
    pub(super) fn keep_connections(&self, family: Family) -> io::Result<()> {
        if self.tables(keeper::TABLE)?.contains(&family) {
            return Ok(());
        }
        match self.commit(keeper::messages().map(|message| (family, message))) {
            Err(error) if is_missing(&error) => {
                warn!(
                    "this kernel has no nftables to keep connections alive by: where no other rule has it translate \
                     {family}, those that kube-proxy has translated break"
                );
                Ok(())
            }
            kept => kept,
        }
    }

    /// Families that have a table of that name.
    pub(super) fn tables(&self, name: &str) -> io::Result<BTreeSet<Family>> {
        let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
        let found = match self.list(NetfilterProtoFamily::Unspec, all) {
            Err(error) if is_missing(&error) => return Ok(BTreeSet::new()),
            found => found?.into_iter(),
        };
        let own = found.filter_map(|(family, message)| {
            let NfTablesMessage::NewTable(table) = message else { return None };
            let is_it = |part: &TableAttribute| matches!(part, TableAttribute::Name(known) if known == name);
            table.attributes.iter().any(is_it).then(|| family.try_into().ok())?
        });
        Ok(own.collect())
    }

    /// The rules of a table that lead from chain to chain.
    fn jumps(&self, family: Family, table: &str) -> io::Result<Vec<Jump>> {
        let attributes = vec![RuleAttribute::Table(table.to_owned())];
        let rules =
            self.list(family.into(), NfTablesMessage::GetRule(RuleMessage { attributes }))?.into_iter();
        let jumps = rules.flat_map(|(_, message)| match message {
            NfTablesMessage::NewRule(rule) => jumps_of(&rule),
            _ => Vec::new(),
        });
        Ok(jumps.collect())
    }

    fn list(
        &self,
        family: NetfilterProtoFamily,
        what: NfTablesMessage,
    ) -> io::Result<Vec<(NetfilterProtoFamily, NfTablesMessage)>> {
        let mut attempts = 0;
        loop {
            let mut found = Vec::new();
            let listed = self.0.dump(message(family, what.clone()), |answer: NetfilterMessage| {
                if let NetfilterMessageInner::NfTables(message) = answer.inner {
                    found.push((answer.header.family, message));
                }
            });
            match listed {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                listed => return listed.map(|()| found),
            }
        }
    }

    /// All of it or nothing.
    fn commit(&self, changes: impl IntoIterator<Item = (Family, NfTablesMessage)>) -> io::Result<()> {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
        let changes = changes.into_iter().map(|(family, change)| {
            let makes = matches!(change, NfTablesMessage::NewRule(_));
            let flags = if makes { NLM_F_CREATE | NLM_F_APPEND } else { 0 };
            (flags, message(family.into(), change))
        });
        self.0.transact(
            NetfilterMessage::new(header.clone(), ControlMessage::BatchBegin),
            changes.collect(),
            NetfilterMessage::new(header, ControlMessage::BatchEnd),
        )
    }
}

fn message(family: NetfilterProtoFamily, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn all_chains() -> NfTablesMessage {
    NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() })
}

fn delete_table(name: &str) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage { attributes: vec![TableAttribute::Name(name.to_owned())] })
}

/// What a kernel without nftables says.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

fn table_of(chain: &ChainMessage) -> Option<&str> {
    chain.attributes.iter().find_map(|part| match part {
        ChainAttribute::Table(name) => Some(name.as_str()),
        _ => None,
    })
}

fn name_of(chain: &ChainMessage) -> Option<&str> {
    chain.attributes.iter().find_map(|part| match part {
        ChainAttribute::Name(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Where a rule leads: nowhere, or to one chain.
fn jumps_of(rule: &RuleMessage) -> Vec<Jump> {
    let (mut from, mut handle, mut targets) = (None, None, Vec::new());
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Chain(name) => from = Some(name),
            RuleAttribute::Handle(number) => handle = Some(*number),
            RuleAttribute::Expressions(list) => targets = list.iter().filter_map(target).collect(),
            _ => {}
        }
    }
    let (Some(from), Some(rule)) = (from, handle) else { return Vec::new() };
    targets.into_iter().map(|to| Jump { from: from.clone(), to: to.to_owned(), rule }).collect()
}

/// The chain that an expression's verdict names.
fn target(expression: &ListAttribute<ExpressionAttribute>) -> Option<&str> {
    let ListAttribute::Element(parts) = expression else { return None };
    let immediate = parts.iter().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Immediate(immediate)) => Some(immediate),
        _ => None,
    })?;
    let verdict = immediate.iter().find_map(|part| match part {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    })?;
    verdict.iter().find_map(|part| match part {
        VerdictAttribute::Chain(chain) => Some(chain.as_str()),
        _ => None,
    })
}
