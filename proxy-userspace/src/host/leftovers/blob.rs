//! Pure: a table of the old iptables as the kernel hands it out and takes it back, one blob of rules in a row.
//!
//! Rules follow each other; a chain begins where the kernel enters (a built-in one) or with a rule that has its name. A
//! jump names the offset of a chain's first rule, and a rule without a verdict that of the next rule
//! (`include/uapi/linux/netfilter/x_tables.h`, `net/ipv4/netfilter/ip_tables.c`). So what goes moves all that is behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Family,
    chains::{BUILT_IN, Jump, Table},
};

/// Of `xt_entry_target`: where its name is, how long that may be, and where its data begins.
const TARGET_NAME: usize = 2;
const TARGET_NAME_LEN: usize = 29;
const TARGET_DATA: usize = 32;
/// `XT_ERROR_TARGET`, of the rule that begins a chain and of the one that ends the table. That of a jump is empty.
const ERROR: &str = "ERROR";

/// `xt_counters`: packets and bytes.
pub(super) const COUNTERS: usize = 16;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// Whose it is: `ipt_entry` and `ip6t_entry` differ in length.
    pub(super) family: Family,
    /// A bit for each hook at which the kernel enters.
    pub(super) valid_hooks: u32,
    /// Where it enters, and where the policy of that chain is.
    pub(super) hooks: [u32; 5],
    pub(super) underflows: [u32; 5],
    /// The rules.
    pub(super) rules: Vec<u8>,
}

/// A rule.
#[derive(Clone, Debug)]
struct Rule {
    at: usize,
    next: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Begins a chain of that name, or ends the table.
    Head(String),
    /// Goes on there, whose offset stands at the second place.
    Goes(usize, usize),
    Other,
}

/// What is left of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) blob: Blob,
    /// For each rule, in order, its number before.
    pub(super) kept: Vec<usize>,
}

impl Blob {
    /// Where in a rule the offset of its target is; that of the next rule follows.
    fn offsets(&self) -> usize {
        match self.family {
            Family::V4 => 88,
            Family::V6 => 140,
        }
    }

    /// The rules, in order; `None` if this is no table.
    fn parse(&self) -> Option<Vec<Rule>> {
        let (mut rules, mut at) = (Vec::new(), 0);
        let offsets = self.offsets();
        while at < self.rules.len() {
            let offset =
                |at: usize| Some(usize::from(u16::from_ne_bytes(*self.rules.get(at..)?.first_chunk()?)));
            let target = at + offset(at + offsets)?;
            let next = at + offset(at + offsets + 2)?;
            if target <= at || next <= target || next > self.rules.len() {
                return None;
            }
            let data = target + TARGET_DATA;
            let kind = match self.text(target + TARGET_NAME, TARGET_NAME_LEN)? {
                "" => {
                    let verdict = i32::from_ne_bytes(*self.rules.get(data..)?.first_chunk()?);
                    // Others are verdicts.
                    usize::try_from(verdict).map_or(Kind::Other, |to| Kind::Goes(to, data))
                }
                ERROR => Kind::Head(self.text(data, next - data)?.to_owned()),
                _ => Kind::Other,
            };
            rules.push(Rule { at, next, kind });
            at = next;
        }
        Some(rules)
    }

    fn text(&self, at: usize, len: usize) -> Option<&str> {
        let bytes = self.rules.get(at..at + len)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        str::from_utf8(&bytes[..end]).ok()
    }

    /// The chain of each rule. That of the last one, which only ends the table, means nothing.
    fn chains(&self, rules: &[Rule]) -> Vec<String> {
        let mut chain = String::new();
        let name = |rule: &Rule| {
            if let Kind::Head(name) = &rule.kind {
                return Some(name.clone());
            }
            let enters = |hook: &usize| {
                self.valid_hooks & 1 << hook != 0 && usize::try_from(self.hooks[*hook]) == Ok(rule.at)
            };
            (0..BUILT_IN.len()).find(enters).map(|hook| BUILT_IN[hook].to_owned())
        };
        rules
            .iter()
            .map(|rule| {
                if let Some(name) = name(rule) {
                    chain = name;
                }
                chain.clone()
            })
            .collect()
    }

    /// Its chains, and the rules that lead from one to another; `None` if this is no table.
    pub(super) fn table(&self) -> Option<Table> {
        let rules = self.parse()?;
        let (_, inside) = rules.split_last()?;
        let chains = self.chains(inside);
        let starts: BTreeMap<usize, &String> = inside
            .iter()
            .filter_map(|rule| match &rule.kind {
                Kind::Head(name) => Some((rule.next, name)),
                _ => None,
            })
            .collect();
        let jumps = inside.iter().zip(&chains).filter_map(|(rule, from)| match rule.kind {
            Kind::Goes(to, _) => {
                let to = (*starts.get(&to)?).clone();
                Some(Jump { from: from.clone(), to, rule: u64::try_from(rule.at).ok()? })
            }
            _ => None,
        });
        Some(Table { jumps: jumps.collect(), chains: chains.iter().cloned().collect() })
    }

    /// What is left without these chains and these rules; `None` if something that stays leads to what goes.
    pub(super) fn without(&self, chains: &BTreeSet<String>, jumps: &[Jump]) -> Option<Rest> {
        let all = self.parse()?;
        let (_, inside) = all.split_last()?;
        let names = self.chains(inside);
        let goes: BTreeSet<usize> = jumps.iter().filter_map(|jump| jump.rule.try_into().ok()).collect();
        let stays = |number: &usize| !chains.contains(&names[*number]) && !goes.contains(&inside[*number].at);
        let kept: Vec<usize> = (0..inside.len()).filter(stays).chain([inside.len()]).collect();
        let rules_kept = || kept.iter().map(|number| &all[*number]);
        let mut moved = BTreeMap::new();
        let mut rules = Vec::new();
        for rule in rules_kept() {
            moved.insert(rule.at, rules.len());
            rules.extend_from_slice(&self.rules[rule.at..rule.next]);
        }
        for rule in rules_kept() {
            let Kind::Goes(to, data) = rule.kind else { continue };
            // The next rule may have gone, and then it is the one after; a chain may not.
            let to = if to == rule.next { *moved.range(to..).next()?.1 } else { *moved.get(&to)? };
            let data = data - rule.at + moved[&rule.at];
            rules[data..data + 4].copy_from_slice(&i32::try_from(to).ok()?.to_ne_bytes());
        }
        let enter = |offsets: &[u32; 5]| -> Option<[u32; 5]> {
            let mut new = *offsets;
            for (hook, offset) in
                new.iter_mut().enumerate().filter(|(hook, _)| self.valid_hooks & 1 << hook != 0)
            {
                let old = usize::try_from(offsets[hook]).ok()?;
                *offset = u32::try_from(*moved.range(old..).next()?.1).ok()?;
            }
            Some(new)
        };
        let (hooks, underflows) = (enter(&self.hooks)?, enter(&self.underflows)?);
        let blob = Self { family: self.family, valid_hooks: self.valid_hooks, hooks, underflows, rules };
        Some(Rest { blob, kept })
    }

    /// How many rules there are.
    pub(super) fn count(&self) -> Option<u32> {
        u32::try_from(self.parse()?.len()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of IPv4 rules: a chain's name, or where a rule leads (`None`: a verdict).
    fn blob(rules: &[Result<&str, Option<usize>>]) -> Blob {
        const SIZE: usize = 112 + TARGET_DATA + 32;
        let mut bytes = Vec::new();
        for rule in rules {
            let mut entry = vec![0; SIZE];
            entry[88..90].copy_from_slice(&112_u16.to_ne_bytes());
            entry[90..92].copy_from_slice(&u16::try_from(SIZE).unwrap().to_ne_bytes());
            let data = 112 + TARGET_DATA;
            match rule {
                Ok(name) => {
                    entry[112 + TARGET_NAME..][..ERROR.len()].copy_from_slice(ERROR.as_bytes());
                    entry[data..data + name.len()].copy_from_slice(name.as_bytes());
                }
                Err(to) => {
                    let verdict = to.map_or(-2, |rule| i32::try_from(rule * SIZE).unwrap());
                    entry[data..data + 4].copy_from_slice(&verdict.to_ne_bytes());
                }
            }
            bytes.extend(entry);
        }
        let at = |rule: usize| u32::try_from(rule * SIZE).unwrap();
        // INPUT from rule 0, its policy is rule 2.
        Blob {
            family: Family::V4,
            valid_hooks: 1 << 1,
            hooks: [0; 5],
            underflows: [0, at(2), 0, 0, 0],
            rules: bytes,
        }
    }

    fn mixed() -> Blob {
        blob(&[
            Err(Some(4)), // INPUT: to KUBE-SERVICES,
            Err(Some(7)), // to MINE,
            Err(None),    // policy
            Ok("KUBE-SERVICES"),
            Err(Some(5)), // goes on,
            Err(None),    // returns
            Ok("MINE"),
            Err(Some(8)),
            Err(None),
            Ok("ERROR"),
        ])
    }

    #[test]
    fn chains_and_jumps_are_read() {
        let table = mixed().table().unwrap();
        assert_eq!(table.chains.iter().collect::<Vec<_>>(), ["INPUT", "KUBE-SERVICES", "MINE"]);
        let jumps: Vec<_> = table.jumps.iter().map(|jump| (jump.from.as_str(), jump.to.as_str())).collect();
        assert_eq!(jumps, [("INPUT", "KUBE-SERVICES"), ("INPUT", "MINE")]);
    }

    #[test]
    fn what_is_left_leads_where_it_has_led() {
        let all = mixed();
        let table = all.table().unwrap();
        let services = BTreeSet::from(["KUBE-SERVICES".to_owned()]);
        let rest = all.without(&services, &table.jumps[..1]).unwrap();
        let mut wanted = blob(&[Err(Some(3)), Err(None), Ok("MINE"), Err(Some(4)), Err(None), Ok("ERROR")]);
        wanted.underflows[1] /= 2;
        assert_eq!(rest.blob, wanted);
        assert_eq!(rest.kept, [1, 2, 6, 7, 8, 9]);
        assert_eq!(rest.blob.count(), Some(6));
    }

    #[test]
    fn nothing_is_left_of_a_table_whose_rules_lead_to_what_goes() {
        let services = BTreeSet::from(["KUBE-SERVICES".to_owned()]);
        assert_eq!(mixed().without(&services, &[]), None);
    }

    #[test]
    fn a_blob_that_is_no_table_is_none() {
        let mut cut = mixed();
        cut.rules.truncate(1000);
        assert_eq!(cut.table(), None);
        let mut loops = mixed();
        loops.rules[90..92].fill(0);
        assert_eq!(loops.table(), None);
    }
}
