//! Pure stages do no I/O: they compile and are tested without root, a runtime, BPF, a client or a
//! clock. Time is an argument.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use syn::visit::Visit;

use super::{tree, verdict};
use crate::workspace;

/// The pure stages of the controller, in the order of the pipeline: folders, or files, of its `src`.
const PURE: &[&str] = &[
    "configuration",
    "cluster",
    "policy",
    "tables",
    "plan",
    "audit",
    "flows",
    "host/devices/class",
    "host/devices/choice",
    "host/leftovers/blob",
    "host/leftovers/chains",
];

/// What a pure stage may not name.
const FORBIDDEN: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "aya",
    "kube::Api",
    "kube::Client",
    "kube::Config",
    "kube::client",
    "kube::runtime",
    "libc",
    "nix",
    "notify",
    "rtnetlink",
    "tokio",
];

/// Looks through every pure stage.
pub(super) fn check() -> Result<()> {
    let source = workspace::root().join("proxy-userspace/src");
    let mut complaints = Vec::new();
    for stage in PURE {
        let folder = source.join(stage);
        let file = source.join(format!("{stage}.rs"));
        let files = match (folder.is_dir(), file.is_file()) {
            (true, _) => tree::rust_files(&folder)?,
            (false, true) => vec![file],
            (false, false) => {
                complaints.push(format!("proxy-userspace/src/{stage} is listed as pure but is not there"));
                continue;
            }
        };
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let shown = file.strip_prefix(workspace::root()).unwrap_or_else(|_| Path::new(stage));
            let named = impurities(&text).with_context(|| format!("cannot parse {}", shown.display()))?;
            complaints.extend(named.into_iter().map(|name| format!("{}: {name}", shown.display())));
        }
    }
    verdict(&complaints)
}

/// The forbidden names in a file, its tests aside.
fn impurities(text: &str) -> Result<Vec<String>> {
    let mut names = Names::default();
    names.visit_file(&syn::parse_file(text)?);
    names.0.retain(|name| is_forbidden(name));
    names.0.sort();
    names.0.dedup();
    Ok(names.0)
}

fn is_forbidden(name: &str) -> bool {
    let below = |path: &str, top: &str| {
        path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with("::"))
    };
    match name.strip_suffix("::*") {
        Some(folder) => {
            FORBIDDEN.iter().any(|forbidden| below(forbidden, folder) || below(folder, forbidden))
        }
        None => FORBIDDEN.iter().any(|forbidden| below(name, forbidden)),
    }
}

/// Every path that a file names, `use` trees spread out.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn spread(&mut self, tree: &syn::UseTree, prefix: &str) {
        match tree {
            syn::UseTree::Path(path) => self.spread(&path.tree, &format!("{prefix}{}::", path.ident)),
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.0.push(prefix.trim_end_matches(':').to_owned());
            }
            syn::UseTree::Name(name) => self.0.push(format!("{prefix}{}", name.ident)),
            syn::UseTree::Rename(name) => self.0.push(format!("{prefix}{}", name.ident)),
            syn::UseTree::Glob(_) => self.0.push(format!("{prefix}*")),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.spread(item, prefix)),
        }
    }
}

fn only_in_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !only_in_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !only_in_tests(&item.attrs) {
            self.spread(&item.tree, "");
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.0.push(segments.join("::"));
        syn::visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::impurities;

    #[test]
    fn imports_and_paths_are_found() {
        let text = "use std::{collections::BTreeMap, fs as files, net::{IpAddr, UdpSocket}};
            use std::time::*;
            fn a() { let t = std::time::Instant::now(); tokio::spawn(async {}); }";
        let found = impurities(text).unwrap();
        assert_eq!(
            found,
            ["std::fs", "std::net::UdpSocket", "std::time::*", "std::time::Instant::now", "tokio::spawn"]
        );
    }

    #[test]
    fn pure_code_and_tests_are_left_alone() {
        let text = "use std::net::{IpAddr, SocketAddr}; use std::time::Duration; use kubeless::a;
            #[cfg(test)] mod tests { use std::fs; fn a() { std::env::var(\"A\"); } }";
        assert!(impurities(text).unwrap().is_empty());
    }
}
