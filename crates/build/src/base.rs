//! What lies below the layers: an empty base, or the machine's own interpreter made into an image once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use dormouse_image::{LayerContent, LayerItem};

use crate::error::{Error, Reason, Result};
use crate::host::{Host, Located};
use crate::layers::{self, Items};

/// Who programs run as: nobody in particular.
pub(crate) const USER: &str = "65532:65532";
/// The modules of the Java runtime: what servers use, no desktop.
const JAVA_MODULES: &str = "java.base,java.compiler,java.instrument,java.logging,java.management,java.naming,java.net.http,\
    java.prefs,java.scripting,java.security.jgss,java.sql,java.transaction.xa,java.xml,jdk.crypto.ec,jdk.httpserver,\
    jdk.management,jdk.unsupported,jdk.zipfs";
/// Parts of Python's library that no server needs.
const PYTHON_EXCEPT: [&str; 9] = [
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "site-packages",
    "dist-packages",
];

/// An interpreter's files and how to find it.
pub(crate) struct Interpreter {
    pub(crate) items: Items,
    pub(crate) env: Vec<String>,
}

/// User and group names, a place for temporary files, and the certificates of public authorities.
pub(crate) fn system() -> Items {
    let file =
        |text: String| LayerItem::File { mode: 0o644, content: LayerContent::Bytes(text.into_bytes()) };
    let passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
    let group = "root:x:0:\nnonroot:x:65532:\n";
    Items::from([
        ("tmp".into(), LayerItem::Directory { mode: 0o1777 }),
        ("etc/passwd".into(), file(passwd.to_owned())),
        ("etc/group".into(), file(group.to_owned())),
        ("etc/nsswitch.conf".into(), file("hosts: files dns\n".to_owned())),
        ("etc/ssl/certs/ca-certificates.crt".into(), file(certificates())),
    ])
}

/// The authorities that Mozilla trusts, as one PEM file.
fn certificates() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = more;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Gathers the interpreter `name` from this machine; `work` is an empty directory. Blocking, some seconds.
pub(crate) fn interpreter(name: &str, host: &Host, work: &Path) -> Result<Interpreter> {
    match name {
        "python" => python(host, &host.locate("python3")?, work),
        "node" => node(&host.locate("node")?),
        "java" => java(host, &host.locate("javac")?, work),
        _ => Err(Error::new(Reason::BaseImageNotFound, format!("there is no base for {name}"))),
    }
}

fn node(node: &Located) -> Result<Interpreter> {
    let mut items = system();
    program(&node.program, "usr/local/bin/node", &mut items)?;
    closure([node.program.clone()], &node.program, &mut items)?;
    Ok(Interpreter { items, env: Vec::new() })
}

fn python(host: &Host, python: &Located, work: &Path) -> Result<Interpreter> {
    let version = &python.tool.version;
    let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
    let library = python.program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr")).join("lib");
    let library = library.join(format!("python{minor}"));
    if !library.join("os.py").is_file() {
        return Err(Error::new(
            Reason::BaseImageNotFound,
            format!("the library of Python {version} is not in {}", library.display()),
        ));
    }
    // A copy, so that byte code can be written without touching the machine's own.
    let copy = work.join("library");
    copy_library(&library, &copy)?;
    let script = "import compileall,sys; from py_compile import PycInvalidationMode as M; \
        compileall.compile_dir(sys.argv[1], maxlevels=50, ddir=sys.argv[2], quiet=2, workers=0, invalidation_mode=M.UNCHECKED_HASH)";
    let place = format!("/usr/local/lib/python{minor}");
    host.ask(&python.program, &["-c", script, &copy.display().to_string(), &place])?;
    let mut items = system();
    layers::add(&copy, Path::new(place.trim_start_matches('/')), &[], &mut items)?;
    program(&python.program, &format!("usr/local/bin/python{minor}"), &mut items)?;
    for link in ["python3", "python"] {
        let target = PathBuf::from(format!("python{minor}"));
        items.insert(Path::new("usr/local/bin").join(link), LayerItem::Link { target });
    }
    let mut programs = vec![python.program.clone()];
    let modules = fs::read_dir(library.join("lib-dynload")).into_iter().flatten().flatten();
    programs.extend(
        modules.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "so")),
    );
    closure(programs, &library, &mut items)?;
    Ok(Interpreter { items, env: Vec::new() })
}

/// Copies what servers need of the library; links to files become files.
fn copy_library(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|source| Error::file("create", to, source))?;
    let unreadable = |source| Error::file("read", from, source);
    for entry in fs::read_dir(from).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if PYTHON_EXCEPT.contains(&text.as_ref())
            || text == "__pycache__"
            || text.starts_with("config-")
            || text.ends_with(".a")
        {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let meta = fs::metadata(&source);
        match meta {
            Ok(meta) if meta.is_dir() => copy_library(&source, &target)?,
            Ok(meta) if meta.is_file() => {
                fs::copy(&source, &target).map_err(|error| Error::file("copy", &source, error))?;
            }
            // A link to nowhere, or a socket: no library.
            _ => {}
        }
    }
    Ok(())
}

fn java(host: &Host, javac: &Located, work: &Path) -> Result<Interpreter> {
    let home = javac.program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
    let image = work.join("java");
    let jlink = home.join("bin/jlink");
    if !jlink.is_file() || !home.join("jmods").is_dir() {
        return Err(Error::new(
            Reason::BaseImageNotFound,
            format!("{} has no jlink or no modules: it is no whole JDK", home.display()),
        )
        .with_remedy(
            "install a JDK with modules: `apt-get install openjdk-17-jdk-headless`; or use --base-image",
        ));
    }
    let output = image.display().to_string();
    let arguments = [
        "--add-modules",
        JAVA_MODULES,
        "--strip-debug",
        "--no-man-pages",
        "--no-header-files",
        "--output",
        &output,
    ];
    host.ask(&jlink, &arguments)?;
    let mut items = system();
    layers::add(&image, Path::new("usr/local/java"), &["classes.jsa".to_owned()], &mut items)?;
    items.insert("usr/local/bin/java".into(), LayerItem::Link { target: "../java/bin/java".into() });
    let mut programs = vec![image.join("bin/java")];
    shared_objects(&image.join("lib"), &mut programs);
    closure(programs, &fs::canonicalize(&image).unwrap_or(image), &mut items)?;
    Ok(Interpreter { items, env: vec!["JAVA_HOME=/usr/local/java".to_owned()] })
}

fn shared_objects(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            shared_objects(&path, found);
        } else if path.extension().is_some_and(|end| end == "so") {
            found.push(path);
        }
    }
}

fn program(from: &Path, to: &str, items: &mut Items) -> Result<()> {
    if !from.is_file() {
        return Err(Error::new(Reason::BaseImageNotFound, format!("{} is not a program", from.display())));
    }
    let content = LayerContent::Path(from.to_path_buf());
    items.insert(to.into(), LayerItem::File { mode: 0o755, content });
    Ok(())
}

/// Adds the loader and the shared objects that `programs` need, at the places where the loader looks for them; those
/// below `own` are in the image already.
fn closure(programs: impl IntoIterator<Item = PathBuf>, own: &Path, items: &mut Items) -> Result<()> {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(Path::new);
    let loader = loader.into_iter().find(|path| path.exists()).ok_or_else(|| {
        Error::new(
            Reason::BaseImageNotFound,
            "this machine's C library is not glibc: its interpreters cannot be packed",
        )
    })?;
    let mut needed = BTreeSet::from([loader.to_path_buf()]);
    // What programs load by name only while they run.
    for name in ["libnss_dns.so.2", "libnss_files.so.2", "libgcc_s.so.1"] {
        let dirs = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64"];
        needed.extend(dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists()));
    }
    for program in programs {
        let output = Command::new(loader)
            .arg("--list")
            .arg(&program)
            .env_clear()
            .output()
            .map_err(|source| Error::file("run", loader, source))?;
        // `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`; a static program is not listed.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((_, rest)) = line.split_once("=>")
                && let Some(path) = rest.split_whitespace().next().filter(|path| path.starts_with('/'))
            {
                let path = PathBuf::from(path);
                if !fs::canonicalize(&path).is_ok_and(|path| path.starts_with(own)) {
                    needed.insert(path);
                }
            }
        }
    }
    for path in needed {
        let place = path.strip_prefix("/").unwrap_or(&path).to_path_buf();
        let content = LayerContent::Path(fs::canonicalize(&path).unwrap_or(path));
        items.insert(place, LayerItem::File { mode: 0o755, content });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_base_has_certificates_and_a_place_for_temporary_files() {
        let items = system();
        assert!(matches!(items.get(Path::new("tmp")), Some(LayerItem::Directory { mode: 0o1777 })));
        let text = certificates();
        assert!(text.matches("BEGIN CERTIFICATE").count() > 50);
        assert!(text.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn a_program_is_packed_with_its_loader() {
        let mut items = Items::new();
        closure([fs::canonicalize("/bin/sh").unwrap()], Path::new("/nowhere"), &mut items).unwrap();
        let names: Vec<_> = items.keys().map(|path| path.display().to_string()).collect();
        assert!(names.iter().any(|name| name.contains("ld-linux")), "{names:?}");
        assert!(names.iter().any(|name| name.contains("libc.so")), "{names:?}");
    }
}
