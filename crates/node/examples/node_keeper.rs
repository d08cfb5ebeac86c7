//! The keeper executable that the integration tests start: `node_keeper keeper --dir DIR`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["keeper", "--dir", dir] => dormouse_sandbox::keeper_main(Path::new(dir)),
        _ => ExitCode::FAILURE,
    }
}
