use clap::Parser;

use super::*;
use crate::args::{Cli, Command};

fn parsed(arguments: &[&str]) -> Result<Func, clap::Error> {
    let all = ["dormouse", "func"].iter().chain(arguments);
    match Cli::try_parse_from(all)?.command {
        Command::Func(func) => Ok(*func),
        _ => panic!("not func"),
    }
}

/// Runs a verb that needs neither a platform nor the network; answers its output or its error.
fn ran(arguments: &[&str]) -> Result<String, String> {
    let func = parsed(arguments).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(&func, &mut out)).map_err(|error| format!("{error:#}"))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn upstreams_command_lines_are_understood() {
    for line in [
        "create -l go -t cloudevents f",
        "create --language node --path f",
        "init -l go",
        "build --builder host --registry localhost:50000/alice -u",
        "build -i ghcr.io/a/f:v1 --push --registry-insecure --username u --password p",
        "deploy",
        "deploy --builder=host --registry r/a -n ns -e A=1 -e B- --build=false --push=false -v",
        "deploy --build -u --domain example.com --service-account sa --image-pull-secret s -R",
        "deploy -p f -c",
        "run --address [::]:8081 --json -e A=b",
        "invoke -t remote -f cloudevent --id 1 --source s --type t --data x --content-type text/plain -e a=b,c=d",
        "invoke --request-type=GET --insecure --file f",
        "list -A -o json",
        "ls -n ns",
        "describe f -n ns -o url",
        "info",
        "delete f -n ns --all=false",
        "rm -c",
        "logs --name f --since 5m",
        "subscribe --filter type=a --filter b=c --source broker",
        "environment -f yaml",
        "env",
        "languages --json",
        "templates go --json",
        "version -v -o yaml",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        parsed(&arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(parsed(&["list", "-A", "-n", "x"]).unwrap_err().to_string().contains("--namespace"));
    assert!(parsed(&["build", "--builder", "kaniko"]).is_err());
}

#[test]
fn a_function_is_made_and_subscribed() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("hello");
    let path = place.to_str().unwrap();
    ran(&["create", "-l", "go", path]).unwrap();
    assert!(place.join("function.go").is_file());
    ran(&["subscribe", "-p", path, "-f", "type=a", "-f", "subject=b"]).unwrap();
    ran(&["subscribe", "-p", path, "-f", "type=c"]).unwrap();
    ran(&["subscribe", "-p", path, "-s", "other"]).unwrap();
    let function = open(&place).unwrap();
    let subscriptions = &function.spec.deploy.subscriptions;
    assert_eq!(subscriptions.len(), 2);
    assert_eq!(subscriptions[0].filters["type"], "c");
    assert_eq!(subscriptions[0].filters["subject"], "b");
    assert!(ran(&["subscribe", "-p", path, "-f", "bad"]).unwrap_err().contains("--filter bad"));
    let all: serde_json::Value = serde_json::from_str(
        &ran(&["--data-dir", dir.path().to_str().unwrap(), "environment", "-p", path]).unwrap(),
    )
    .unwrap();
    assert_eq!(all.pointer("/Function/name").unwrap(), "hello");
    assert_eq!(all.pointer("/SpecVersion").unwrap(), "0.36.0");
}

#[test]
fn what_is_wrong_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    for (arguments, expected) in [
        (vec!["create", "-p", place], "Missing required language"),
        (vec!["create", "-l", "cobol", place], "The language runtime 'cobol' is not recognized"),
        (vec!["create", "-l", "go", "-t", "grpc", place], "The template 'grpc' was not found"),
        (vec!["build", "-p", place], "func create"),
        (vec!["deploy", "-p", place], "func create"),
        (vec!["run", "-p", place], "func create"),
        (vec!["delete", "-p", place], "func create"),
        (vec!["invoke", "-p", place], "--target"),
        (vec!["invoke", "-p", place, "-t", "ftp://x"], "must begin with http"),
        (vec!["describe", "-n", "x"], "must also specify a name"),
        (vec!["describe", "f", "-p", place], "only one of --path and NAME"),
        (vec!["templates", "cobol"], "is not recognized"),
    ] {
        let error = ran(&arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let bad = dir.path().join("Bad_Name");
    let error = ran(&["create", "-l", "go", bad.to_str().unwrap()]).unwrap_err();
    assert!(error.contains("Function name 'Bad_Name' must consist of lower case"), "{error}");
    assert!(!bad.exists());
    ran(&["create", "-l", "static", dir.path().join("site").to_str().unwrap()]).unwrap();
    let site = dir.path().join("site");
    let site = site.to_str().unwrap();
    assert!(ran(&["run", "-p", site]).unwrap_err().contains("index.html"));
    assert!(ran(&["build", "-p", site, "-b", "pack"]).unwrap_err().contains("container daemon"));
    assert!(ran(&["build", "-p", site, "--platform", "linux/s390x"]).unwrap_err().contains("linux/s390x"));
    let nowhere = dir.path().join("platform");
    let nowhere = nowhere.to_str().unwrap();
    for verb in ["list", "deploy", "describe", "logs", "delete"] {
        let mut arguments = vec!["--data-dir", nowhere, verb];
        if verb != "list" {
            arguments.extend(["-p", site]);
        }
        let error = ran(&arguments).unwrap_err();
        assert!(error.contains("dormouse up"), "{verb}: {error}");
    }
}

#[test]
fn lists_of_languages_and_templates() {
    assert!(ran(&["languages"]).unwrap().lines().any(|line| line == "wasm"));
    let all: Vec<String> = serde_json::from_str(&ran(&["templates", "go", "--json"]).unwrap()).unwrap();
    assert_eq!(all, ["cloudevents", "http"]);
    assert!(ran(&["templates"]).unwrap().starts_with("LANGUAGE"));
    assert!(ran(&["version", "-o", "json"]).unwrap().contains("specVersion"));
}
