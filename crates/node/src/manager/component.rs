//! An instance of a WebAssembly component: started by listening, ended by not listening any more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::clock;

use super::run::{Care, Failure, make_scratch, started_notes};
use crate::component::Serving;
use crate::instance::Exit;
use crate::manager::Manager;
use crate::manager::cell::{Cell, Container};
use crate::probe::{Check, Probe};
use crate::template::Skeleton;

/// What is left of connections when nothing is in flight any more.
const LAST_CONNECTIONS: Duration = Duration::from_millis(500);

/// A component that is being served.
pub(super) struct Running {
    serving: Box<dyn Serving>,
    /// Its own directories, if its volumes want any.
    scratch: Option<PathBuf>,
}

// === impl Running ===

impl Running {
    /// Ends it; the end is told to the instance as that of a container is.
    pub(super) async fn end(&self, cell: &Cell, id: &str, exit: Exit) {
        self.serving.stop(LAST_CONNECTIONS).await;
        cell.exited(id.to_owned(), exit);
    }

    /// Removes what it had of its own, behind the hot path.
    pub(super) fn discard(self) {
        remove(self.scratch);
    }
}

/// Starts one. Nothing here waits for anything that was not prepared, unless the template has scratch volumes.
pub(super) async fn launch(
    manager: &Manager,
    cell: &Arc<Cell>,
    skeleton: &Skeleton,
    restarts: u32,
) -> Result<(String, Running, Care), Failure> {
    let id = format!("{}_{}_{restarts}", cell.key.namespace, cell.pod);
    let failed = |reason, message| Failure { reason, message, ended: None };
    let own = manager.work_path(&id);
    let volumes = own.join("volumes");
    let mut scratch = None;
    for name in skeleton.scratch() {
        scratch = Some(own.clone());
        let made = make_scratch(&volumes.join(name));
        made.map_err(|error| failed("CreateContainerError", dormouse_base::chain(&error)))?;
    }
    let log = manager.log_path(&id);
    let plan = skeleton.component_plan(&cell.pod, &cell.uid, &volumes, log.clone());
    let plan = plan.ok_or_else(|| failed("CreateContainerError", "not a component".to_owned()))?;
    let serving = match manager.components().serve(plan).await {
        Ok(serving) => serving,
        Err(error) => {
            remove(scratch);
            return Err(failed(error.reason, error.message));
        }
    };
    let address = serving.address();
    let at = |probe: &Probe| probe.on_component(address.port());
    let care = Care {
        port: address.port(),
        readiness: at(&skeleton.readiness),
        liveness: skeleton.liveness.as_ref().map(at).filter(|probe| probe.check != Check::Passed),
        startup: skeleton.startup.as_ref().map(at).filter(|probe| probe.check != Check::Passed),
        grace: skeleton.grace,
    };
    let mut facts = cell.facts();
    facts.address = Some(address);
    facts.container = Container::Running { since: clock::timestamp() };
    facts.restarts = restarts;
    facts.sandbox = Some(id.clone());
    facts.digest.clone_from(&skeleton.digest);
    facts.log = Some(log);
    drop(facts);
    if restarts == 0 {
        started_notes(manager, cell);
    }
    Ok((id, Running { serving, scratch }, care))
}

fn remove(scratch: Option<PathBuf>) {
    if let Some(path) = scratch {
        drop(tokio::task::spawn_blocking(move || drop(std::fs::remove_dir_all(path))));
    }
}
