//! What is said about a built image, kept beside it as referrers: what is in it (SPDX 2.3) and how it came about
//! (SLSA provenance 1.0). Both are functions of the plan and the source: the same build says the same.

use std::collections::BTreeSet;

use dormouse_image::{Digest, Referrer};
use serde_json::{Value, json};

use crate::error::Result;
use crate::plan::Plan;
use crate::project::Project;

/// The media type of SPDX documents.
pub(crate) const SPDX: &str = "application/spdx+json";
/// The media type of attestations.
pub(crate) const IN_TOTO: &str = "application/vnd.in-toto+json";
/// When everything was made: statements must not depend on the day.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A dependency as a lock file names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// The package URL's type: `cargo`, `npm`, `golang`, `pypi`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Both statements about `image`.
pub(crate) fn all(project: &Project, plan: &Plan, name: &str, image: Digest) -> Result<Vec<Referrer>> {
    let packages = packages(project)?;
    let statement = |kind: &str, value: &Value| Referrer {
        artifact_type: kind.to_owned(),
        media_type: kind.to_owned(),
        bytes: value.to_string().into_bytes(),
        annotations: std::collections::BTreeMap::new(),
    };
    Ok(vec![
        statement(SPDX, &sbom(plan, &packages, image)),
        statement(IN_TOTO, &provenance(plan, name, image)),
    ])
}

/// What the lock files at the top of the project name. A file that cannot be read as what it should be lists nothing: the
/// package manager has judged it before.
pub(crate) fn packages(project: &Project) -> Result<BTreeSet<Package>> {
    let read = |path: &str| -> Result<Option<String>> {
        use crate::error::Error;
        use crate::project::Entry;
        match project.tree.entries.get(path) {
            Some(Entry::File { .. }) => {
                let file = project.root.join(path);
                let bytes = std::fs::read(&file).map_err(|source| Error::file("read", &file, source))?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Some(Entry::Scaffold { text }) => Ok(Some(text.clone())),
            _ => Ok(None),
        }
    };
    let mut found = BTreeSet::new();
    if let Some(text) = read("Cargo.lock")? {
        found.extend(cargo(&text));
    }
    if let Some(text) = read("package-lock.json")? {
        found.extend(npm(&text));
    }
    if let Some(text) = read("go.mod")? {
        found.extend(go(&text));
    }
    if let Some(text) = read("requirements.txt")? {
        found.extend(python(&text));
    }
    Ok(found)
}

fn cargo(text: &str) -> Vec<Package> {
    let lock = text.parse::<toml::Table>().unwrap_or_default();
    let packages = lock.get("package").and_then(toml::Value::as_array);
    packages
        .into_iter()
        .flatten()
        // Those without a source are the project's own.
        .filter(|package| package.get("source").is_some())
        .filter_map(|package| {
            let field = |name: &str| package.get(name)?.as_str().map(str::to_owned);
            Some(Package { kind: "cargo", name: field("name")?, version: field("version")? })
        })
        .collect()
}

fn npm(text: &str) -> Vec<Package> {
    let lock: Value = serde_json::from_str(text).unwrap_or_default();
    let packages = lock.get("packages").and_then(Value::as_object);
    packages
        .into_iter()
        .flatten()
        .filter(|(_, package)| package.get("dev").and_then(Value::as_bool) != Some(true))
        .filter_map(|(path, package)| {
            let (_, name) = path.rsplit_once("node_modules/")?;
            let version = package.get("version")?.as_str()?;
            Some(Package { kind: "npm", name: name.to_owned(), version: version.to_owned() })
        })
        .collect()
}

fn go(text: &str) -> Vec<Package> {
    let required = |line: &str| {
        let line = line.trim().strip_prefix("require ").unwrap_or(line.trim()).trim();
        let mut words = line.split_whitespace();
        let (name, version) = (words.next()?, words.next()?);
        let is_module = name.contains('.') && version.starts_with('v');
        is_module.then(|| Package { kind: "golang", name: name.to_owned(), version: version.to_owned() })
    };
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        match line.trim() {
            "require (" => inside = true,
            ")" => inside = false,
            plain if inside || plain.starts_with("require ") => found.extend(required(plain)),
            _ => {}
        }
    }
    found
}

fn python(text: &str) -> Vec<Package> {
    let pinned = |line: &str| {
        let line = line.split(['#', ';']).next()?.trim();
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next()?.trim().to_ascii_lowercase().replace('_', "-");
        let version = version.split_whitespace().next()?.to_owned();
        Some(Package { kind: "pypi", name, version })
    };
    text.lines().filter_map(pinned).collect()
}

fn sbom(plan: &Plan, packages: &BTreeSet<Package>, image: Digest) -> Value {
    let mut list = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": plan.name,
        "versionInfo": image.to_string(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": image.hex()}],
    })];
    let mut relations = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Image",
    })];
    for (number, package) in packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{number}");
        let version = package.version.trim_start_matches('v');
        let version = if package.kind == "golang" { package.version.as_str() } else { version };
        let locator = format!("pkg:{}/{}@{version}", package.kind, package.name.replace('@', "%40"));
        list.push(json!({
            "SPDXID": id,
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator,
            }],
        }));
        relations.push(json!({
            "spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS", "relatedSpdxElement": id,
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": plan.name,
        "documentNamespace": format!("https://dormouse.dev/spdx/{}", image.hex()),
        "creationInfo": {"created": CREATED, "creators": ["Tool: dormouse"]},
        "packages": list,
        "relationships": relations,
    })
}

fn provenance(plan: &Plan, name: &str, image: Digest) -> Value {
    // The port in a registry's name is this platform's, not the image's.
    let repository = name.split_once('/').map_or(name, |(_, rest)| rest);
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": repository, "digest": {"sha256": image.hex()}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://dormouse.dev/build/plan/v1",
                "externalParameters": {"plan": plan},
                "internalParameters": {},
                "resolvedDependencies": [{"name": "source", "digest": {"sha256": plan.source.hex()}}],
            },
            "runDetails": {
                "builder": {
                    "id": "https://dormouse.dev/build/host",
                    "version": plan.tools.iter().map(|t| (t.name.clone(), t.version.clone())).collect::<std::collections::BTreeMap<_, _>>(),
                },
                "metadata": {"invocationId": plan.digest().to_string()},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: Vec<Package>) -> Vec<String> {
        list.into_iter()
            .map(|package| format!("{}/{}@{}", package.kind, package.name, package.version))
            .collect()
    }

    #[test]
    fn lock_files_name_what_is_in_the_image() {
        let lock = "[[package]]\nname='own'\nversion='1'\n[[package]]\nname='serde'\nversion='1.0.1'\nsource='registry+x'\n";
        assert_eq!(shown(cargo(lock)), ["cargo/serde@1.0.1"]);
        let lock = r#"{"packages":{"":{"name":"app"},"node_modules/@a/b":{"version":"2.0.0"},
            "node_modules/x/node_modules/y":{"version":"3"},"node_modules/tsc":{"version":"5","dev":true}}}"#;
        assert_eq!(shown(npm(lock)), ["npm/@a/b@2.0.0", "npm/y@3"]);
        let module =
            "module x\nrequire a.b/c v1.2.3\nrequire (\n\td.e/f v0.1.0 // indirect\n)\nreplace x => ./y\n";
        assert_eq!(shown(go(module)), ["golang/a.b/c@v1.2.3", "golang/d.e/f@v0.1.0"]);
        assert_eq!(shown(python("Flask[async]==3.0.3 # web\nloose>=1\n")), ["pypi/flask@3.0.3"]);
        assert!(cargo("not a lock file").is_empty() && npm("{").is_empty());
    }

    #[test]
    fn a_statement_names_its_image_by_digest() {
        let image = Digest::of(b"image");
        let packages = BTreeSet::from([Package { kind: "npm", name: "@a/b".into(), version: "1".into() }]);
        let plan: Plan = serde_json::from_value(json!({
            "recipe": 1, "name": "x", "language": "node", "source": Digest::of(b"source"), "tools": [],
            "stages": [], "base": {"kind": "scratch"}, "layers": [],
            "run": {"command": [], "env": {}, "workingDir": "/", "port": 8080, "labels": {}},
        }))
        .unwrap();
        let document = sbom(&plan, &packages, image);
        assert_eq!(document["packages"][1]["externalRefs"][0]["referenceLocator"], "pkg:npm/%40a/b@1");
        let statement = provenance(&plan, "127.0.0.1:5000/default/x:latest", image);
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image.hex());
        assert_eq!(statement["subject"][0]["name"], "default/x:latest");
    }
}
