//! Projects that need no tool: files, a program, a component.

use super::{Draft, copy, layer};
use crate::error::{Error, Reason, Result};
use crate::plan::{Base, Plan};

/// A static site: the server that this program brings along, and the files.
pub(super) fn files(draft: &mut Draft<'_>) -> Plan {
    let run = draft.run(vec!["/serve".into(), "/site".into()], "/site", &[]);
    let layers = vec![
        layer("server", vec![copy("builtin:serve", "/serve")]),
        layer("application", vec![copy("$SRC", "/site")]),
    ];
    draft.finish(Vec::new(), Base::Scratch, layers, run)
}

/// A program: the file itself, or what the `Procfile` names.
pub(super) fn binary(draft: &mut Draft<'_>) -> Result<Plan> {
    let command = match (&draft.project.file, draft.told_command()?) {
        (Some(file), None) => vec![format!("/app/{file}")],
        (_, Some(command)) => absolute(command),
        (None, None) => {
            return Err(Error::new(Reason::EntrypointNotFound, "the project does not say what to run"));
        }
    };
    let run = draft.run(command, "/app", &[]);
    Ok(draft.finish(Vec::new(), Base::Scratch, vec![layer("application", vec![copy("$SRC", "/app")])], run))
}

/// A Dockerfile: it says everything itself, also the port (`EXPOSE`) unless the user does.
pub(super) fn dockerfile(draft: &mut Draft<'_>) -> Result<Plan> {
    draft.tool("buildah")?;
    let text = draft.read(crate::dockerfile::file(draft.project)?)?.unwrap_or_default();
    let exposed = text.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        let told = words.next().is_some_and(|word| word.eq_ignore_ascii_case("EXPOSE"));
        told.then(|| words.next()?.split('/').next()?.parse().ok()).flatten()
    });
    let mut run = draft.run(Vec::new(), "", &[]);
    run.port = draft.request.port.or(exposed).unwrap_or(run.port);
    Ok(draft.finish(Vec::new(), Base::Dockerfile, Vec::new(), run))
}

/// One component.
pub(super) fn wasm(draft: &mut Draft<'_>) -> Result<Plan> {
    let found: Vec<_> = super::top_with_suffix(draft, "wasm");
    let [file] = found.as_slice() else {
        return Err(Error::new(
            Reason::EntrypointNotFound,
            format!("one .wasm component is needed at the top of the project; there are {}", found.len()),
        )
        .with_remedy("name the file: dormouse deploy FILE.wasm"));
    };
    let layers = vec![layer("component", vec![copy(&format!("$SRC/{file}"), "/component.wasm")])];
    let run = draft.run(Vec::new(), "/", &[]);
    Ok(draft.finish(Vec::new(), Base::Artifact, layers, run))
}

/// A program given by its path in the project stands in `/app`.
fn absolute(mut command: Vec<String>) -> Vec<String> {
    if let Some(program) = command.first_mut()
        && !program.starts_with('/')
    {
        *program = format!("/app/{}", program.trim_start_matches("./"));
    }
    command
}
