//! Pure: which chains and jumps of an iptables table are kube-proxy's, and which of them can go.
//!
//! The names are those of `pkg/proxy/iptables/proxier.go` and `pkg/proxy/ipvs/proxier.go` (v1.36), less than those begin
//! with: kube-proxy's own clean-up takes whatever begins with `KUBE-SVC-`, here a name must be one that kube-proxy gives.
//! The kubelet's chains (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT`, once `KUBE-MARK-DROP`) are not
//! among them.

use std::collections::BTreeSet;

use super::Family;

/// Where the kernel itself enters a table, in the order of its hooks.
pub(super) const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Chains that there is one of, per table.
const SINGLE: [(&str, &[&str]); 3] = [
    (
        "nat",
        &[
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            MASQUERADE,
            MARK,
            "KUBE-PROXY-CANARY",
            // In the mode ipvs.
            "KUBE-NODE-PORT",
            "KUBE-LOAD-BALANCER",
        ],
    ),
    (
        "filter",
        &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-FORWARD",
            "KUBE-PROXY-FIREWALL",
            "KUBE-PROXY-CANARY",
            // In the mode ipvs.
            "KUBE-NODE-PORT",
            "KUBE-SOURCE-RANGES-FIREWALL",
            "KUBE-IPVS-FILTER",
            "KUBE-IPVS-OUT-FILTER",
        ],
    ),
    ("mangle", &["KUBE-PROXY-CANARY"]),
];

/// Marks packets for masquerading, in `nat`; others lead there too: the CNI plugin portmap (`externalSetMarkChain`), CRI-O's
/// host ports.
const MARK: &str = "KUBE-MARK-MASQ";

/// Masquerades what is marked.
const MASQUERADE: &str = "KUBE-POSTROUTING";

/// How chains of a Service or an endpoint begin, in `nat`. The last until v1.23.
const PER_SERVICE: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// And go on: with so much of a SHA-256 in base 32 (`portProtoHash`).
const HASH: usize = 16;

/// A table that iptables made, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Its chains.
    pub(super) chains: BTreeSet<String>,
    /// Rules that lead from chain to chain.
    pub(super) jumps: Vec<Jump>,
}

/// A rule that leads from one chain to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jump {
    /// The chain that has the rule.
    pub from: String,
    /// The chain it leads to.
    pub to: String,
    /// What the kernel knows the rule by.
    pub(super) rule: u64,
}

/// What kube-proxy has left in one table of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chains {
    /// Whose packets.
    pub family: Family,
    /// `nat`, `filter` or `mangle`.
    pub table: String,
    /// Chains that can go.
    pub chains: BTreeSet<String>,
    /// How the built-in chains lead to kube-proxy's.
    pub jumps: Vec<Jump>,
    /// Chains of kube-proxy's that have to stay: a rule of somebody else's leads there.
    pub kept: BTreeSet<String>,
}

/// The tables that kube-proxy writes to.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    SINGLE.iter().map(|(table, _)| *table)
}

/// Is that the name of a chain of kube-proxy's?
fn is_kube_proxys(table: &str, chain: &str) -> bool {
    let single = SINGLE.iter().find(|(name, _)| *name == table);
    single.is_some_and(|(_, names)| names.contains(&chain))
        || table == "nat" && PER_SERVICE.iter().any(|prefix| chain.strip_prefix(prefix).is_some_and(is_hash))
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
}

impl Table {
    /// What is kube-proxy's in this table; nothing, if nothing is.
    pub(super) fn leftovers(self, family: Family, table: &str) -> Option<Chains> {
        let is_own = |chain: &str| is_kube_proxys(table, chain);
        let mut chains: BTreeSet<_> = self.chains.into_iter().filter(|chain| is_own(chain)).collect();
        if chains.is_empty() {
            return None;
        }
        let (from_own, from_others): (Vec<_>, Vec<_>) =
            self.jumps.into_iter().filter(|jump| is_own(&jump.to)).partition(|jump| is_own(&jump.from));
        let (mut jumps, foreign): (Vec<_>, Vec<_>) =
            from_others.into_iter().partition(|jump| BUILT_IN.contains(&jump.from.as_str()));
        // What somebody else's rule leads to stays, with all that it leads to.
        let mut kept = BTreeSet::new();
        let mut reached: Vec<String> = foreign.into_iter().map(|jump| jump.to).collect();
        while let Some(chain) = reached.pop() {
            if chains.remove(&chain) {
                reached.extend(from_own.iter().filter(|jump| jump.from == chain).map(|jump| jump.to.clone()));
                // Without it the mark would do nothing.
                reached.extend((chain == MARK).then(|| MASQUERADE.to_owned()));
                kept.insert(chain);
            }
        }
        if kept.contains(MARK) {
            jumps.retain(|jump| jump.to != MASQUERADE);
        }
        Some(Chains { family, table: table.to_owned(), chains, jumps, kept })
    }
}

impl Chains {
    /// Is there something that can go? What has to stay is not worth a word twice.
    pub(super) fn can_go(&self) -> bool {
        !self.chains.is_empty() || !self.jumps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(jumps: &[(&str, &str)], others: &[&str]) -> Table {
        let chains = jumps.iter().flat_map(|(from, to)| [*from, *to]).chain(others.iter().copied());
        let rules = (1..).zip(jumps);
        Table {
            chains: chains.map(str::to_owned).collect(),
            jumps: rules
                .map(|(rule, (from, to))| Jump { from: (*from).into(), to: (*to).into(), rule })
                .collect(),
        }
    }

    fn names(chains: &BTreeSet<String>) -> Vec<&str> {
        chains.iter().map(String::as_str).collect()
    }

    #[test]
    fn kube_proxys_chains_go_and_the_jumps_to_them() {
        let table = table(
            &[
                ("PREROUTING", "KUBE-SERVICES"),
                ("KUBE-SERVICES", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
                ("KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-MARK-MASQ"),
                ("KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-SEP-Y42457KCQHG7FFWI"),
                ("POSTROUTING", "FLANNEL-POSTRTG"),
            ],
            &["KUBE-PROXY-CANARY", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP"],
        );
        let found = table.leftovers(Family::V4, "nat").unwrap();
        assert_eq!(
            names(&found.chains),
            [
                "KUBE-MARK-MASQ",
                "KUBE-PROXY-CANARY",
                "KUBE-SEP-Y42457KCQHG7FFWI",
                "KUBE-SERVICES",
                "KUBE-SVC-NPX46M4PTMTKRN6Y"
            ]
        );
        assert_eq!(found.jumps.iter().map(|jump| jump.rule).collect::<Vec<_>>(), [1]);
        assert_eq!((found.kept.len(), found.can_go()), (0, true));
    }

    #[test]
    fn a_chain_that_merely_begins_like_one_is_somebody_elses() {
        for name in [
            "KUBE-SVC-MINE",
            "KUBE-SVC-npx46m4ptmtkrn6y",
            "KUBE-SVC-NPX46M4PTMTKRN6Y2",
            "KUBE-SERVICES2",
            "KUBE-HP-NPX46M4PTMTKRN6Y",
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-ROUTER-FORWARD",
        ] {
            assert_eq!(table(&[("INPUT", name)], &[]).leftovers(Family::V6, "nat"), None, "{name}");
        }
        // In a table where kube-proxy has no such chain.
        let elsewhere = table(&[("INPUT", "KUBE-SVC-NPX46M4PTMTKRN6Y")], &["KUBE-SERVICES"]);
        assert_eq!(elsewhere.leftovers(Family::V4, "mangle"), None);
    }

    #[test]
    fn what_somebody_elses_rule_leads_to_stays_with_all_that_it_needs() {
        let table = table(
            &[
                ("PREROUTING", "KUBE-SERVICES"),
                ("KUBE-SERVICES", "KUBE-NODEPORTS"),
                ("KUBE-HOSTPORTS", "KUBE-EXT-NPX46M4PTMTKRN6Y"),
                ("KUBE-EXT-NPX46M4PTMTKRN6Y", "KUBE-MARK-MASQ"),
                ("KUBE-EXT-NPX46M4PTMTKRN6Y", "KUBE-EXT-NPX46M4PTMTKRN6Y"),
            ],
            &[],
        );
        let found = table.leftovers(Family::V4, "nat").unwrap();
        assert_eq!(names(&found.kept), ["KUBE-EXT-NPX46M4PTMTKRN6Y", "KUBE-MARK-MASQ"]);
        assert_eq!(names(&found.chains), ["KUBE-NODEPORTS", "KUBE-SERVICES"]);
        assert_eq!(found.jumps.iter().map(|jump| jump.rule).collect::<Vec<_>>(), [1]);
        let only_kept = super::tests::table(&[("MINE", "KUBE-MARK-MASQ")], &[]).leftovers(Family::V4, "nat");
        assert!(!only_kept.unwrap().can_go());
    }

    #[test]
    fn what_others_mark_is_masqueraded_as_before() {
        let portmap = [
            ("PREROUTING", "KUBE-SERVICES"),
            ("KUBE-SERVICES", "KUBE-MARK-MASQ"),
            ("POSTROUTING", "KUBE-POSTROUTING"),
            ("PREROUTING", "CNI-HOSTPORT-DNAT"),
            ("CNI-HOSTPORT-DNAT", "CNI-DN-0123456789abcdef01234"),
            ("CNI-DN-0123456789abcdef01234", "KUBE-MARK-MASQ"),
        ];
        let found = table(&portmap, &[]).leftovers(Family::V4, "nat").unwrap();
        assert_eq!(names(&found.kept), ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"]);
        assert_eq!(names(&found.chains), ["KUBE-SERVICES"]);
        assert_eq!(found.jumps.iter().map(|jump| jump.rule).collect::<Vec<_>>(), [1]);
        // What is left is named once, and not again.
        let rest = table(&portmap[2..], &[]).leftovers(Family::V4, "nat").unwrap();
        assert!(!rest.can_go(), "{rest:?}");
        // Nobody marks any more: all goes.
        let own = table(&portmap[..3], &[]).leftovers(Family::V4, "nat").unwrap();
        assert_eq!((own.kept.len(), own.chains.len(), own.jumps.len()), (0, 3, 2));
    }
}
