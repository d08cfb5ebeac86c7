//! What `create` writes: a small working function for each language and kind of invocation.

use std::path::{Path, PathBuf};

use super::record::Time;
use super::{Function, Health, SPEC_VERSION, Spec};
use crate::error::{Error, Reason, Result};

/// A project to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// The runtime of func.yaml.
    pub language: &'static str,
    /// `http` or `cloudevents`.
    pub name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// What every function begins with.
const FUNCIGNORE: &str = "# What is listed here, as in .gitignore, does not go into the image.\n";

/// The files of a template: where they lie in this crate's `templates`, and their paths.
macro_rules! files {
    ($place:literal: $($file:literal)+) => {
        &[$(($file, include_str!(concat!("../../templates/", $place, "/", $file)))),+]
    };
}

const GO_HTTP: &[(&str, &str)] = files!("go/http": "README.md" "function.go" "function_test.go" "go.mod");
const GO_EVENTS: &[(&str, &str)] =
    files!("go/cloudevents": "README.md" "function.go" "function_test.go" "go.mod" "go.sum");
const NODE_HTTP: &[(&str, &str)] =
    files!("node/http": "README.md" "gitignore" "index.js" "package.json" "test/unit.test.js");
const NODE_EVENTS: &[(&str, &str)] =
    files!("node/cloudevents": "README.md" "gitignore" "index.js" "package.json" "test/unit.test.js");
const TYPESCRIPT_HTTP: &[(&str, &str)] = files!(
    "typescript/http": "README.md" "gitignore" "package-lock.json" "package.json" "src/index.ts" "src/types.ts"
    "test/unit.test.js" "tsconfig.json"
);
const TYPESCRIPT_EVENTS: &[(&str, &str)] = files!(
    "typescript/cloudevents": "README.md" "gitignore" "package-lock.json" "package.json" "src/index.ts" "src/types.ts"
    "test/unit.test.js" "tsconfig.json"
);
const PYTHON_HTTP: &[(&str, &str)] = files!(
    "python/http": "README.md" "function/__init__.py" "function/func.py" "gitignore" "pyproject.toml"
    "tests/test_func.py"
);
const PYTHON_EVENTS: &[(&str, &str)] = files!(
    "python/cloudevents": "README.md" "function/__init__.py" "function/func.py" "gitignore" "pyproject.toml"
    "tests/test_func.py"
);
const RUST_HTTP: &[(&str, &str)] = files!(
    "rust/http": "Cargo.lock" "Cargo.toml" "README.md" "gitignore" "src/config.rs" "src/handler.rs" "src/main.rs"
);
const RUST_EVENTS: &[(&str, &str)] = files!(
    "rust/cloudevents": "Cargo.lock" "Cargo.toml" "README.md" "gitignore" "src/config.rs" "src/handler.rs" "src/main.rs"
);
const JAVA_HTTP: &[(&str, &str)] = files!(
    "java/http": "README.md" "gitignore" "src/main/java/functions/Function.java"
    "src/main/java/functions/Main.java" "src/main/java/functions/Request.java"
    "src/main/java/functions/Response.java" "src/test/java/functions/FunctionTest.java"
);
const JAVA_EVENTS: &[(&str, &str)] = files!(
    "java/cloudevents": "README.md" "gitignore" "src/main/java/functions/CloudEvent.java"
    "src/main/java/functions/Function.java" "src/main/java/functions/Main.java"
    "src/main/java/functions/Request.java" "src/main/java/functions/Response.java"
    "src/test/java/functions/FunctionTest.java"
);
const STATIC_HTTP: &[(&str, &str)] = files!("static/http": "README.md" "funcignore" "index.html" "style.css");
const WASM_HTTP: &[(&str, &str)] =
    files!("wasm/http": "Cargo.lock" "Cargo.toml" "README.md" "gitignore" "src/lib.rs");

/// All of them, by language and name. Upstream's two names for Java mean the plain server too.
const TEMPLATES: [Template; 18] = [
    Template { language: "go", name: "cloudevents", files: GO_EVENTS },
    Template { language: "go", name: "http", files: GO_HTTP },
    Template { language: "java", name: "cloudevents", files: JAVA_EVENTS },
    Template { language: "java", name: "http", files: JAVA_HTTP },
    Template { language: "node", name: "cloudevents", files: NODE_EVENTS },
    Template { language: "node", name: "http", files: NODE_HTTP },
    Template { language: "python", name: "cloudevents", files: PYTHON_EVENTS },
    Template { language: "python", name: "http", files: PYTHON_HTTP },
    Template { language: "quarkus", name: "cloudevents", files: JAVA_EVENTS },
    Template { language: "quarkus", name: "http", files: JAVA_HTTP },
    Template { language: "rust", name: "cloudevents", files: RUST_EVENTS },
    Template { language: "rust", name: "http", files: RUST_HTTP },
    Template { language: "springboot", name: "cloudevents", files: JAVA_EVENTS },
    Template { language: "springboot", name: "http", files: JAVA_HTTP },
    Template { language: "static", name: "http", files: STATIC_HTTP },
    Template { language: "typescript", name: "cloudevents", files: TYPESCRIPT_EVENTS },
    Template { language: "typescript", name: "http", files: TYPESCRIPT_HTTP },
    Template { language: "wasm", name: "http", files: WASM_HTTP },
];

/// The languages that there are templates for, in order.
pub fn languages() -> Vec<&'static str> {
    let mut all: Vec<_> = TEMPLATES.iter().map(|template| template.language).collect();
    all.dedup();
    all
}

/// All templates, by language and name.
pub fn templates() -> &'static [Template] {
    &TEMPLATES
}

// === impl Template ===

impl Template {
    /// The template of a language.
    pub fn find(language: &str, name: &str) -> Option<Self> {
        TEMPLATES.into_iter().find(|template| template.language == language && template.name == name)
    }

    /// Its files by their paths.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        self.files.iter().map(|(path, text)| (Path::new(&shown(path)).to_owned(), *text))
    }

    /// Makes a function named `name` in `root`, which may not exist yet or must be empty but for hidden files. `now` is
    /// its time of creation.
    ///
    /// # Errors
    /// [`Reason::ProjectInvalid`] for a bad name or a directory with files; nothing is written then.
    pub fn create(&self, root: &Path, name: &str, now: &str) -> Result<Function> {
        if let Some(why) = super::names::function_name(name) {
            return Err(Error::new(Reason::ProjectInvalid, why)
                .with_remedy("give the function's directory another name: the function is called as it is"));
        }
        check_empty(root)?;
        let spec = Spec {
            spec_version: SPEC_VERSION.to_owned(),
            name: name.to_owned(),
            runtime: self.language.to_owned(),
            created: Time(now.to_owned()),
            invoke: if self.name == "cloudevents" { "cloudevent".to_owned() } else { String::new() },
            deploy: super::Deploy { health: Health::default(), ..Default::default() },
            ..Spec::default()
        };
        for (path, text) in self.files() {
            let file = root.join(path);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).map_err(|source| Error::file("create", parent, source))?;
            }
            // Hidden files may be there already: they stay, with the template's lines after their own.
            let mut whole = std::fs::read_to_string(&file).unwrap_or_default();
            if !whole.is_empty() && !whole.ends_with('\n') {
                whole.push('\n');
            }
            whole.push_str(text);
            std::fs::write(&file, whole).map_err(|source| Error::file("write", &file, source))?;
        }
        let ignore = root.join(".funcignore");
        if !ignore.exists() {
            std::fs::write(&ignore, FUNCIGNORE).map_err(|source| Error::file("write", &ignore, source))?;
        }
        let mut function = Function::new(root, spec);
        function.write(&|_| None)?;
        Ok(function)
    }
}

/// A path as users see it: files that begin with a point lie here without it.
fn shown(path: &str) -> String {
    match path {
        "gitignore" | "funcignore" => format!(".{path}"),
        path => path.to_owned(),
    }
}

fn check_empty(root: &Path) -> Result<()> {
    let shown = root.display();
    if Function::is_at(root) {
        return Err(Error::new(Reason::ProjectInvalid, format!("function at '{shown}' already initialized"))
            .with_remedy("give another directory"));
    }
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("read", root, error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| Error::file("read", root, error))?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            return Err(Error::new(
                Reason::ProjectInvalid,
                "the directory must be empty of visible files and recognized config files before it can be initialized",
            )
            .with_remedy(format!("{shown} has {name}: give another directory")));
        }
    }
    Ok(())
}
