//! A folder of manifests, with everything that can be wrong in one: what is wrong is reported, and what is
//! right goes on being served as if nothing had happened.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::manifests::{EndpointSlice, Port};
use kubeshunt_tests::protocol::{StreamSpec, Target};
use kubeshunt_tests::stage::{PATIENCE, Stage, TARGET_PORT, at4, at6, bare, service, vip4};
use kubeshunt_tests::wait;
use serde_json::Value;

/// The frontends of the good Service, which are to stay as they are.
fn good(stage: &Stage) -> Result<Vec<Value>> {
    let at = [(at4(1), "TCP"), (at4(1), "UDP"), (at6(1), "TCP"), (at6(1), "UDP")];
    let frontend = |(at, protocol)| stage.frontend(at, protocol)?.context("a good frontend is lost");
    at.into_iter().map(frontend).collect()
}

/// Lets connections to a good Service run while `mischief` happens, and wants each of them answered, and the
/// Service in the maps as it was, ids included.
fn undisturbed(stage: &Stage, mischief: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = good(stage)?;
    let spec = StreamSpec { target: Target::tcp(at4(1)), concurrency: 2, pause_us: 500, keep_records: false };
    let stream = stage.client.probe().stream(&spec)?;
    wait::until_true("connections run", PATIENCE, || Ok(stream.peek()?.asked.successes() > 20))?;
    mischief()?;
    let so_far = stream.peek()?.asked.successes();
    wait::until_true("connections still run", PATIENCE, || {
        Ok(stream.peek()?.asked.successes() > so_far + 20)
    })?;
    let report = stream.stop()?;
    assert_eq!(report.asked.failed(), 0, "connections failed meanwhile: {:?}", report.asked.failures);
    assert_eq!(good(stage)?, before, "the good Service is no longer what it was");
    Ok(())
}

/// Waits until that Service answers the client.
fn wait_served(stage: &Stage, to: SocketAddr) -> Result<()> {
    wait::until_true(&format!("{to} is served"), PATIENCE, || Ok(stage.frontend(to, "TCP")?.is_some()))
        .with_context(|| stage.kubeshunt().log_tail())?;
    let report = stage.ask(&Target::tcp(to), 5)?;
    assert_eq!(report.successes(), 5, "{to}: {:?}", report.errors);
    Ok(())
}

/// Writes a file with that text in the middle of two valid Services, and wants: the words in one line of the
/// log, both Services served, and the good one of another file undisturbed.
fn between_two_services(text: &str, words: &[&str]) -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let mut documents = Vec::new();
        for (name, number) in [("two", 2), ("three", 3)] {
            let [v4, v6] = stage.slices(name, &[0]);
            documents.push(format!("{}---\n{v4}---\n{v6}", service(name, number)));
        }
        stage.folder.write_text("mixed", &documents.join(&format!("---\n{text}\n---\n")))?;
        stage.wait_for_log(words)?;
        wait_served(&stage, at4(2))?;
        wait_served(&stage, at4(3))
    })
}

#[test]
fn malformed_yaml() -> Result<()> {
    between_two_services("kind: [\n  unclosed: {", &["WARN", "mixed.yaml", "document 4", "stays in force"])
}

#[test]
fn an_unknown_kind() -> Result<()> {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}";
    between_two_services(text, &["WARN", "mixed.yaml, document 4", "kind Deployment of apps/v1", "skipped"])
}

#[test]
fn an_object_without_kind() -> Result<()> {
    between_two_services("metadata: {name: web}", &["WARN", "mixed.yaml, document 4", "no kind"])
}

#[test]
fn an_invalid_cluster_ip() -> Result<()> {
    let text = service("bad", 9).to_string().replace("10.96.0.9", "10.96.0.999");
    between_two_services(
        &text,
        &["WARN", "Service default/bad", "spec.clusterIPs[0]", "10.96.0.999", "is not an IP address"],
    )
}

#[test]
fn an_invalid_endpoint_address() -> Result<()> {
    let slice = EndpointSlice::v4("bad").tcp(Some("tcp"), 8080).ready([vip4(7)]);
    let text = slice.to_string().replace("10.96.0.7", "ten.of.them");
    between_two_services(
        &text,
        &["WARN", "EndpointSlice default/bad-ipv4", "endpoints[0].addresses[0]", "is not an IP address"],
    )
}

#[test]
fn port_zero() -> Result<()> {
    let text = bare("bad", 9).port(Port::tcp(0)).to_string();
    between_two_services(
        &text,
        &["WARN", "Service default/bad", "spec.ports[0].port", "0 is not a port number"],
    )
}

#[test]
fn a_huge_number() -> Result<()> {
    let text = bare("bad", 9).port(Port::tcp(4242)).to_string().replace("4242", "99999999999999999999999");
    // Beyond 64 bits a number is a floating-point one to any JSON reader, and shown as such.
    between_two_services(
        &text,
        &["WARN", "Service default/bad", "spec.ports[0].port", "1e+23", "mixed.yaml, document 4"],
    )
}

#[test]
fn a_number_beyond_ports() -> Result<()> {
    let text = bare("bad", 9).port(Port::tcp(4242)).to_string().replace("port: 4242", "port: 70000");
    between_two_services(
        &text,
        &["WARN", "Service default/bad", "spec.ports[0].port", "70000 is not a port number"],
    )
}

#[test]
fn a_bad_object_beside_a_good_version_of_itself_keeps_the_good_one() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let [v4, v6] = stage.slices("web", &[0]);
        let broken = service("web", 1).to_string().replace("ports:\n", "ports: seven\n  was:\n");
        stage.folder.write_text("web", &format!("{broken}---\n{v4}---\n{v6}"))?;
        stage.wait_for_log(&["WARN", "Service default/web", "spec.ports", "last good version"]).map(drop)
    })
}

#[test]
fn a_service_with_three_hundred_slices() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let mut text = service("many", 2).to_string();
        for slice in 0..300_u16 {
            let [high, low] = slice.to_be_bytes();
            let address = std::net::Ipv4Addr::new(10, 250, high, low);
            let slice =
                EndpointSlice::v4("many").named(&format!("many-{slice}")).tcp(Some("tcp"), TARGET_PORT);
            text.push_str(&format!("---\n{}", slice.ready([address])));
        }
        stage.folder.write_text("many", &text)?;
        wait::until_true("all 300 endpoints are there", PATIENCE, || {
            Ok(stage.endpoints(at4(2), "TCP")?.is_some_and(|endpoints| endpoints.len() == 300))
        })
    })
}

#[test]
fn a_service_without_ports() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        stage.folder.write("none", &[&bare("none", 2)])?;
        stage.publish(&service("three", 3), "three", &[0])?;
        wait_served(&stage, at4(3))
    })?;
    let services = stage.services()?;
    let frontends = services["frontends"].as_array().context("a list")?;
    let of_none = frontends.iter().filter(|frontend| frontend["address"] == vip4(2).to_string()).count();
    assert_eq!(of_none, 0, "no port, no frontend: {services}");
    Ok(())
}

#[test]
fn a_slice_whose_service_comes_later() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let [v4, v6] = stage.slices("late", &[0]);
        stage.folder.write("a-slices", &[&v4, &v6])?;
        stage.publish(&service("three", 3), "three", &[0])?;
        wait_served(&stage, at4(3))?;
        assert_eq!(stage.frontend(at4(2), "TCP")?, None, "there is no such Service yet");
        stage.folder.write("z-service", &[&service("late", 2)])?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn a_file_whose_writer_died_half_way() -> Result<()> {
    let stage = Stage::serving(1)?;
    let [v4, v6] = stage.slices("web", &[0]);
    let text = format!("{}---\n{v4}---\n{v6}", service("web", 1));
    undisturbed(&stage, || {
        // In the middle of a list, which is then no YAML: its writer has died there.
        let middle = text.find("\"IPv6\"]").context("the text has changed")?;
        stage.folder.write_torn("web", &text, middle)?;
        stage.wait_for_log(&["WARN", "web.yaml", "stays in force"])?;
        // And whole again, at last with something new in it.
        let [more4, _] = stage.slices("two", &[0]);
        stage.folder.write_text("web", &format!("{text}---\n{}---\n{more4}", service("two", 2)))?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn a_file_that_is_still_being_written_is_not_read() -> Result<()> {
    let stage = Stage::serving(1)?;
    let text = fs::read_to_string(stage.folder.path().join("web.yaml"))?;
    undisturbed(&stage, || {
        // Cut after any line it is valid YAML, only with less in it.
        let mut file = fs::File::create(stage.folder.path().join("web.yaml"))?;
        for line in text.split_inclusive('\n') {
            file.write_all(line.as_bytes())?;
            let report = stage.ask(&Target::tcp(at4(1)), 1)?;
            assert_eq!(report.successes(), 1, "after {line:?}: {:?}", report.errors);
        }
        drop(file);
        stage.publish(&service("two", 2), "two", &[0])?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn an_empty_file_means_nothing_and_takes_nothing_of_others() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        stage.folder.write_text("empty", "")?;
        stage.publish(&service("two", 2), "two", &[0])?;
        wait_served(&stage, at4(2))?;
        let log = fs::read_to_string(stage.kubeshunt().log())?;
        assert!(!log.contains("empty.yaml"), "nothing is wrong with an empty file: {log}");
        Ok(())
    })
}

#[test]
fn binary_garbage() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let garbage: Vec<u8> = (0..4096_u32).map(|index| (index * 167 % 251) as u8).collect();
        let file = stage.folder.path().join("garbage.yaml");
        fs::write(file, [b"\xff\xfe\x00\x80".as_slice(), &garbage].concat())?;
        stage.wait_for_log(&["WARN", "manifest garbage.yaml", "UTF-8", "stays in force"])?;
        stage.publish(&service("two", 2), "two", &[0])?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn garbage_in_place_of_a_served_file_changes_nothing() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let file = stage.folder.path().join("web.yaml");
        fs::write(file, b"\xff\xfe\x00\x80")?;
        stage.wait_for_log(&["WARN", "manifest web.yaml", "stays in force"]).map(drop)
    })
}

#[test]
fn one_object_in_two_files_counts_from_the_first() -> Result<()> {
    let stage = Stage::serving(2)?;
    undisturbed(&stage, || {
        // "web" is before "xeb". The other definition would take its endpoints away.
        let [v4, v6] = stage.slices("web", &[1]);
        stage.folder.write("xeb", &[&service("web", 1), &v4, &v6])?;
        stage
            .wait_for_log(&["WARN", "Service default/web", "defined in web.yaml", "again in xeb.yaml"])
            .map(drop)
    })?;
    // And when the first is gone, the other one counts.
    stage.folder.remove("web")?;
    stage.wait_for_backends(1, &[1])
}

#[test]
fn a_file_renamed_into_place() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let elsewhere = stage.bed.folder().join("two.yaml");
        let [v4, v6] = stage.slices("two", &[0]);
        fs::write(&elsewhere, format!("{}---\n{v4}---\n{v6}", service("two", 2)))?;
        fs::rename(&elsewhere, stage.folder.path().join("two.yaml"))?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn a_file_moved_away_and_back_at_once_is_not_missed() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let (file, aside) = (stage.folder.path().join("web.yaml"), stage.bed.folder().join("aside"));
        for _ in 0..20 {
            fs::rename(&file, &aside)?;
            fs::rename(&aside, &file)?;
        }
        stage.publish(&service("two", 2), "two", &[0])?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn a_folder_replaced_by_a_rename() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let (folder, fresh) = (stage.folder.path(), stage.bed.folder().join("fresh"));
        fs::create_dir(&fresh)?;
        fs::copy(folder.join("web.yaml"), fresh.join("web.yaml"))?;
        let [v4, v6] = stage.slices("two", &[0]);
        fs::write(fresh.join("two.yaml"), format!("{}---\n{v4}---\n{v6}", service("two", 2)))?;
        fs::rename(folder, stage.bed.folder().join("stale"))?;
        fs::rename(&fresh, folder)?;
        wait_served(&stage, at4(2))?;
        // The new folder is the one that is followed.
        stage.publish(&service("three", 3), "three", &[0])?;
        wait_served(&stage, at4(3))
    })
}

#[test]
fn a_missing_folder_is_reported_and_changes_nothing_until_it_is_back() -> Result<()> {
    let stage = Stage::serving(1)?;
    undisturbed(&stage, || {
        let (folder, aside) = (stage.folder.path(), stage.bed.folder().join("aside"));
        fs::rename(folder, &aside)?;
        stage.wait_for_log(&["WARN", "the folder cannot be read", "stays in force"])?;
        fs::rename(&aside, folder)?;
        stage.publish(&service("two", 2), "two", &[0])?;
        wait_served(&stage, at4(2))
    })
}

#[test]
fn a_bad_file_at_the_start_keeps_nothing_else_from_being_served() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.folder.write_text("bad", "kind: [")?;
    stage.start()?;
    stage.wait_for_log(&["WARN", "manifest bad.yaml"])?;
    wait_served(&stage, at4(1))
}

#[test]
fn a_file_that_broke_while_nobody_looked_loses_nothing() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.publish(&service("two", 2), "two", &[0])?;
    stage.publish(&service("three", 3), "three", &[0])?;
    wait_served(&stage, at4(2))?;
    wait_served(&stage, at4(3))?;
    stage.kubeshunt_mut().kill9()?;
    stage.folder.write_text("two", "kind: [")?;
    stage.folder.remove("three")?;
    stage.kubeshunt_mut().restart()?;
    stage.wait_for_log(&["WARN", "what an earlier process served"])?;
    // Two may still be meant, and so may three: the broken file could be about any Service.
    for number in [1, 2, 3] {
        wait_served(&stage, at4(number))?;
    }
    stage.publish(&service("two", 2), "two", &[0])?;
    wait::until_true("what is really gone goes", PATIENCE, || Ok(stage.frontend(at4(3), "TCP")?.is_none()))?;
    wait_served(&stage, at4(1))?;
    wait_served(&stage, at4(2))
}

#[test]
fn a_removed_file_takes_only_its_own_services_along() -> Result<()> {
    let stage = Stage::serving(1)?;
    stage.publish(&service("two", 2), "two", &[0])?;
    wait_served(&stage, at4(2))?;
    undisturbed(&stage, || {
        stage.folder.remove("two")?;
        wait::until_true("the other Service is gone", PATIENCE, || {
            Ok(stage.frontend(at4(2), "TCP")?.is_none())
        })
    })
}
