//! The kernel side: a thread that makes network namespaces and veth pairs, and one that removes them.
//!
//! A veth pair is created with its peer *inside* the new namespace and its host end already in the bridge and up, in one
//! message (0.6 ms): moving a link between namespaces would wait 20–40 ms for RCU grace periods. Removal waits for one
//! anyway, so it has a thread of its own.
//!
//! The making thread enters each new namespace with `unshare`, opens a netlink socket there, and returns to the host's;
//! the socket stays with the namespace in which it was opened.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use futures::StreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::config::Names;
use crate::error::{Error, Result};
use crate::network::listening::Listening;
use crate::network::subnet::{PREFIX, Subnet};

/// Bound of the queues to the two threads; a sender waits when it is reached.
const JOBS_MAX: usize = 4096;

/// What all plumbing functions need to know.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) names: Names,
    pub(crate) subnet: Subnet,
    pub(crate) run_dir: PathBuf,
}

impl Layout {
    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    pub(crate) fn netns(&self, number: u16) -> PathBuf {
        self.netns_dir().join(format!("{number:04x}"))
    }
}

/// A locally administered address that is the same in every run.
fn hardware_address(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [0x02, 0xd0, 0x12, 0x30, high, low]
}

pub(crate) struct Create {
    pub(crate) number: u16,
    pub(crate) reply: oneshot::Sender<Result<Option<Listening>>>,
}

pub(crate) enum Reap {
    Network {
        number: u16,
        done: Box<dyn FnOnce() + Send>,
    },
    /// Answers once everything before it is done.
    Barrier(oneshot::Sender<()>),
}

/// Handles of the two threads; they end when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Workers {
    pub(crate) create: mpsc::SyncSender<Create>,
    pub(crate) reap: mpsc::SyncSender<Reap>,
}

impl Workers {
    /// Starts both threads on an existing bridge.
    pub(crate) fn start(layout: Arc<Layout>) -> Result<Self> {
        let (create, jobs) = mpsc::sync_channel::<Create>(JOBS_MAX);
        let (reap, corpses) = mpsc::sync_channel::<Reap>(JOBS_MAX);
        let maker = layout.clone();
        spawn("dormouse-net", move || {
            let result = in_runtime(|host| async move {
                let bridge = index_of(&host, &maker.names.bridge()).await?.ok_or(Error::Stopped)?;
                let home = File::open("/proc/thread-self/ns/net").map_err(Error::io("open own namespace"))?;
                while let Ok(job) = jobs.recv() {
                    let _ = job.reply.send(create_network(&maker, &host, &home, bridge, job.number).await);
                }
                Ok(())
            });
            if let Err(error) = result {
                tracing::error!(error = dormouse_base::chain(&error), "network worker stopped");
            }
        })?;
        spawn("dormouse-net-end", move || {
            let result = in_runtime(|host| async move {
                while let Ok(job) = corpses.recv() {
                    match job {
                        Reap::Network { number, done } => {
                            remove_network(&layout, &host, number).await;
                            done();
                        }
                        Reap::Barrier(reply) => drop(reply.send(())),
                    }
                }
                Ok(())
            });
            if let Err(error) = result {
                tracing::error!(error = dormouse_base::chain(&error), "network removal stopped");
            }
        })?;
        Ok(Self { create, reap })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop).map_err(Error::io("start a network thread"))
}

/// Runs `work` with a netlink connection of the calling thread's namespace, on a runtime of its own. Blocking.
pub(crate) fn in_runtime<T, F: Future<Output = Result<T>>>(work: impl FnOnce(Handle) -> F) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime for netlink"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("open a netlink socket"))?;
        tokio::select! {
            biased; // The answer is looked at first; the connection only carries it.
            result = work(handle) => result,
            () = connection => Err(Error::Stopped),
        }
    })
}

/// The index of a link, or `None` when there is none of this name.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>> {
    let mut links = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
    match links.next().await {
        Some(Ok(link)) => Ok(Some(link.header.index)),
        Some(Err(rtnetlink::Error::NetlinkError(error))) if error.raw_code() == -19 => Ok(None),
        Some(Err(error)) => Err(Error::network(format!("look up link {name}"))(error)),
        None => Ok(None),
    }
}

/// Makes the bridge with its address, or takes the existing one.
pub(crate) async fn ensure_bridge(handle: &Handle, layout: &Layout) -> Result<()> {
    let name = layout.names.bridge();
    if index_of(handle, &name).await?.is_none() {
        // A fixed hardware address: otherwise the bridge takes the lowest of its ports, which come and go.
        let bridge =
            LinkBridge::new(&name).mcast_snooping(false).address(hardware_address(1).to_vec()).up().build();
        handle.link().add(bridge).execute().await.map_err(Error::network(format!("create bridge {name}")))?;
    }
    let index = index_of(handle, &name).await?.ok_or(Error::Stopped)?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(Error::network(format!("set bridge {name} up")))?;
    let gateway = layout.subnet.gateway();
    let request = handle.address().add(index, IpAddr::V4(gateway), PREFIX).replace();
    request.execute().await.map_err(Error::network(format!("give {gateway} to bridge {name}")))
}

/// Deletes a link; one that does not exist is fine.
pub(crate) async fn delete_link(handle: &Handle, name: &str) {
    match index_of(handle, name).await {
        Ok(Some(index)) => {
            if let Err(error) = handle.link().del(index).execute().await
                && index_of(handle, name).await.is_ok_and(|found| found.is_some())
            {
                tracing::warn!(link = name, %error, "could not delete link");
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(link = name, error = dormouse_base::chain(&error), "could not look up link")
        }
    }
}

async fn create_network(
    layout: &Layout,
    host: &Handle,
    home: &File,
    bridge: u32,
    number: u16,
) -> Result<Option<Listening>> {
    let result = try_create(layout, host, home, bridge, number).await;
    if result.is_err() {
        remove_network(layout, host, number).await;
    }
    result
}

async fn try_create(
    layout: &Layout,
    host: &Handle,
    home: &File,
    bridge: u32,
    number: u16,
) -> Result<Option<Listening>> {
    let path = layout.netns(number);
    let link = layout.names.link(number);
    let (namespace, connection, inside, listening) = new_namespace(&path, home)?;
    let mac = hardware_address(number);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name("eth0")
        .address(mac.to_vec())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    // The peer's second name is overwritten by the attributes of `Peer`.
    let veth = LinkVeth::new(&link, "x")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .up()
        .build();
    host.link().add(veth).execute().await.map_err(Error::network(format!("create veth {link}")))?;
    let address = layout.subnet.host(number);
    let configure = async {
        let eth0 = index_of(&inside, "eth0").await?.ok_or(Error::Stopped)?;
        let step = || format!("configure the network of {address}");
        let lo = LinkUnspec::new_with_index(1).up().build();
        inside.link().set(lo).execute().await.map_err(Error::network(step()))?;
        inside
            .address()
            .add(eth0, IpAddr::V4(address), PREFIX)
            .execute()
            .await
            .map_err(Error::network(step()))?;
        let up = LinkUnspec::new_with_index(eth0).up().build();
        inside.link().set(up).execute().await.map_err(Error::network(step()))?;
        let gateway = layout.subnet.gateway();
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(eth0).build();
        inside.route().add(route).execute().await.map_err(Error::network(step()))?;
        // Known neighbours on both sides: the first packet of a cold start needs no ARP.
        let neighbour = inside.neighbours().add(eth0, IpAddr::V4(gateway));
        let neighbour = neighbour.link_layer_address(&hardware_address(1)).state(NeighbourState::Permanent);
        neighbour.replace().execute().await.map_err(Error::network(step()))
    };
    tokio::select! {
        biased;
        result = configure => result?,
        () = connection => return Err(Error::Stopped),
    }
    let neighbour = host.neighbours().add(bridge, IpAddr::V4(address));
    let neighbour = neighbour.link_layer_address(&mac).state(NeighbourState::Permanent).replace();
    neighbour.execute().await.map_err(Error::network(format!("add neighbour {address}")))?;
    // And a known port, or the bridge would flood the first packet to every instance.
    if let Some(index) = index_of(host, &link).await? {
        let entry = host.neighbours().add_bridge(index, &mac);
        let entry = entry.state(NeighbourState::Noarp).flags(NeighbourFlags::Controller).replace();
        entry.execute().await.map_err(Error::network(format!("add forwarding entry of {link}")))?;
    }
    Ok(listening)
}

type Connection = rtnetlink::proto::Connection<rtnetlink::packet_route::RouteNetlinkMessage>;

/// A new network namespace, bind-mounted at `path`, with a netlink connection into it.
fn new_namespace(path: &Path, home: &File) -> Result<(File, Connection, Handle, Option<Listening>)> {
    File::create(path).map_err(Error::path("create", path))?;
    #[expect(unsafe_code, reason = "network namespaces are entered per thread")]
    // SAFETY: only the network namespace of this thread changes (NEWNET); the file table stays shared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.map_err(|errno| Error::io("unshare the network namespace")(errno.into()))?;
    let inside = || {
        mount_bind("/proc/thread-self/ns/net", path).map_err(Error::path("mount a namespace on", path))?;
        // Programs without privileges may use ports below 1024, as container engines have it.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
        // IPv4 only for now; `lo` keeps ::1.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let namespace = File::open(path).map_err(Error::path("open", path))?;
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("open a netlink socket in a namespace"))?;
        Ok((namespace, connection, handle, Listening::open()))
    };
    let result = inside();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::io("return to the host's network namespace")(errno.into()))?;
    result
}

async fn remove_network(layout: &Layout, host: &Handle, number: u16) {
    remove_mount(&layout.netns(number));
    if let Ok(Some(bridge)) = index_of(host, &layout.names.bridge()).await {
        let mut message = rtnetlink::packet_route::neighbour::NeighbourMessage::default();
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        message.header.ifindex = bridge;
        message.attributes.push(rtnetlink::packet_route::neighbour::NeighbourAttribute::Destination(
            layout.subnet.host(number).into(),
        ));
        // It may never have been added.
        let _ = host.neighbours().del(message).execute().await;
    }
    delete_link(host, &layout.names.link(number)).await;
}

/// Takes away a namespace's mount and its file.
pub(crate) fn remove_mount(path: &Path) {
    // Not mounted, or not there: nothing to do.
    let _ = unmount(path, UnmountFlags::DETACH);
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a network namespace");
    }
}

const TIME_WAIT_MAX: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// Runs `work` inside a namespace, on a thread of its own that does not come back from there. Blocking.
fn inside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    let path = path.to_path_buf();
    let enter = move || -> std::io::Result<T> {
        let namespace = File::open(path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    };
    let thread = std::thread::Builder::new().name("dormouse-net-in".to_owned()).spawn(enter)?;
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
}

/// Lets sockets that are closed from now on vanish at once. An instance that ends closes its connections first, so they
/// would keep its port busy for a minute. Blocking.
pub(crate) fn forbid_time_wait(path: &Path) {
    // Without it the network only rests longer.
    let _ = inside(path, || fs::write(TIME_WAIT_MAX, "0"));
}

/// Whether the namespace still has TCP sockets (such as TIME_WAIT) that a new program would meet, after a short patience
/// for those that are just closing. Undoes [`forbid_time_wait`]. Blocking.
///
/// The kernel's counters tell it: a list of the sockets is found by walking the whole machine's table, 5 ms a time.
pub(crate) fn is_busy(path: &Path) -> bool {
    let normal = fs::read_to_string(TIME_WAIT_MAX).unwrap_or_else(|_| "65536".to_owned());
    let look = move || {
        let has = |file: &str| fs::read_to_string(file).is_ok_and(|text| has_sockets(&text));
        let mut busy = true;
        for _ in 0..5 {
            busy = has("/proc/thread-self/net/sockstat") || has("/proc/thread-self/net/sockstat6");
            if !busy {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = fs::write(TIME_WAIT_MAX, normal.trim());
        busy
    };
    inside(path, look).unwrap_or(true)
}

/// Whether `sockstat` or `sockstat6` counts TCP sockets of the namespace; its numbers of orphans and of memory are the
/// whole machine's.
fn has_sockets(text: &str) -> bool {
    let some = |words: &str, name: &str| {
        let mut words = words.split_whitespace().skip_while(|word| *word != name).skip(1);
        words.next().is_some_and(|count| count != "0")
    };
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("TCP: ").or(line.strip_prefix("TCP6: ")));
    tcp.any(|line| some(line, "inuse") || some(line, "tw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_and_what_is_the_machines_is_not() {
        let counted = |inuse: u32, waiting: u32| {
            has_sockets(&format!(
                "sockets: used 24\nTCP: inuse {inuse} orphan 3 tw {waiting} alloc 6 mem 1\nUDP: inuse 2 mem 0\n"
            ))
        };
        assert!(counted(1, 0) && counted(0, 12) && !counted(0, 0));
        assert!(
            has_sockets("TCP6: inuse 1\nUDP6: inuse 0\n") && !has_sockets("TCP6: inuse 0\nUDP6: inuse 1\n")
        );
    }
}
