//! Compiles the static file server that images of static sites carry: one file, the standard library, no dependency.

use std::path::PathBuf;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts everything by variables")]
fn main() {
    println!("cargo::rerun-if-changed=serve/main.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("serve");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let status = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "serve",
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cstrip=symbols",
        ])
        .args([
            "-Ctarget-feature=+crt-static",
            "-Clto=fat",
            "-Ccodegen-units=1",
            "--remap-path-prefix",
            "serve=serve",
        ])
        .args(["--target", &variable("TARGET")])
        .arg("-o")
        .arg(&out)
        .arg("serve/main.rs")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("the static file server does not compile: {status}"),
        Err(error) => panic!("rustc cannot be run: {error}"),
    }
}
