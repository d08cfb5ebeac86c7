//! The reconcilers against the API server in this process; nodes, autoscaler and gateway are played by [`world`].

mod failures;
mod lifecycle;
mod world;
