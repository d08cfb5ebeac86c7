use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use dormouse_store::{Config, Durability, ObjectKey, Store};
use serde_json::json;

const DIRECTORY: &str = "DORMOUSE_STORE_CRASH_DIRECTORY";

/// The child of the test below: writes for ever and tells each acknowledged write. Does nothing in a normal run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let file = std::path::Path::new(&directory).join("store.db");
    let store = Store::open(&file, Config::default()).await.unwrap();
    let mut set = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        set.spawn(async move {
            for n in 0u64.. {
                let name = format!("{writer}-{n}");
                let key = ObjectKey::new("/configmaps", "d", name.clone());
                let made = store
                    .create(key.clone(), json!({"data": "x".repeat(300)}), Durability::Durable)
                    .await
                    .unwrap();
                let pod = ObjectKey::new("/pods", "d", name.clone());
                let pod = store.create(pod, json!({}), Durability::Ephemeral).await.unwrap();
                let line = format!("ack {name} {} {}\n", made.revision, pod.revision);
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    set.join_all().await;
}

#[test]
fn every_acknowledged_write_survives_sigkill_and_no_revision_is_reused() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut highest = 0;
    for round in 0..3 {
        let file = directory.path().join(format!("{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_writes_until_killed", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut round_acknowledged = Vec::new();
        let mut killed = false;
        while let Some(Ok(line)) = lines.next() {
            let Some((_, ack)) = line.split_once("ack ") else { continue };
            let mut words = ack.split(' ');
            let (Some(name), Some(durable), Some(Ok(ephemeral))) =
                (words.next(), words.next(), words.next().map(str::parse::<u64>))
            else {
                continue;
            };
            round_acknowledged.push((name.to_owned(), durable.parse::<u64>().unwrap()));
            highest = highest.max(ephemeral);
            if round_acknowledged.len() == 300 + 77 * round && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&file.join("store.db"), Config::default()).await.unwrap();
            for (name, revision) in &round_acknowledged {
                let object = store.get(&ObjectKey::new("/configmaps", "d", name.as_str()));
                assert_eq!(object.expect(name).revision, *revision);
            }
            let next = ObjectKey::new("/configmaps", "d", "next");
            let next = store.create(next, json!({}), Durability::Durable).await.unwrap();
            assert!(next.revision > highest, "{} was handed out before", next.revision);
            store.close().await;
        });
        highest = 0;
        acknowledged.extend(round_acknowledged);
    }
    assert!(acknowledged.len() > 900);
}
