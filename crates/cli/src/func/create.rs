//! `func create`: a project to begin with.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dormouse_base::clock;
use dormouse_build::function::{Template, languages, templates};

use super::args::Create;
use super::{confirmed, say};
use crate::show::failure;

pub(super) fn run(args: &Create, out: &mut dyn Write) -> anyhow::Result<()> {
    let told = args.path.as_ref().or(args.directory.as_ref()).map_or(Path::new("."), PathBuf::as_path);
    let root = std::path::absolute(told).with_context(|| format!("find {}", told.display()))?;
    // `.` is the current directory under its own name.
    let root = root.canonicalize().unwrap_or(root);
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(language) = args.language.as_deref().filter(|language| !language.is_empty()) else {
        bail!(
            "Missing required language\nYou need to specify which programming language to use.\nChoose from these options:\n  {}\n\nExample:\n  dormouse func create --language python myfunction",
            languages().join("\n  ")
        );
    };
    if !languages().contains(&language) {
        bail!(
            "The language runtime '{language}' is not recognized.\nAvailable language runtimes are:\n  {}",
            languages().join("\n  ")
        );
    }
    let Some(template) = Template::find(language, &args.template) else {
        let known = templates().iter().filter(|template| template.language == language);
        let known: Vec<_> = known.map(|template| template.name).collect();
        bail!(
            "The template '{}' was not found for language runtime '{language}'.\nAvailable templates for this language runtime are:\n  {}",
            args.template,
            known.join("\n  ")
        );
    };
    let shown = root.display().to_string();
    let lines = [("Path", shown.as_str()), ("Language", language), ("Template", template.name)];
    if !confirmed(args.confirm, &lines)? {
        bail!("nothing was made");
    }
    template.create(&root, &name, &clock::timestamp().to_string()).map_err(failure)?;
    say(&format!("Created {language} function in {shown}"));
    if args.verbose {
        for (path, _) in template.files() {
            writeln!(out, "{}", path.display())?;
        }
    }
    Ok(())
}
