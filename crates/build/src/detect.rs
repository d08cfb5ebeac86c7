//! What a directory is: the language, by the files at its top.

use std::path::Path;

use crate::error::{Error, Reason, Result};
use crate::project::{Language, Project, Request, Tree};
use crate::source::{self, Place};

/// The longest name of a service: a DNS label.
const NAME_MAX: usize = 63;

/// Finds out what the request's source is. Reads all of it (the digest is the build's identity) and writes nothing.
/// Blocking.
///
/// # Errors
/// [`Reason::SourceNotFound`], [`Reason::SourceTooLarge`], [`Reason::SourceUnreadable`],
/// [`Reason::SymlinkEscapesRoot`], [`Reason::LanguageNotDetected`], [`Reason::AmbiguousLanguage`],
/// [`Reason::ProjectInvalid`] for a name that cannot be a service's.
pub fn detect(request: &Request) -> Result<Project> {
    let place = source::locate(request)?;
    let tree = source::scan(&place, request)?;
    let (language, evidence) = language(request, &tree, place.file.as_deref())?;
    let name = match &request.name {
        Some(name) => {
            check_name(name)?;
            name.clone()
        }
        None => name_at(&place),
    };
    Ok(Project { root: place.root, file: place.file, name, language, evidence, tree })
}

/// The name of a service made from the project at `path` when nobody gives one: the directory's or the file's, as a DNS
/// label.
///
/// # Errors
/// [`Reason::SourceNotFound`].
pub fn name_of(path: &Path) -> Result<String> {
    Ok(name_at(&source::locate(&Request::new(path))?))
}

fn name_at(place: &Place) -> String {
    let name = match &place.file {
        Some(file) => file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem).to_owned(),
        None => place.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    label(&name)
}

fn language(request: &Request, tree: &Tree, file: Option<&str>) -> Result<(Language, Vec<String>)> {
    let found = candidates(tree, file);
    if let Some(language) = request.language {
        let evidence = found.into_iter().filter(|(found, _)| *found == language).map(|(_, file)| file);
        return Ok((language, evidence.collect()));
    }
    let Some((first, evidence)) = found.first().cloned() else {
        return Err(Error::new(
            Reason::LanguageNotDetected,
            format!("nothing at the top of {} tells what it is written in", request.source.display()),
        ));
    };
    // A Dockerfile says itself how it is built, and static files or a Procfile may lie beside any program.
    let speaks = |language: &Language| {
        !matches!(language, Language::Dockerfile | Language::Static | Language::Binary | Language::Wasm)
    };
    let mut others = found.iter().filter(|(other, _)| *other != first && speaks(other));
    if speaks(&first)
        && let Some((other, file)) = others.next()
    {
        return Err(Error::new(
            Reason::AmbiguousLanguage,
            format!("{evidence} says {first} and {file} says {other}"),
        ));
    }
    Ok((first, vec![evidence]))
}

/// Every language that the files at the top tell, surest first, with the file that tells it.
fn candidates(tree: &Tree, file: Option<&str>) -> Vec<(Language, String)> {
    let mut found = Vec::new();
    let mut note = |language, file: &str| found.push((language, file.to_owned()));
    if let Some(file) = file {
        let language = if file.ends_with(".wasm") { Language::Wasm } else { Language::Binary };
        note(language, file);
        return found;
    }
    let first = |names: &[&str]| names.iter().find(|name| tree.has(name)).map(|name| (*name).to_owned());
    let by_suffix = |suffix: &str| tree.top().find(|name| name.ends_with(suffix)).map(str::to_owned);
    let node = if tree.has("tsconfig.json") { Language::TypeScript } else { Language::Node };
    let named: [(Language, &[&str]); 7] = [
        (Language::Dockerfile, &["Dockerfile", "Containerfile"]),
        (Language::Go, &["go.mod"]),
        (Language::Rust, &["Cargo.toml"]),
        (node, &["package.json"]),
        (Language::Python, &["pyproject.toml", "requirements.txt", "uv.lock"]),
        (Language::Java, &["pom.xml"]),
        (Language::Binary, &["Procfile"]),
    ];
    for (language, names) in named {
        if let Some(file) = first(names) {
            note(language, &file);
        }
    }
    let speaks = found.iter().any(|(language, _)| !matches!(language, Language::Binary));
    if !speaks {
        let mut more = Vec::new();
        more.extend(by_suffix(".py").map(|file| (Language::Python, file)));
        more.extend(by_suffix(".java").map(|file| (Language::Java, file)));
        more.extend(first(&["index.html"]).map(|file| (Language::Static, file)));
        more.extend(by_suffix(".wasm").map(|file| (Language::Wasm, file)));
        // A Procfile only says what to run.
        found = more.into_iter().chain(found).collect();
    }
    found
}

fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-');
    match fits {
        true => Ok(()),
        false => Err(Error::new(
            Reason::ProjectInvalid,
            format!(
                "the name {name:?} is not a DNS label: lowercase letters, digits and hyphens, beginning with a letter"
            ),
        )
        .with_remedy("give another name with --name")),
    }
}

/// The DNS label that is nearest to `text`.
fn label(text: &str) -> String {
    let mut label: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(NAME_MAX)
        .collect();
    while label.starts_with(|first: char| !first.is_ascii_lowercase()) {
        label.remove(0);
    }
    let label = label.trim_end_matches('-');
    if label.is_empty() { "app".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::project::Entry;

    fn tree(files: &[&str]) -> Tree {
        let entry = |name: &&str| ((*name).to_owned(), Entry::Scaffold { text: String::new() });
        Tree { entries: files.iter().map(entry).collect::<BTreeMap<_, _>>(), digest: None, bytes: 0 }
    }

    #[test]
    fn the_files_at_the_top_tell_the_language() {
        for (files, expected) in [
            (&["go.mod", "main.go"][..], Language::Go),
            (&["Cargo.toml", "src/main.rs"], Language::Rust),
            (&["package.json", "index.js", "index.html"], Language::Node),
            (&["package.json", "tsconfig.json"], Language::TypeScript),
            (&["requirements.txt", "app.py"], Language::Python),
            (&["main.py"], Language::Python),
            (&["pom.xml"], Language::Java),
            (&["Main.java"], Language::Java),
            (&["index.html", "style.css"], Language::Static),
            (&["Procfile", "server"], Language::Binary),
            (&["Procfile", "main.py"], Language::Python),
            (&["Dockerfile", "go.mod", "package.json"], Language::Dockerfile),
            (&["function.wasm"], Language::Wasm),
        ] {
            let (language, _) = language(&Request::new("."), &tree(files), None).unwrap();
            assert_eq!(language, expected, "{files:?}");
        }
    }

    #[test]
    fn two_languages_or_none_are_errors_that_name_the_files() {
        let error = language(&Request::new("."), &tree(&["go.mod", "package.json"]), None).unwrap_err();
        assert_eq!(error.reason, Reason::AmbiguousLanguage);
        assert!(error.message.contains("go.mod") && error.message.contains("package.json"));
        let error = language(&Request::new("."), &tree(&["README.md"]), None).unwrap_err();
        assert_eq!(error.reason, Reason::LanguageNotDetected);
        let mut request = Request::new(".");
        request.language = Some(Language::Node);
        assert_eq!(language(&request, &tree(&["go.mod", "package.json"]), None).unwrap().0, Language::Node);
    }

    #[test]
    fn a_directory_name_becomes_a_label() {
        for (text, expected) in
            [("My App", "my-app"), ("2048_game", "game"), ("___", "app"), ("a--", "a"), ("x.y", "x-y")]
        {
            assert_eq!(label(text), expected);
        }
        assert!(check_name("Bad_Name").unwrap_err().message.contains("Bad_Name"));
    }
}
