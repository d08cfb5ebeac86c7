//! One running instance: the container launcher and its keeper process.
//!
//! Reading order: [`plan`](Plan) (what a sandbox is) → `launch`, `launch/child` and `launch/root` (how it starts) → `keeper` (the
//! process that owns sandboxes, logs and listening sockets) → `client` ([`Keeper`], the handle of the main process) →
//! [`run_step`] (one command of a build, without keeper) → [`cgroup`] (limits; the node pools them) → `seccomp`, `log`, `wire`, `sys`.
//!
//! It never decides anything: no pools, no restarts, no images, no networks. Those are the node's.
//!
//! User namespaces are not used: every image layer would have to be id-mapped at mount time, and images that need their
//! default capabilities on the mounted files would break.
//!
//! Test alone, as root: `cargo test -p dormouse-sandbox`. Measure: `cargo run --example launch_bench`.

pub mod cgroup;

mod capabilities;
mod client;
mod error;
mod keeper;
mod launch;
mod log;
mod plan;
mod seccomp;
mod step;
mod sys;
mod wire;

pub use capabilities::Capabilities;
pub use cgroup::{Cgroup, CgroupPlan, CgroupRoot};
pub use client::Keeper;
pub use error::{Errno, Error};
pub use keeper::keeper_main;
pub use launch::prepare_work_dir;
pub use log::{Log, Stream};
pub use plan::{
    DEFAULT_PATH, ExecResult, KeeperEvent, Launched, LogPlan, Mount, MountSource, Plan, Rlimit, RlimitKind,
    Running, SeccompProfile, User,
};
pub use step::{StepEnd, StepGuard, StepWatch, Stop, run_step};
