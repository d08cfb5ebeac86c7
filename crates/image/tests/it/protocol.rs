//! The registry endpoint, clause by clause of the distribution specification.

use dormouse_image::Digest;
use http::{Method, StatusCode};

use crate::support::{OCI_INDEX, OCI_MANIFEST, World, count};

#[tokio::test]
async fn the_base_path_answers_and_unknown_things_have_their_codes() {
    let world = World::new().await;
    let base = world.get("/v2/").await;
    assert_eq!(
        (base.status, base.header("docker-distribution-api-version")),
        (StatusCode::OK, "registry/2.0")
    );
    let digest = Digest::of(b"nothing");
    for (path, status, code) in [
        (format!("/v2/x/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        ("/v2/x/blobs/sha256:12".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/x/manifests/none".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/x/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/x/manifests/-bad".to_owned(), 400, "TAG_INVALID"),
        ("/v2/Bad/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/x/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/x/blobs/uploads/none".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/elsewhere".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let answer = world.get(&path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{path}");
    }
    world.end().await;
}

#[tokio::test]
async fn blobs_arrive_whole_in_two_requests_or_one() {
    let world = World::new().await;
    let bytes = b"some blob";
    let digest = Digest::of(bytes);
    let begun = world.send(Method::POST, "/v2/a/b/blobs/uploads/", &[], b"").await;
    assert_eq!(begun.status, StatusCode::ACCEPTED);
    assert!(!begun.header("docker-upload-uuid").is_empty());
    let path = format!("{}?digest={digest}", begun.header("location"));
    let done = world.send(Method::PUT, &path, &[], bytes).await;
    assert_eq!(done.status, StatusCode::CREATED);
    assert_eq!(done.header("location"), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(done.header("docker-content-digest"), digest.to_string());
    assert_eq!(world.get(done.header("location")).await.body, &bytes[..]);
    let head = world.send(Method::HEAD, done.header("location"), &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, "9"));
    assert_eq!(world.get(&format!("/v2/other/blobs/{digest}")).await.status, StatusCode::NOT_FOUND);
    world.push_blob("other", bytes).await;
    assert_eq!(count(&world.path("store/blobs/sha256")), 1, "nothing is stored twice");
    world.end().await;
}

#[tokio::test]
async fn chunks_must_be_in_order_and_a_wrong_digest_leaves_nothing() {
    let world = World::new().await;
    let begun = world.send(Method::POST, "/v2/x/blobs/uploads/", &[], b"").await;
    let place = begun.header("location").to_owned();
    let chunk = |range: &'static str, body: &'static [u8]| {
        let (world, place) = (&world, place.clone());
        async move { world.send(Method::PATCH, &place, &[("content-range", range)], body).await }
    };
    let first = chunk("0-3", b"0123").await;
    assert_eq!((first.status, first.header("range")), (StatusCode::ACCEPTED, "0-3"));
    let early = chunk("6-7", b"67").await;
    assert_eq!((early.status.as_u16(), early.header("range")), (416, "0-3"));
    let again = chunk("0-3", b"0123").await;
    assert_eq!(again.status.as_u16(), 416);
    let short = chunk("4-9", b"45").await;
    assert_eq!((short.status.as_u16(), short.code().as_str()), (400, "SIZE_INVALID"));
    assert_eq!(chunk("x-y", b"45").await.code(), "BLOB_UPLOAD_INVALID");
    let status = world.get(&place).await;
    assert_eq!((status.status, status.header("range")), (StatusCode::NO_CONTENT, "0-3"));
    assert_eq!(chunk("4-5", b"45").await.header("range"), "0-5");
    let digest = Digest::of(b"01234567");
    let done = world
        .send(Method::PUT, &format!("{place}?digest={digest}"), &[("content-range", "6-7")], b"67")
        .await;
    assert_eq!(done.status, StatusCode::CREATED);
    assert_eq!(world.get(&format!("/v2/x/blobs/{digest}")).await.body, &b"01234567"[..]);

    let begun = world.send(Method::POST, "/v2/x/blobs/uploads/", &[], b"").await;
    let path = format!("{}?digest={digest}", begun.header("location"));
    let wrong = world.send(Method::PUT, &path, &[], b"other").await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (400, "DIGEST_INVALID"));
    let begun = world.send(Method::POST, "/v2/x/blobs/uploads/", &[], b"").await;
    let place = begun.header("location");
    world.send(Method::PATCH, place, &[], b"half").await;
    assert_eq!(world.send(Method::DELETE, place, &[], b"").await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get(place).await.status, StatusCode::NOT_FOUND);
    assert_eq!(count(&world.path("store/tmp")), 0, "nothing is left behind");
    world.end().await;
}

#[tokio::test]
async fn parts_of_blobs_are_served() {
    let world = World::new().await;
    let digest = world.push_blob("x", b"0123456789").await;
    let path = format!("/v2/x/blobs/{digest}");
    let part = world.send(Method::GET, &path, &[("range", "bytes=2-5")], b"").await;
    assert_eq!((part.status.as_u16(), part.header("content-range")), (206, "bytes 2-5/10"));
    assert_eq!(part.body, &b"2345"[..]);
    let beyond = world.send(Method::GET, &path, &[("range", "bytes=10-")], b"").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
    world.end().await;
}

#[tokio::test]
async fn blobs_are_mounted_and_deleted_per_repository() {
    let world = World::new().await;
    let digest = world.push_blob("a", b"blob").await;
    let mount = |query: String| {
        let world = &world;
        async move { world.send(Method::POST, &format!("/v2/b/blobs/uploads/?{query}"), &[], b"").await }
    };
    assert_eq!(mount(format!("mount={}&from=a", Digest::of(b"no"))).await.status, StatusCode::ACCEPTED);
    assert_eq!(mount(format!("mount={digest}&from=c")).await.status, StatusCode::ACCEPTED);
    let mounted = mount(format!("mount={digest}&from=a")).await;
    assert_eq!(
        (mounted.status, mounted.header("location")),
        (StatusCode::CREATED, &*format!("/v2/b/blobs/{digest}"))
    );
    assert_eq!(
        world.send(Method::DELETE, &format!("/v2/a/blobs/{digest}"), &[], b"").await.status.as_u16(),
        202
    );
    assert_eq!(world.get(&format!("/v2/a/blobs/{digest}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get(&format!("/v2/b/blobs/{digest}")).await.status, StatusCode::OK);
    world.end().await;
}

#[tokio::test]
async fn manifests_are_checked_and_found_by_tag_and_digest() {
    let world = World::new().await;
    let (digest, bytes) = world.push_image("x", "v1", "1").await;
    for at in ["v1", &digest] {
        let path = format!("/v2/x/manifests/{at}");
        let got = world.get(&path).await;
        assert_eq!(
            (got.header("content-type"), got.header("docker-content-digest")),
            (OCI_MANIFEST, digest.as_str())
        );
        assert_eq!(got.body, bytes);
        let head = world.send(Method::HEAD, &path, &[], b"").await;
        assert_eq!(head.header("content-length"), bytes.len().to_string());
    }
    let put = |at: &'static str, kind: &'static str, body: Vec<u8>| {
        let world = &world;
        async move {
            let path = format!("/v2/x/manifests/{at}");
            let answer = world.send(Method::PUT, &path, &[("content-type", kind)], &body).await;
            (answer.status.as_u16(), answer.code())
        }
    };
    assert_eq!(put("v2", OCI_MANIFEST, b"{".to_vec()).await, (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("v2", OCI_INDEX, bytes.clone()).await, (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("v2", OCI_MANIFEST, vec![b' '; 5 << 20]).await, (413, "SIZE_INVALID".into()));
    let text = String::from_utf8(bytes.clone()).unwrap();
    let unknown = text.replace(
        r#""layers":[]"#,
        &format!(r#""layers":[{{"mediaType":"t","digest":"{}","size":1}}]"#, Digest::of(b"?")),
    );
    assert_eq!(put("v2", OCI_MANIFEST, unknown.into_bytes()).await, (404, "MANIFEST_BLOB_UNKNOWN".into()));
    let other = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(put(other, OCI_MANIFEST, bytes).await, (400, "DIGEST_INVALID".into()));

    world.push_image("x", "v1", "2").await;
    assert_eq!(
        world.get(&format!("/v2/x/manifests/{digest}")).await.status,
        StatusCode::OK,
        "a moved tag loses nothing"
    );
    assert_eq!(world.send(Method::DELETE, "/v2/x/manifests/v1", &[], b"").await.status.as_u16(), 202);
    assert_eq!(world.get("/v2/x/manifests/v1").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        world.send(Method::DELETE, &format!("/v2/x/manifests/{digest}"), &[], b"").await.status.as_u16(),
        202
    );
    assert_eq!(
        world.send(Method::DELETE, &format!("/v2/x/manifests/{digest}"), &[], b"").await.status.as_u16(),
        404
    );
    world.end().await;
}

#[tokio::test]
async fn an_index_needs_its_manifests() {
    let world = World::new().await;
    let (digest, bytes) = world.push_image("x", "one", "1").await;
    let index = |digest: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{}}}]}}"#,
            bytes.len()
        )
    };
    let kind = [("content-type", OCI_INDEX)];
    let put = world.send(Method::PUT, "/v2/x/manifests/all", &kind, index(&digest).as_bytes()).await;
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(world.get("/v2/x/manifests/all").await.header("content-type"), OCI_INDEX);
    let missing = index(&Digest::of(b"?").to_string());
    let put = world.send(Method::PUT, "/v2/x/manifests/all", &kind, missing.as_bytes()).await;
    assert_eq!(put.code(), "MANIFEST_BLOB_UNKNOWN");
    world.end().await;
}

#[tokio::test]
async fn tags_and_repositories_are_listed_in_pages() {
    let world = World::new().await;
    for (repository, tag) in [("x", "b"), ("x", "a"), ("x", "c"), ("x-y", "z"), ("x/y", "z")] {
        world.push_image(repository, tag, "1").await;
    }
    assert_eq!(world.get("/v2/x/tags/list").await.json()["tags"], serde_json::json!(["a", "b", "c"]));
    let page = world.get("/v2/x/tags/list?n=2").await;
    assert_eq!(page.json()["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(page.header("link"), r#"</v2/x/tags/list?n=2&last=b>; rel="next""#);
    let rest = world.get("/v2/x/tags/list?n=2&last=b").await;
    assert_eq!((rest.json()["tags"].clone(), rest.header("link")), (serde_json::json!(["c"]), ""));
    assert_eq!(world.get("/v2/x/tags/list?n=x").await.code(), "PAGINATION_NUMBER_INVALID");
    let catalog = world.get("/v2/_catalog?n=2").await;
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["x", "x-y"]));
    assert_eq!(world.get("/v2/_catalog?last=x-y").await.json()["repositories"], serde_json::json!(["x/y"]));
    world.end().await;
}

#[tokio::test]
async fn referrers_are_found_and_filtered() {
    let world = World::new().await;
    let (subject, bytes) = world.push_image("x", "v1", "1").await;
    let empty = world.push_blob("x", b"{}").await;
    for kind in ["application/spdx+json", "application/sig"] {
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"{kind}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{}}},"annotations":{{"k":"v"}}}}"#,
            bytes.len()
        );
        let digest = Digest::of(manifest.as_bytes());
        let path = format!("/v2/x/manifests/{digest}");
        let put =
            world.send(Method::PUT, &path, &[("content-type", OCI_MANIFEST)], manifest.as_bytes()).await;
        assert_eq!((put.status, put.header("oci-subject")), (StatusCode::CREATED, subject.as_str()));
    }
    let all = world.get(&format!("/v2/x/referrers/{subject}")).await;
    assert_eq!(
        (all.header("content-type"), all.json()["manifests"].as_array().unwrap().len()),
        (OCI_INDEX, 2)
    );
    let one = world.get(&format!("/v2/x/referrers/{subject}?artifactType=application%2Fsig")).await;
    assert_eq!(one.header("oci-filters-applied"), "artifactType");
    assert_eq!(one.json()["manifests"][0]["artifactType"], "application/sig");
    assert_eq!(one.json()["manifests"][0]["annotations"]["k"], "v");
    let none = world.get(&format!("/v2/x/referrers/{}", Digest::of(b"?"))).await;
    assert_eq!((none.status, none.json()["manifests"].as_array().unwrap().len()), (StatusCode::OK, 0));
    world.end().await;
}

#[tokio::test]
async fn web_pages_cannot_write() {
    let world = World::new().await;
    let headers = [("origin", "https://evil.example")];
    let answer = world.send(Method::POST, "/v2/x/blobs/uploads/", &headers, b"").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "DENIED"));
    world.end().await;
}

#[tokio::test]
async fn blobs_beyond_the_limit_are_refused() {
    let world = World::with(|config| config.limits.blob_bytes = 10).await;
    let digest = Digest::of(&[b'x'; 20]);
    let path = format!("/v2/x/blobs/uploads/?digest={digest}");
    let answer = world.send(Method::POST, &path, &[], &[b'x'; 20]).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "SIZE_INVALID"));
    world.end().await;
}
