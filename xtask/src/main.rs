//! The one tool. `cargo xtask` without an argument prints the verbs; each verb is a file.
//!
//! It stays small on purpose (no dependency that takes a second to build): it is the first thing a newcomer runs.
//! The benchmarks themselves are `tests/bench`, which the verb builds and starts.

mod bench;
mod ci;
mod conformance;
mod shell;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

const VERBS: &str = "\
cargo xtask VERB

  test               install what the tests need (as root), then run all of them
  ci                 what CI checks: format, lints, tidy, all tests
  tidy               is the house clean? edges, sizes, front doors, links, licences
  bench cold-start   a request to a sleeping service, beside `runc run`
  bench wake         200 sleeping services woken at once
  bench hop          CPU per proxied request, beside nginx and HAProxy
  bench services     1,000 services at zero: time to Ready, memory, boot, idle
  bench wasm         components: cold requests and steady load, beside `wasmtime serve`
  bench deploy       from source to Ready in each language
  conformance serving   Knative Serving's own test suites against a private platform
  conformance registry  the OCI distribution specification's own program against the registry
";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks to its terminal")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", &[] as &[String]),
    };
    let result = match verb {
        "test" => test::run(rest),
        "ci" => ci::run(),
        "tidy" => tidy::run(),
        "bench" => bench::run(rest),
        "conformance" => conformance::run(rest),
        "help" | "--help" | "-h" => {
            print!("{VERBS}");
            Ok(())
        }
        unknown => Err(anyhow::anyhow!("no verb {unknown:?}\n\n{VERBS}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {verb}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
