//! A component touches what it was granted and nothing else.

use std::sync::Arc;

use dormouse_wasm::{Connector, Directory, Error, Outbound, Source, Target, Transport};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Machine, SOON, call, component, limits};

/// Every name leads to a server in memory that tells what it was asked.
struct Mirror;

impl Connector for Mirror {
    fn connect(&self, target: Target) -> BoxFuture<'_, std::io::Result<Box<dyn Transport>>> {
        async move {
            if target.host == "refused.example" {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            let (near, mut far) = tokio::io::duplex(4096);
            crate::support::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if far.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                let first = String::from_utf8(request).unwrap().lines().next().unwrap().to_owned();
                let text = format!("{}:{} {first}", target.host, target.port);
                let answer = format!("HTTP/1.1 203 X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                far.write_all(answer.as_bytes()).await.unwrap();
            });
            Ok(Box::new(near) as Box<dyn Transport>)
        }
        .boxed()
    }
}

#[tokio::test]
async fn without_grants_there_is_nothing() {
    let machine = Machine::new();
    let function = machine.plain();
    assert_eq!(call(&function, "/environment?PATH").await, (200, String::new()));
    assert_eq!(call(&function, "/read?/etc/passwd").await.0, 404);
    assert_eq!(call(&function, "/dial?127.0.0.1:80").await.0, 403);
    let (status, text) = call(&function, "/fetch?http://127.0.0.1:80/").await;
    assert!(status == 502 && text.contains("HttpRequestDenied"), "{status} {text}");
}

#[tokio::test]
async fn environment_and_directories_are_seen_as_granted() {
    let machine = Machine::new();
    let (open, closed) = (machine.folder.path().join("open"), machine.folder.path().join("closed"));
    for folder in [&open, &closed] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("file"), "from outside").unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", open.join("way-out")).unwrap();
    let function = machine.function(limits(SOON), |grants| {
        grants.environment = vec![("K_SERVICE".to_owned(), "mouse".to_owned())];
        let directory = |host: &std::path::Path, guest: &str, writable| Directory {
            host: host.to_owned(),
            guest: guest.to_owned(),
            writable,
        };
        grants.directories = vec![directory(&open, "/open", true), directory(&closed, "/closed", false)];
    });
    assert_eq!(call(&function, "/environment?K_SERVICE").await.1, "mouse");
    assert_eq!(call(&function, "/read?/closed/file").await, (200, "from outside".to_owned()));
    assert_eq!(call(&function, "/write?/open/new").await.0, 200);
    assert_eq!(std::fs::read_to_string(open.join("new")).unwrap(), "written by a component");
    assert_eq!(call(&function, "/write?/closed/new").await.0, 403);
    assert!(!closed.join("new").exists());
    for way in ["/open/way-out", "/open/../../../../etc/passwd"] {
        assert_eq!(call(&function, &format!("/read?{way}")).await.0, 404, "{way}");
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_is_named() {
    let machine = Machine::new();
    let function = machine.function(limits(SOON), |grants| {
        grants.directories =
            vec![Directory { host: "/does/not/exist".into(), guest: "/x".to_owned(), writable: false }];
    });
    let error = crate::support::failure(&function, "/hello").await;
    assert_eq!(error.to_string(), "open the granted directory /does/not/exist");
}

#[tokio::test]
async fn requests_go_to_allowed_hosts_only() {
    let machine = Machine::new();
    let function = machine.function(limits(SOON), |grants| {
        let allowed = ["*.friends.example", "refused.example"].map(|text| text.parse().unwrap()).to_vec();
        grants.outbound = Some(Outbound { allowed, connector: Arc::new(Mirror) });
    });
    let answer = call(&function, "/fetch?http://a.friends.example/way").await;
    assert_eq!(answer, (203, "a.friends.example:80 GET /way HTTP/1.1".to_owned()));
    for (target, code) in [("foes.example", "HttpRequestDenied"), ("refused.example", "ConnectionRefused")] {
        let (status, text) = call(&function, &format!("/fetch?http://{target}/")).await;
        assert!(status == 502 && text.contains(code), "{target}: {status} {text}");
    }
}

#[tokio::test]
async fn an_import_that_is_not_granted_is_named_when_the_component_is_loaded() {
    let machine = Machine::new();
    let (path, digest) = component("greedy");
    let error = machine.host.load(&digest, Source::File(&path)).expect_err("it wants too much");
    assert!(
        matches!(&error, Error::ImportNotGranted(name) if name == "acme:secrets/vault@0.1.0"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_component_that_answers_no_http_tells_what_it_exports() {
    let machine = Machine::new();
    let (path, digest) = component("command");
    let error = machine.host.load(&digest, Source::File(&path)).expect_err("it is a command").to_string();
    assert!(
        error.contains("exports no wasi:http/incoming-handler@0.2; it exports wasi:cli/run@0.2"),
        "{error}"
    );
}
