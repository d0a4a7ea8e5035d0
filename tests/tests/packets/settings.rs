//! The clusters that every test runs in.

use anyhow::Result;
use kubeshunt_tests::{Cluster, Layout};

/// A layout, and what its CNI adds to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    /// Bridge, routed, nothing added.
    Bridge,
    /// A link per pod, routed; nodes are strict about the reverse path, as Calico has them.
    PointToPoint,
    /// Overlay with flannel's netfilter rules, conntrack, and forwarding for pods only.
    Overlay,
}

impl Setting {
    pub(crate) fn cluster(self) -> Result<Cluster> {
        let cluster = Cluster::new(match self {
            Self::Bridge => Layout::Bridge,
            Self::PointToPoint => Layout::PointToPoint,
            Self::Overlay => Layout::Overlay,
        })?;
        for node in &cluster.nodes {
            match self {
                Self::Bridge => {}
                Self::PointToPoint => node.filter_reverse_path()?,
                Self::Overlay => node.add_cni_rules()?,
            }
        }
        Ok(cluster)
    }
}

/// Makes a test per setting of each of these functions.
macro_rules! in_every_setting {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::settings::Setting;

            #[test]
            fn on_a_bridge() -> anyhow::Result<()> {
                super::$name(Setting::Bridge)
            }

            #[test]
            fn point_to_point() -> anyhow::Result<()> {
                super::$name(Setting::PointToPoint)
            }

            #[test]
            fn in_an_overlay_with_netfilter() -> anyhow::Result<()> {
                super::$name(Setting::Overlay)
            }
        }
    )+};
}
pub(crate) use in_every_setting;
