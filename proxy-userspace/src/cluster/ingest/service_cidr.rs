//! From a ServiceCIDR object to the ranges that cluster IPs are taken from.

use ipnet::IpNet;

use super::{Rejects, address};
use crate::cluster::api;
use crate::cluster::change::{Kind, ObjectRef};
use crate::cluster::reject::{Problem, Reject};

/// Reads a ServiceCIDR. One that is being deleted counts as long as it is there: it goes when no cluster IP is left.
#[must_use]
pub fn service_cidr(object: &api::ServiceCidr) -> (Vec<IpNet>, Vec<Reject>) {
    let mut rejects = Rejects::new(ObjectRef::new(Kind::ServiceCidr, "", &object.metadata.name));
    let mut cidrs = Vec::new();
    for (index, text) in object.spec.cidrs.iter().enumerate() {
        let field = || format!("spec.cidrs[{index}]");
        match rejects.take(address::range(text), field) {
            // Nothing would leave the node any more.
            Some(net) if net.prefix_len() == 0 => rejects.push(field(), Problem::EverythingIsAService(net)),
            found => cidrs.extend(found),
        }
    }
    (cidrs, rejects.list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_are_read_and_a_family_as_a_whole_is_none() {
        let object: api::ServiceCidr = serde_json::from_value(json!({
            "metadata": {"name": "more"},
            "spec": {"cidrs": ["10.112.0.0/12", "0.0.0.0/0", "fd00:10:97::/112", "10.0.0.0"]}
        }))
        .expect("a ServiceCIDR");
        let (cidrs, rejects) = service_cidr(&object);
        let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.112.0.0/12", "fd00:10:97::/112"]);
        let rejects: Vec<String> = rejects.iter().map(ToString::to_string).collect();
        assert_eq!(
            rejects,
            [
                "ServiceCIDR more: spec.cidrs[1]: 0.0.0.0/0 holds every address there is; it is left out",
                "ServiceCIDR more: spec.cidrs[3]: \"10.0.0.0\" is not a range of addresses, as in 192.0.2.0/24; \
                 it is left out"
            ]
        );
    }
}
