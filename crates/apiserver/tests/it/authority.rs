//! The certificate authority on disk.

use std::os::unix::fs::PermissionsExt;

use dormouse_apiserver::Authority;
use dormouse_base::clock::timestamp;

#[test]
fn the_authority_is_kept_and_its_files_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let first = Authority::load_or_create(directory.path(), &[], timestamp()).unwrap();
    let second = Authority::load_or_create(directory.path(), &["10.1.2.3".into()], timestamp()).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    for name in ["ca.crt", "ca.key"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    second.server_config().unwrap();
    let config = second.kubeconfig("https://127.0.0.1:6443");
    let config: serde_json::Value = serde_saphyr::from_str(&config).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
}

#[test]
fn an_authority_about_to_end_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let long_ago = "2001-02-03T00:00:00Z".parse().unwrap();
    let first = Authority::load_or_create(directory.path(), &[], long_ago).unwrap();
    let second = Authority::load_or_create(directory.path(), &[], timestamp()).unwrap();
    assert_ne!(first.certificate_pem(), second.certificate_pem());
}

#[test]
fn broken_files_and_names_are_named() {
    let directory = tempfile::tempdir().unwrap();
    Authority::load_or_create(directory.path(), &[], timestamp()).unwrap();
    let file = directory.path().join("ca.key");
    std::fs::write(&file, "nonsense").unwrap();
    let error = Authority::load_or_create(directory.path(), &[], timestamp()).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    let file = directory.path().join("ca.crt");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = Authority::load_or_create(directory.path(), &[], timestamp()).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}
