//! Kubernetes' feature gates, as kube-proxy 1.36 knows them: those of all its components. One that is unknown is an error
//! there, and so it is here: a switch that was mistyped should not be taken for set.
//!
//! `gates.txt` is what `DefaultMutableFeatureGate.GetAll()` tells in a program that imports what kube-proxy imports:
//! name, default, and `locked` if it can be set to nothing else.

use std::collections::BTreeMap;

const TABLE: &str = include_str!("gates.txt");

/// Those that kube-proxy itself asks, and that change nothing here. The others belong to other components: setting one for
/// the whole cluster is usual, and nothing to speak of.
const ASKED_IN_VAIN: [(&str, &str); 7] = [
    ("ComponentFlagz", "flags are in the log"),
    ("ComponentStatusz", "`kubeshunt check` tells about a node"),
    ("ContextualLogging", "the log has one form"),
    ("LoggingAlphaOptions", "the log has one form"),
    ("LoggingBetaOptions", "the log has one form"),
    ("NativeHistograms", "histograms have buckets"),
    ("MultiCIDRServiceAllocator", "ServiceCIDR objects are always followed"),
];

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    name: &'static str,
    default: bool,
    is_locked: bool,
}

fn known() -> impl Iterator<Item = Gate> {
    TABLE.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, default) = (words.next()?, words.next()? == "true");
        Some(Gate { name, default, is_locked: words.next() == Some("locked") })
    })
}

/// What is wrong with them, one sentence each.
#[must_use]
pub fn misfits(gates: &BTreeMap<String, bool>) -> Vec<(String, String)> {
    let problem = |name: &str, is_on: bool| match known().find(|gate| gate.name == name) {
        None => {
            Some("no component of Kubernetes 1.36 knows this feature gate: remove or correct it".to_owned())
        }
        Some(gate) if gate.is_locked && gate.default != is_on => {
            Some(format!("this feature gate is locked to {}: remove it", gate.default))
        }
        Some(_) => None,
    };
    gates.iter().filter_map(|(name, is_on)| Some((name.clone(), problem(name, *is_on)?))).collect()
}

/// Whether a feature is on.
#[must_use]
pub fn is_on(gates: &BTreeMap<String, bool>, name: &str) -> bool {
    gates
        .get(name)
        .copied()
        .or_else(|| known().find(|gate| gate.name == name).map(|gate| gate.default))
        .unwrap_or(false)
}

/// Those that are set to something else than their default, that kube-proxy would heed, and that change nothing here:
/// name and reason.
pub fn without_effect(gates: &BTreeMap<String, bool>) -> impl Iterator<Item = (&'static str, &'static str)> {
    ASKED_IN_VAIN.into_iter().filter(|(name, _)| {
        known().any(|gate| {
            gate.name == *name && gates.get(gate.name).is_some_and(|is_on| *is_on != gate.default)
        })
    })
}

/// Reads `true` and `false` in all the ways Go does (`strconv.ParseBool`).
///
/// # Errors
/// When it is neither.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(gates: &[(&str, bool)]) -> BTreeMap<String, bool> {
        gates.iter().map(|(name, is_on)| ((*name).to_owned(), *is_on)).collect()
    }

    #[test]
    fn the_table_holds_what_kube_proxy_asks() {
        assert!(known().count() > 200);
        for (name, _) in ASKED_IN_VAIN {
            assert!(known().any(|gate| gate.name == name), "{name}");
        }
        assert!(is_on(&set(&[]), "AllowServiceExternalIPs"));
        assert!(!is_on(&set(&[("AllowServiceExternalIPs", false)]), "AllowServiceExternalIPs"));
        assert!(!is_on(&set(&[]), "Magic"));
    }

    #[test]
    fn gates_that_nobody_knows_and_locked_ones_are_refused() {
        assert_eq!(misfits(&set(&[("AllAlpha", true), ("AllBeta", false), ("NativeHistograms", true)])), []);
        assert_eq!(misfits(&set(&[("PreferSameTrafficDistribution", true)])), [], "as it is locked");
        let wrong = misfits(&set(&[("Magic", true), ("PreferSameTrafficDistribution", false)]));
        let names: Vec<&str> = wrong.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Magic", "PreferSameTrafficDistribution"]);
    }

    #[test]
    fn only_what_kube_proxy_would_heed_is_spoken_of() {
        let gates = set(&[("NativeHistograms", true), ("ComponentFlagz", true), ("AllAlpha", true)]);
        let names: Vec<&str> = without_effect(&gates).map(|(name, _)| name).collect();
        assert_eq!(names, ["NativeHistograms"]);
    }

    #[test]
    fn booleans_are_gos() {
        for (text, wanted) in [("true", Ok(true)), ("T", Ok(true)), ("0", Ok(false)), ("False", Ok(false))] {
            assert_eq!(boolean(text), wanted);
        }
        assert!(boolean("yes").is_err() && boolean("").is_err());
    }
}
