//! What maps say, and what they should say: in the plainest way, from objects or from the maps' own words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_common::layout::{Sets, Traits};
use proxy_userspace::plan::simulated::Maps;

use crate::store::Moment;

/// By address and port, the port being 0 for all others: the Service's stamp, and the endpoints.
pub(crate) type View = BTreeMap<(IpAddr, u16), (u32, BTreeSet<SocketAddr>)>;

/// With the Services of one moment and the slices of another: the two are followed each for itself.
pub(crate) fn expected(services: &Moment, slices: &Moment) -> View {
    let mut view = View::new();
    for (id, service) in &services.services {
        let vip = IpAddr::from([10, 96, 0, service.vip]);
        let own = || slices.slices.values().filter(|slice| slice.of == *id);
        let at = |port: u16| -> BTreeSet<SocketAddr> {
            own().flat_map(|slice| slice.addresses()).map(|ip| SocketAddr::from((ip, port))).collect()
        };
        let stamp = u32::from(service.stamp);
        view.insert((vip, 80), (stamp, at(8080)));
        view.insert((vip, 0), (stamp, at(8080)));
        if service.has_two_ports {
            view.insert((vip, 81), (stamp, at(9090)));
        }
    }
    view
}

/// Whether a view is of these Services, whatever stands behind them.
pub(crate) fn has_services(view: &View, services: &Moment) -> bool {
    let expected = expected(services, &Moment::default());
    let stamps = |view: &View| view.iter().map(|(key, (stamp, _))| (*key, *stamp)).collect::<Vec<_>>();
    stamps(view) == stamps(&expected)
}

pub(crate) fn of_maps(maps: &Maps) -> View {
    let frontends = maps.frontends.iter();
    frontends
        .map(|(key, frontend)| {
            let service = maps.services[frontend.service as usize];
            let range = Sets(service.sets).cluster();
            let slots = range.start as usize..(range.start + range.len) as usize;
            let own = maps.backends[slots].iter();
            let backends: BTreeSet<_> =
                own.map(|backend| SocketAddr::new(backend.address.to_ip(), backend.port.number())).collect();
            assert_eq!(backends.len(), range.len as usize, "an endpoint twice");
            let stamp = Traits(service.traits).affinity_seconds();
            ((key.address.to_ip(), key.port.number()), (stamp, backends))
        })
        .collect()
}
