use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_node::Networks;

use crate::world::{config, possible, remove, until};

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_made_ahead_recycled_and_removed() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let tasks = Tasks::new(Shutdown::new());
    let networks = Networks::start(&config, &[], &tasks).await.unwrap();
    assert_eq!(networks.warning(), None);
    until("the pool is full", || (networks.ready() == 3).then_some(())).await;
    let begun = clock::now();
    let taken = networks.take().await.unwrap();
    assert!(clock::now() - begun < std::time::Duration::from_millis(1), "the pool answers at once");
    assert!(taken.netns.exists());
    let mut all = vec![taken];
    for _ in 0..8 {
        all.push(networks.take().await.unwrap());
    }
    let addresses: std::collections::BTreeSet<_> = all.iter().map(|network| network.address).collect();
    assert_eq!(addresses.len(), 9, "every network has an address of its own");
    for network in all {
        networks.give_back(network);
    }
    until("they are recycled", || (networks.ready() >= 9).then_some(())).await;
    networks.close().await;
    tasks.shutdown().trigger();
    remove(&config, dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_crash_are_removed_at_the_start_except_adopted_ones() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let tasks = Tasks::new(Shutdown::new());
    let networks = Networks::start(&config, &[], &tasks).await.unwrap();
    until("the pool is full", || (networks.ready() == 3).then_some(())).await;
    let kept = networks.take().await.unwrap();
    until("the pool is full again", || (networks.ready() == 3).then_some(())).await;
    // A crash: nothing is closed.
    tasks.shutdown().trigger();
    let number = u16::from_str_radix(kept.netns.file_name().unwrap().to_str().unwrap(), 16).unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let again = dormouse_node::Config { networks_ready: 0, ..config.clone() };
    let networks = Networks::start(&again, &[number], &tasks).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(config.run_dir.join("netns")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(networks.gateway().octets()[..2], kept.address.octets()[..2], "the block is remembered");
    tasks.shutdown().trigger();
    remove(&config, dir.path()).await;
}
