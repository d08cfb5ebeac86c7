use std::time::Duration;

use dormouse_store::{Change, Config, Durability, Error, ObjectKey, Store};
use serde_json::json;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("/configmaps", "default", name)
}

async fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("store.db"), Config::default()).await.unwrap()
}

#[tokio::test]
async fn a_write_is_visible_under_its_revision() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let made = store
        .create(key("a"), json!({"metadata": {"name": "a"}, "data": {"x": "1"}}), Durability::Durable)
        .await
        .unwrap();
    assert_eq!(made.value()["metadata"]["resourceVersion"], made.revision.to_string());
    assert_eq!(store.get(&key("a")).unwrap().revision, made.revision);
    let changed = store
        .update(key("a"), made.revision, json!({"metadata": {"name": "a"}}), Durability::Durable)
        .await
        .unwrap();
    assert!(changed.revision > made.revision);
    let gone = store.delete(key("a"), changed.revision, None).await.unwrap();
    assert!(gone.revision > changed.revision);
    assert_eq!(gone.value()["metadata"]["resourceVersion"], gone.revision.to_string());
    assert!(store.get(&key("a")).is_none());
}

#[tokio::test]
async fn stale_and_duplicate_writes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let first = store.create(key("a"), json!({}), Durability::Durable).await.unwrap();
    assert!(matches!(
        store.create(key("a"), json!({}), Durability::Durable).await,
        Err(Error::Exists { .. })
    ));
    let second = store.update(key("a"), first.revision, json!({"x": 1}), Durability::Durable).await.unwrap();
    let stale = store.update(key("a"), first.revision, json!({"x": 2}), Durability::Durable).await;
    assert!(matches!(stale, Err(Error::Conflict { current, .. }) if current == second.revision));
    assert!(matches!(store.delete(key("b"), 1, None).await, Err(Error::Missing { .. })));
}

#[tokio::test]
async fn of_many_writers_from_one_state_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let first = store.create(key("a"), json!({}), Durability::Durable).await.unwrap();
    let mut set = tokio::task::JoinSet::new();
    for n in 0..50 {
        let store = store.clone();
        let revision = first.revision;
        set.spawn(async move {
            store.update(key("a"), revision, json!({"n": n}), Durability::Durable).await.is_ok()
        });
    }
    let wins = set.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(wins, 1);
}

#[tokio::test]
async fn lists_are_ordered_and_scoped() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    for (namespace, name) in [("b", "1"), ("a", "2"), ("a", "1"), ("ab", "0")] {
        store
            .create(ObjectKey::new("/pods", namespace, name), json!({}), Durability::Ephemeral)
            .await
            .unwrap();
    }
    let names = |namespace| {
        let (list, _) = store.list("/pods", namespace);
        list.iter().map(|object| format!("{}/{}", object.key.namespace, object.key.name)).collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["a/1", "a/2", "ab/0", "b/1"]);
    assert_eq!(names(Some("a")), ["a/1", "a/2"]);
    assert!(names(Some("c")).is_empty());
}

#[tokio::test]
async fn a_watch_from_a_revision_sees_each_later_change_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let mut at = store.create(key("a"), json!({}), Durability::Durable).await.unwrap().revision;
    let from = at;
    for n in 0..3 {
        at = store.update(key("a"), at, json!({"n": n}), Durability::Durable).await.unwrap().revision;
    }
    store.create(ObjectKey::new("/secrets", "default", "s"), json!({}), Durability::Durable).await.unwrap();
    let mut watch = store.watch("/configmaps", Some("default"), Some(from)).unwrap();
    assert_eq!(watch.progress(), None);
    store.delete(key("a"), at, None).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = watch.next().await.unwrap();
        seen.push((event.change, event.object.revision));
    }
    assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
    assert_eq!(seen[3].0, Change::Deleted);
    assert!(watch.try_next().is_none());
    assert_eq!(watch.progress(), Some(store.revision()));
}

#[tokio::test]
async fn revisions_outside_the_history_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { history_max: 4, ..Config::default() };
    let store = Store::open(&directory.path().join("store.db"), config).await.unwrap();
    let first = store.create(key("a0"), json!({}), Durability::Durable).await.unwrap().revision;
    for n in 1..10 {
        store.create(key(&format!("a{n}")), json!({}), Durability::Durable).await.unwrap();
    }
    assert!(matches!(store.watch("/configmaps", None, Some(first)), Err(Error::Compacted { .. })));
    let future = store.revision() + 5;
    assert!(matches!(store.watch("/configmaps", None, Some(future)), Err(Error::Future { .. })));
    assert_eq!(store.reach(future, Duration::from_millis(1)).await, store.revision());
    store.compact();
    assert!(matches!(store.watch("/configmaps", None, Some(future - 6)), Err(Error::Compacted { .. })));
    assert!(store.watch("/configmaps", None, Some(future - 5)).is_ok());
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_stalls_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { watch_buffer: 8, ..Config::default() };
    let store = Store::open(&directory.path().join("store.db"), config).await.unwrap();
    let mut watch = store.watch("/pods", None, None).unwrap();
    for n in 0..100 {
        store
            .create(ObjectKey::new("/pods", "d", n.to_string()), json!({}), Durability::Ephemeral)
            .await
            .unwrap();
    }
    let mut seen = 0;
    while watch.next().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[tokio::test]
async fn durable_objects_and_the_counter_survive_a_restart_and_ephemeral_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    store.create(key("kept"), json!({"data": 1}), Durability::Durable).await.unwrap();
    let dropped = store.create(key("dropped"), json!({}), Durability::Durable).await.unwrap();
    store.delete(key("dropped"), dropped.revision, None).await.unwrap();
    let pod =
        store.create(ObjectKey::new("/pods", "d", "p"), json!({}), Durability::Ephemeral).await.unwrap();
    store.close().await;
    assert!(matches!(store.create(key("x"), json!({}), Durability::Durable).await, Err(Error::Closed)));
    let store = open(&directory).await;
    assert_eq!(store.get(&key("kept")).unwrap().value()["data"], 1);
    assert!(store.get(&key("dropped")).is_none());
    assert!(store.get(&pod.key).is_none());
    assert!(matches!(store.watch("/pods", None, Some(pod.revision - 1)), Err(Error::Compacted { .. })));
    let next = store.create(key("next"), json!({}), Durability::Durable).await.unwrap();
    assert!(next.revision > pod.revision);
}

#[tokio::test]
async fn a_second_opener_is_told_which_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(&directory).await;
    let error = Store::open(&directory.path().join("store.db"), Config::default()).await.unwrap_err();
    assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    for damage in ["garbage", "truncated", "emptied", "middle"] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("store.db");
        let store = open(&directory).await;
        for n in 0..200 {
            store
                .create(key(&format!("a{n}")), json!({"data": "x".repeat(200)}), Durability::Durable)
                .await
                .unwrap();
        }
        store.close().await;
        let mut bytes = std::fs::read(&file).unwrap();
        match damage {
            "garbage" => bytes.iter_mut().take(100).for_each(|byte| *byte = b'x'),
            "truncated" => bytes.truncate(bytes.len() / 2),
            "emptied" => bytes.clear(),
            _ => bytes.iter_mut().skip(8192).take(4096).for_each(|byte| *byte = 0xa5),
        }
        std::fs::write(&file, bytes).unwrap();
        let error = Store::open(&file, Config::default()).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{damage}: {error:?}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{damage}: {error}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_durable_writes_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("store.db");
    let config = Config { size_max: Some(256 << 10), ..Config::default() };
    let store = Store::open(&file, config).await.unwrap();
    let mut written = 0;
    let error = loop {
        match store
            .create(key(&format!("a{written}")), json!({"data": "x".repeat(4000)}), Durability::Durable)
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::StorageFull { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no space left") && text.contains(file.to_str().unwrap()), "{text}");
    assert!(written > 10);
    assert!(store.get(&key(&format!("a{written}"))).is_none());
    store.create(ObjectKey::new("/pods", "d", "p"), json!({}), Durability::Ephemeral).await.unwrap();
    store.close().await;
    let store = open(&directory).await;
    assert_eq!(store.list("/configmaps", None).0.len(), written);
    store.create(key("more"), json!({}), Durability::Durable).await.unwrap();
}
