use std::time::Duration;

use dormouse_base::clock;
use dormouse_gateway::{GatewayConfig, RevisionPolicy};
use http::Response;
use http_body_util::BodyExt;

use crate::support::*;

#[tokio::test]
async fn unknown_hosts_and_inner_hosts_are_404_outside() {
    let bench = Bench::new().await;
    bench.endpoints(&[instance(|request| async move {
        Response::new(full(request.headers()["host"].as_bytes().to_vec()))
    })
    .await]);
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(bench.raw(&ask("nobody.example.com")).await.starts_with("HTTP/1.1 404"));
    assert!(bench.raw(&ask("h.default.svc")).await.starts_with("HTTP/1.1 404"));
    let inside = raw(bench.internal, &ask("h.default.svc")).await;
    assert!(inside.ends_with("rewritten.example.com"), "{inside}");
    let port = bench.raw(&ask("H.example.com:8080")).await;
    assert!(port.ends_with("H.example.com:8080"), "the host is preserved: {port}");
}

#[tokio::test]
async fn too_long_too_many_and_too_large_are_refused() {
    let config = GatewayConfig { max_body: 10, ..Default::default() };
    let bench = Bench::with(config, RevisionPolicy::default()).await;
    bench.endpoints(&[instance(|request| async move {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Response::new(full(body))
    })
    .await]);
    let long = bench.get(&format!("/{}", "x".repeat(20_000))).await;
    assert!(long.starts_with("HTTP/1.1 414"), "{long}");
    let many: String = (0..120).map(|index| format!("X-H{index}: 1\r\n")).collect();
    let many = bench.raw(&format!("GET / HTTP/1.1\r\nHost: h.example.com\r\n{many}\r\n")).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let wide = format!("GET / HTTP/1.1\r\nHost: h.example.com\r\nX: {}\r\n\r\n", "y".repeat(80_000));
    let wide = bench.raw(&wide).await;
    assert!(wide.starts_with("HTTP/1.1 431"), "{wide}");
    let head = "POST / HTTP/1.1\r\nHost: h.example.com\r\nConnection: close\r\n";
    let fits = bench.raw(&format!("{head}Content-Length: 10\r\n\r\n0123456789")).await;
    assert!(fits.ends_with("0123456789"), "{fits}");
    let large = bench.raw(&format!("{head}Content-Length: 11\r\n\r\n0123456789a")).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    let chunked =
        bench.raw(&format!("{head}Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n")).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    assert!(
        bench
            .raw("CONNECT h.example.com:80 HTTP/1.1\r\nHost: h.example.com:80\r\nConnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert_eq!(bench.gateway.busy(), 0);
}

#[tokio::test]
async fn a_slow_head_ends_the_connection() {
    let config = GatewayConfig { head_timeout: Duration::from_millis(50), ..Default::default() };
    let bench = Bench::with(config, RevisionPolicy::default()).await;
    let answer = bench.raw("GET / HTTP/1.1\r\nHost: h.exa").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn limits_of_time_are_504_before_the_response_and_an_end_after_it() {
    let policy = RevisionPolicy { timeout: Duration::from_millis(80), ..Default::default() };
    let bench = Bench::with(GatewayConfig::default(), policy.clone()).await;
    bench.endpoints(&[Brake::default().instance(None).await]);
    let answer = bench.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.ends_with("request timeout"), "{answer}");

    let endless = instance(|_| async {
        let (mut sender, body) = http_body_util::channel::Channel::<bytes::Bytes>::new(1);
        spawn(async move {
            let _ = sender.send_data("first".into()).await;
            clock::sleep(Duration::from_secs(60)).await;
        });
        Response::new(body.boxed())
    })
    .await;
    bench.endpoints(&[endless]);
    let answer = bench.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("first"), "{answer}");
    assert!(answer.contains("request timeout"), "the text is appended, as Knative does: {answer}");
    until("freed", || bench.gateway.busy() == 0).await;

    let start = RevisionPolicy {
        timeout: Duration::from_secs(60),
        response_start_timeout: Duration::from_millis(50),
        ..Default::default()
    };
    bench.gateway.set_policy(&bench.key, start);
    bench.endpoints(&[Brake::default().instance(None).await]);
    assert!(bench.get("/").await.starts_with("HTTP/1.1 504"));

    let idle = RevisionPolicy {
        timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_millis(50),
        ..Default::default()
    };
    bench.gateway.set_policy(&bench.key, idle);
    bench.endpoints(&[endless]);
    let answer = bench.get("/").await;
    assert!(answer.contains("first") && answer.contains("request timeout"), "{answer}");

    let promised = instance(|_| async {
        let (mut sender, body) = http_body_util::channel::Channel::<bytes::Bytes>::new(1);
        spawn(async move {
            let _ = sender.send_data("first".into()).await;
            clock::sleep(Duration::from_secs(60)).await;
        });
        Response::builder().header("content-length", "100").body(body.boxed()).unwrap()
    })
    .await;
    bench.endpoints(&[promised]);
    let answer = bench.get("/").await;
    assert!(answer.ends_with("first"), "a cut answer of a promised length does not look complete: {answer}");
}

#[tokio::test]
async fn headers_tell_the_workload_what_it_must_know_and_nothing_internal() {
    let bench = Bench::new().await;
    bench.endpoints(&[instance(|request| async move {
        let mut text = String::new();
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}={}\n", value.to_str().unwrap()));
        }
        Response::new(full(text))
    })
    .await]);
    let answer = bench
        .raw(
            "GET / HTTP/1.1\r\nHost: h.example.com\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Set: mine\r\n\
             Knative-Serving-Revision: forged\r\nKnative-Serving-Namespace: forged\r\nProxy-Connection: x\r\n\r\n",
        )
        .await;
    for expected in [
        "host=h.example.com\n",
        "x-forwarded-for=127.0.0.1\n",
        "x-forwarded-proto=http\n",
        "forwarded=for=127.0.0.1;host=h.example.com;proto=http\n",
        "x-set=by-split\n",
    ] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    for unexpected in ["x-hop", "forged", "knative-serving", "proxy-connection", "connection="] {
        assert!(!answer.contains(unexpected), "{unexpected} in {answer}");
    }
}

#[tokio::test]
async fn probes_are_answered_with_the_hash_of_the_configuration() {
    let bench = Bench::new().await;
    let probe = |hash: &str| {
        format!(
            "GET /healthz HTTP/1.1\r\nHost: h.example.com\r\nK-Network-Probe: probe\r\n{hash}Connection: close\r\n\r\n"
        )
    };
    let answer = bench.raw(&probe("K-Network-Hash: override\r\n")).await;
    let hash = answer.lines().find_map(|line| line.strip_prefix("k-network-hash: ")).expect("a hash");
    assert!(answer.starts_with("HTTP/1.1 200") && hash.len() == 64, "{answer}");
    let missing = bench.raw(&probe("")).await;
    assert!(
        missing.starts_with("HTTP/1.1 400") && missing.contains("non-empty \"K-Network-Hash\""),
        "{missing}"
    );
}

#[tokio::test]
async fn redirected_hosts_are_sent_to_https() {
    let bench = Bench::new().await;
    bench.gateway.swap_routes(dormouse_gateway::compile(&[ingress(serde_json::json!({
        "httpOption": "Redirected",
        "rules": [{"hosts": ["h.example.com"], "http": {"paths": [{"splits": [{"serviceName": "h-00001"}]}]}}]
    }))]));
    let answer = bench.get("/a?b=c").await;
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
    assert!(answer.contains("location: https://h.example.com/a?b=c"), "{answer}");
}
