//! Which pods' sockets are left alone, because their packets are to be translated instead: a sandbox with a network
//! stack of its own is seen by no hook anyway, but a mesh in a pod may want to see the Service's address.
//!
//! Pure.

use std::{collections::BTreeSet, str::FromStr};

use crate::cluster::model::Pod;

/// A kind of pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Those with the annotation.
    Annotated,
    /// Those of this RuntimeClass.
    RuntimeClass(String),
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None if text == "annotated" => Ok(Self::Annotated),
            Some(("runtimeclass", name)) if !name.is_empty() => Ok(Self::RuntimeClass(name.to_owned())),
            _ => Err(format!("{text:?} is neither `annotated` nor a RuntimeClass as in runtimeclass/gvisor")),
        }
    }
}

/// The uids of those pods that are of one of these kinds.
#[must_use]
pub fn uids<'a>(pods: impl Iterator<Item = &'a Pod>, kinds: &[Kind]) -> BTreeSet<Box<str>> {
    let is_of = |pod: &Pod, kind: &Kind| match kind {
        Kind::Annotated => pod.is_for_packets,
        Kind::RuntimeClass(name) => pod.runtime_class.as_deref() == Some(name),
    };
    pods.filter(|pod| kinds.iter().any(|kind| is_of(pod, kind))).map(|pod| pod.uid.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_chosen_by_kind() {
        let pod = |uid: &str, class: Option<&str>, is_for_packets| Pod {
            uid: uid.into(),
            runtime_class: class.map(Into::into),
            is_for_packets,
        };
        let pods =
            [pod("plain", None, false), pod("marked", None, true), pod("boxed", Some("gvisor"), false)];
        for (words, wanted) in [
            (&[][..], &[][..]),
            (&["annotated"], &["marked"]),
            (&["runtimeclass/gvisor"], &["boxed"]),
            (&["runtimeclass/kata"], &[]),
            (&["annotated", "runtimeclass/gvisor"], &["boxed", "marked"]),
        ] {
            let kinds: Vec<Kind> = words.iter().map(|word| word.parse().expect("a kind")).collect();
            let found: Vec<_> = uids(pods.iter(), &kinds).into_iter().map(String::from).collect();
            assert_eq!(found, wanted, "{words:?}");
        }
        for word in ["", "gvisor", "runtimeclass/", "RuntimeClass/gvisor"] {
            assert!(word.parse::<Kind>().is_err(), "{word}");
        }
    }
}
