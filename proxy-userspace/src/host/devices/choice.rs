//! Which devices the user has chosen, by name.

use std::{convert::Infallible, str::FromStr};

/// Names with `*` for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// All names that begin so; a `*` in there stands for itself nowhere, because no device has one in its name.
    #[must_use]
    pub fn beginning(prefix: &str) -> Self {
        Self(vec![format!("{prefix}*")])
    }

    /// Whether a name is among them.
    #[must_use]
    pub fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

impl FromStr for Names {
    type Err = Infallible;

    /// Separated by commas; `none` is no name at all.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "none");
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

/// Whether `name` is what `pattern` says, `*` standing for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    loop {
        if matches(rest, name) {
            return true;
        }
        let mut characters = name.chars();
        if characters.next().is_none() {
            return false;
        }
        name = characters.as_str();
    }
}

/// Devices to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPods {
    /// Those of these names, and nothing else.
    Named(Names),
    /// The bridge of this name and its ports.
    Bridge(String),
}

impl ToPods {
    /// Whether a device is among them, by its name and that of the device it is a port of.
    #[must_use]
    pub fn contain(&self, name: &str, master: Option<&str>) -> bool {
        match self {
            Self::Named(names) => names.contain(name),
            Self::Bridge(bridge) => name == bridge || master == Some(bridge),
        }
    }
}

/// What the user has chosen; nothing means that the devices themselves tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Exactly these lead outside.
    pub outside: Option<Names>,
    /// Exactly behind these are pods.
    pub pods: Option<ToPods>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match() {
        for (names, name, wanted) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("eth*", "eth12", true),
            ("eth*", "veth1", false),
            ("*", "anything", true),
            ("en*s*", "enp0s3", true),
            ("en*s*", "enp03", false),
            ("*.100", "bond0.100", true),
            ("*.100", "bond0.1001", false),
            ("eth0, ens*", "ens5", true),
            ("none", "none", false),
            ("", "", false),
        ] {
            let parsed: Names = names.parse().unwrap();
            assert_eq!(parsed.contain(name), wanted, "{names:?} and {name:?}");
        }
    }
}
