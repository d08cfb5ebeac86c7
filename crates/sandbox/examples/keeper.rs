//! The executable that the integration tests use: a keeper, and a main process that they can kill.
//!
//! `keeper keeper --dir DIR` is the keeper; `keeper hold DIR PLAN.json` attaches, starts the plan, listens on the address
//! in the label of the plan if there is one, says so and sleeps.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of tests: its output is its purpose")]

use std::path::Path;
use std::process::ExitCode;

use dormouse_base::{shutdown::Shutdown, task::Tasks};
use dormouse_sandbox::{Keeper, Plan, keeper_main};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["keeper", "--dir", dir] => keeper_main(Path::new(dir)),
        ["hold", dir, plan] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(hold(Path::new(dir), Path::new(plan)));
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

async fn hold(dir: &Path, plan: &Path) {
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let exe = std::env::current_exe().unwrap();
    let (keeper, _events, _) = Keeper::start_or_attach(&exe, dir, &tasks).await.unwrap();
    let socket = match plan.label.parse() {
        Ok(address) => Some(keeper.listen(address).await.unwrap()),
        Err(_) => None,
    };
    let launched = keeper.launch(plan).await.unwrap();
    println!("{} {}", launched.pid, keeper.pid());
    std::future::pending::<()>().await;
    drop(socket);
}
