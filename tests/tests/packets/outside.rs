//! Clients outside: which backends they reach, what these see of them, and who answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use kubeshunt_tests::manifests::Service;

use crate::answers::{is_met_with_silence, reaches};
use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{doors, outside, serving};

in_every_setting!(
    local_backends_see_the_clients_own_address,
    remote_backends_see_an_address_of_the_node_that_was_asked,
    all_backends_are_reached_wherever_they_are,
    policy_local_reaches_local_backends_only_and_keeps_the_clients_address,
    policy_local_is_silent_on_a_node_without_backends,
);

fn own(address: IpAddr) -> BTreeSet<IpAddr> {
    BTreeSet::from([address])
}

fn local_backends_see_the_clients_own_address(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0], |service| service)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        reaches(client, door.to, &["backend-0"], &own(client.ip(door.to.ip())), door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn remote_backends_see_an_address_of_the_node_that_was_asked(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    let (watch, client, node) = (Watch::over(&cluster)?, outside(&cluster), cluster.addresses(0)?);
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        reaches(client, door.to, &["backend-0"], &node, door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn all_backends_are_reached_wherever_they_are(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1, 1], |service| service)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster) {
        let mut seen = cluster.addresses(door.node)?;
        seen.insert(client.ip(door.to.ip()));
        reaches(client, door.to, &["backend-0", "backend-1", "backend-2"], &seen, door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn policy_local_reaches_local_backends_only_and_keeps_the_clients_address(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1], Service::external_local)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster) {
        let local = ["backend-0", "backend-1"][door.node];
        reaches(client, door.to, &[local], &own(client.ip(door.to.ip())), door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn policy_local_is_silent_on_a_node_without_backends(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], Service::external_local)?;
    for door in doors(&cluster) {
        if door.node == 0 {
            is_met_with_silence(outside(&cluster), door.to, door.name)?;
        } else {
            let own = own(outside(&cluster).ip(door.to.ip()));
            reaches(outside(&cluster), door.to, &["backend-0"], &own, door.name)?;
        }
    }
    Ok(())
}
