//! Services that have nobody to send to: clients outside are told at once.

use anyhow::Result;
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice};
use kubeshunt_tests::stage::{at4, at6};

use crate::answers::is_refused;
use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{doors, outside, serving};

in_every_setting!(
    without_endpoints_clients_outside_are_refused,
    without_endpoints_bypassing_pods_are_refused,
    a_backend_that_listens_on_nothing_refuses_under_the_name_that_was_asked,
);

fn without_endpoints_clients_outside_are_refused(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[], |service| service)?;
    let watch = Watch::over(&cluster)?;
    doors(&cluster).iter().try_for_each(|door| is_refused(outside(&cluster), door.to, door.name))?;
    watch.assert_clean();
    Ok(())
}

fn without_endpoints_bypassing_pods_are_refused(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[], |service| service)?;
    let pod = cluster.bypassing_pod(0, "strange")?;
    [at4(1), at6(1)].into_iter().try_for_each(|to| is_refused(&pod, to, "a cluster IP"))
}

/// The refusal is made by the backend's kernel: a reset, or an ICMP error that quotes a translated packet. A client
/// believes neither if it is not translated back.
fn a_backend_that_listens_on_nothing_refuses_under_the_name_that_was_asked(setting: Setting) -> Result<()> {
    for node in [0, 1] {
        let cluster = serving(setting, &[node], |service| service)?;
        let pod = &cluster.backends[0].0;
        let slices = [
            EndpointSlice::v4("web").endpoint(Endpoint::ready(pod.v4()).on_node(cluster.nodes[node].name())),
            EndpointSlice::v6("web").endpoint(Endpoint::ready(pod.v6()).on_node(cluster.nodes[node].name())),
        ]
        .map(|slice| slice.tcp(Some("tcp"), 9).udp(Some("udp"), 9));
        let service = kubeshunt_tests::cluster::everywhere("web", 1);
        cluster.folder.write("web", &[&service, &slices[0], &slices[1]])?;
        let watch = Watch::over(&cluster)?;
        for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
            // The change is there as soon as nobody answers any more.
            kubeshunt_tests::wait::until_true("the new endpoints count", crate::PATIENCE, || {
                let target = kubeshunt_tests::protocol::Target::tcp(door.to).timeout_ms(crate::SOON_MS);
                Ok(outside(&cluster).probe().ask(&target, 1, 1)?.successes() == 0)
            })?;
            is_refused(outside(&cluster), door.to, &format!("{}, backend on node {node}", door.name))?;
        }
        watch.assert_clean();
    }
    Ok(())
}
