//! Real folders, real inotify. Conditions are awaited, never guessed by sleeping.

use std::fs;
use std::path::Path;
use std::time::Instant;

use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::cluster::Cluster;
use crate::cluster::model::ServiceName;
use crate::cluster::reject::Reject;

/// A running source and the cluster made of what it sent.
struct Running {
    changes: Receiver<Change>,
    cluster: Cluster,
    rejects: Vec<Reject>,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let (sender, changes) = mpsc::channel(4);
        tokio::spawn(Manifests::new(folder).run(sender));
        Self { changes, cluster: Cluster::new("n"), rejects: Vec::new() }
    }

    /// `name=ip` of every Service.
    fn services(&self) -> Vec<String> {
        let one = |name: &ServiceName| {
            let ips = &self.cluster.service(name).expect("named").cluster_ips;
            format!("{}={}", name.name, ips[0])
        };
        self.cluster.service_names().map(one).collect()
    }

    /// Takes in changes until the condition holds.
    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            let change = tokio::time::timeout_at(deadline, self.changes.recv()).await;
            let Ok(Some(change)) = change else {
                panic!("{what}: never happened; services {:?}, rejects {:?}", self.services(), self.rejects)
            };
            let rejects = self.cluster.apply(change);
            self.rejects.extend(rejects);
        }
    }

    async fn until_services(&mut self, expected: &[&str]) {
        self.until(&format!("{expected:?}"), |running| {
            running.cluster.is_complete() && running.services() == expected
        })
        .await;
    }

    async fn until_reject(&mut self, words: &str) {
        self.until(words, |running| running.rejects.iter().any(|reject| reject.to_string().contains(words)))
            .await;
        self.rejects.clear();
    }
}

fn service(name: &str, ip: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}}}\n")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("writable");
}

#[tokio::test]
async fn a_missing_folder_is_an_error_that_helps() {
    let (sender, _changes) = mpsc::channel(4);
    let error = Manifests::new("/nonexistent/manifests").run(sender).await.expect_err("not there");
    assert!(
        error.to_string().starts_with("cannot read the manifests folder /nonexistent/manifests: "),
        "{error}"
    );
}

#[tokio::test]
async fn an_empty_folder_is_complete() {
    let folder = folder();
    Running::start(folder.path()).until_services(&[]).await;
}

#[tokio::test]
async fn ends_when_nobody_listens() {
    let folder = folder();
    let (sender, changes) = mpsc::channel(8);
    let source = tokio::spawn(Manifests::new(folder.path()).run(sender));
    drop(changes);
    let result =
        tokio::time::timeout(Duration::from_secs(10), source).await.expect("ends").expect("no panic");
    assert!(result.is_ok());
}

#[tokio::test]
async fn files_come_change_and_go() {
    let folder = folder();
    write(folder.path(), "a.yaml", &service("web", "10.0.0.1"));
    write(folder.path(), "ignored.txt", "{");
    write(folder.path(), ".hidden.yaml", "{");
    fs::create_dir(folder.path().join("sub.yaml")).expect("writable");
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;

    write(folder.path(), "b.yml", &service("api", "10.0.0.2"));
    running.until_services(&["api=10.0.0.2", "web=10.0.0.1"]).await;
    write(folder.path(), "a.yaml", &service("web", "10.0.0.9"));
    running.until_services(&["api=10.0.0.2", "web=10.0.0.9"]).await;
    write(folder.path(), "new.tmp", &service("web", "10.0.0.8"));
    fs::rename(folder.path().join("new.tmp"), folder.path().join("a.yaml")).expect("writable");
    running.until_services(&["api=10.0.0.2", "web=10.0.0.8"]).await;
    fs::remove_file(folder.path().join("b.yml")).expect("writable");
    running.until_services(&["web=10.0.0.8"]).await;
    assert_eq!(running.rejects, vec![]);
}

#[tokio::test]
async fn a_change_is_quick() {
    let folder = folder();
    write(folder.path(), "a.yaml", &service("web", "10.0.0.1"));
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;
    let mut best = Duration::MAX;
    for turn in 2..20 {
        let start = Instant::now();
        let ip = format!("10.0.0.{turn}");
        write(folder.path(), "a.yaml", &service("web", &ip));
        running.until_services(&[&format!("web={ip}")]).await;
        best = best.min(start.elapsed());
    }
    // The best of many: the machine may be busy, but a debounce would show in every one of them.
    assert!(best < Duration::from_millis(20), "{best:?}");
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_said() {
    let folder = folder();
    write(folder.path(), "a.yaml", &(service("web", "10.0.0.1") + &service("api", "10.0.0.2")));
    let mut running = Running::start(folder.path());
    running.until_services(&["api=10.0.0.2", "web=10.0.0.1"]).await;
    write(folder.path(), "a.yaml", &(service("web", "10.0.0.5") + "---\nkind: [\n"));
    running.until_services(&["api=10.0.0.2", "web=10.0.0.5"]).await;
    running.until_reject("manifest a.yaml: document 2: ").await;
    fs::write(folder.path().join("a.yaml"), b"\xff\xfe\x00").expect("writable");
    running.until_reject("manifest a.yaml: cannot be read: ").await;
    assert_eq!(running.services(), ["api=10.0.0.2", "web=10.0.0.5"]);
    write(folder.path(), "a.yaml", &service("web", "10.0.0.6"));
    running.until_services(&["web=10.0.0.6"]).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_slowly_is_never_missing() {
    let folder = folder();
    let path = folder.path().join("a.yaml");
    write(folder.path(), "a.yaml", &service("web", "10.0.0.1"));
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;
    for turn in 2..6 {
        // As git does it: away with the old one, then write the new one.
        fs::remove_file(&path).expect("writable");
        let mut file = fs::File::create(&path).expect("writable");
        tokio::task::yield_now().await;
        std::io::Write::write_all(&mut file, service("web", &format!("10.0.0.{turn}")).as_bytes())
            .expect("writable");
        drop(file);
        let expected = format!("web=10.0.0.{turn}");
        running
            .until(&expected, |running| {
                assert_eq!(running.services().len(), 1, "the Service went missing");
                running.services() == [expected.as_str()]
            })
            .await;
    }
}

#[tokio::test]
async fn the_folder_may_be_replaced() {
    let parent = folder();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("writable");
    write(&path, "a.yaml", &service("web", "10.0.0.1"));
    let mut running = Running::start(&path);
    running.until_services(&["web=10.0.0.1"]).await;
    for turn in 2..5 {
        let next = parent.path().join(format!("next-{turn}"));
        fs::create_dir(&next).expect("writable");
        write(&next, "b.yaml", &service("web", &format!("10.0.0.{turn}")));
        fs::rename(&path, parent.path().join(format!("old-{turn}"))).expect("writable");
        fs::rename(&next, &path).expect("writable");
        running.until_services(&[&format!("web=10.0.0.{turn}")]).await;
        // The new folder is watched like the old one was.
        write(&path, "b.yaml", &service("web", &format!("10.0.1.{turn}")));
        running.until_services(&[&format!("web=10.0.1.{turn}")]).await;
    }
}

#[tokio::test]
async fn a_missing_folder_loses_nothing() {
    let parent = folder();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("writable");
    write(&path, "a.yaml", &service("web", "10.0.0.1"));
    let mut running = Running::start(&path);
    running.until_services(&["web=10.0.0.1"]).await;
    fs::rename(&path, parent.path().join("away")).expect("writable");
    running.until_reject("the folder cannot be read").await;
    assert_eq!(running.services(), ["web=10.0.0.1"]);
    fs::create_dir(&path).expect("writable");
    write(&path, "z.yaml", &service("api", "10.0.0.2"));
    running.until_services(&["api=10.0.0.2"]).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_by_its_hidden_link() {
    let folder = folder();
    let swap = |turn: u8| {
        let data = folder.path().join(format!("..data-{turn}"));
        fs::create_dir(&data).expect("writable");
        write(&data, "a.yaml", &service("web", &format!("10.0.0.{turn}")));
        std::os::unix::fs::symlink(&data, folder.path().join("..tmp")).expect("writable");
        fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).expect("writable");
    };
    swap(1);
    std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).expect("writable");
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;
    swap(2);
    running.until_services(&["web=10.0.0.2"]).await;
}

#[tokio::test]
async fn the_runner_up_takes_over() {
    let folder = folder();
    write(folder.path(), "a.yaml", &service("web", "10.0.0.1"));
    write(folder.path(), "b.yaml", &service("web", "10.0.0.2"));
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;
    assert_eq!(
        running.rejects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["Service default/web: defined in a.yaml and again in b.yaml, document 1, line 1; \
          the one in a.yaml counts, remove the other"]
    );
    fs::remove_file(folder.path().join("a.yaml")).expect("writable");
    running.until_services(&["web=10.0.0.2"]).await;
}

/// Pipes, devices, a loop, and files of the kernel's that have nothing to say yet: none of them holds anybody up.
#[tokio::test]
async fn what_is_no_file_holds_nobody_up() {
    let folder = folder();
    let place = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&place("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for (name, to) in
        [("zero", "/dev/zero"), ("loop", "loop.yaml"), ("kernel", "/proc/kmsg"), ("none", "/none")]
    {
        std::os::unix::fs::symlink(to, place(&format!("{name}.yaml"))).expect("writable");
    }
    write(folder.path(), "web.yaml", &service("web", "10.0.0.1"));
    let mut running = Running::start(folder.path());
    running.until_services(&["web=10.0.0.1"]).await;
    write(folder.path(), "api.yaml", &service("api", "10.0.0.2"));
    running.until_services(&["api=10.0.0.2", "web=10.0.0.1"]).await;
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let folder = folder();
    let file = fs::File::create(folder.path().join("large.yaml")).expect("writable");
    file.set_len(65 << 20).expect("a file with a hole");
    let mut running = Running::start(folder.path());
    running.until_reject("it is larger than 64 MiB; split it").await;
}
