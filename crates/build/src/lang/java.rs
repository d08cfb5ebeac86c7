//! Java: a Maven project's jar, or plain source files, on a runtime cut from the JDK.

use super::{Draft, caches, copy, env, layer, strings, top_with_suffix};
use crate::error::{Error, Reason, Result};
use crate::plan::{Base, Cache, Copy, LayerPlan, Plan, Stage};

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<Plan> {
    let version = draft.tool("javac")?;
    let (stages, layers, command) = if draft.has("pom.xml") { maven(draft)? } else { sources(draft)? };
    let command = draft.told_command()?.unwrap_or(command);
    let run = draft.run(command, "/app", &[]);
    let base = Base::Interpreter { name: "java".into(), version };
    Ok(draft.finish(stages, base, layers, run))
}

type Recipe = (Vec<Stage>, Vec<LayerPlan>, Vec<String>);

/// Source files alone: the standard library has an HTTP server.
fn sources(draft: &Draft<'_>) -> Result<Recipe> {
    let files: Vec<String> = draft
        .project
        .tree
        .entries
        .keys()
        .filter(|path| path.ends_with(".java") && !path.contains("src/test/"))
        .cloned()
        .collect();
    let class = main_class(draft, &files)?;
    let mut compile = strings(["javac", "-encoding", "UTF-8", "-d", "$OUT/classes"]);
    compile.extend(files);
    let stage = Stage { name: "compile".into(), commands: vec![compile], ..Stage::default() };
    let layers = vec![layer("application", vec![copy("$STAGE/compile/classes", "/app/classes")])];
    Ok((vec![stage], layers, ["java", "-cp", "/app/classes", &class].map(str::to_owned).to_vec()))
}

/// The class with a `main` method, with its package.
fn main_class(draft: &Draft<'_>, files: &[String]) -> Result<String> {
    let mut found = Vec::new();
    for path in files {
        let text = draft.read(path)?.unwrap_or_default();
        if !text.contains("static void main(") {
            continue;
        }
        let package = text.lines().find_map(|line| {
            line.trim().strip_prefix("package ")?.trim().strip_suffix(';').map(str::to_owned)
        });
        let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".java");
        found.push(package.map_or_else(|| stem.to_owned(), |package| format!("{}.{stem}", package.trim())));
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(Reason::EntrypointNotFound, "no class has a method `public static void main`")
            .with_remedy("add a main method")),
        many => Err(Error::new(
            Reason::EntrypointNotFound,
            format!("several classes have a main method: {}", many.join(", ")),
        )
        .with_remedy("say which in a Procfile: web: java -cp /app/classes CLASS")),
    }
}

/// Maven: everything that the build needs is fetched first, then it runs without network.
fn maven(draft: &mut Draft<'_>) -> Result<Recipe> {
    draft.tool("mvn")?;
    let _ = top_with_suffix(draft, "java");
    let settings = [("MAVEN_OPTS", "-Duser.home=/work/home -Djava.io.tmpdir=/tmp -Xmx1g")];
    let goals = |rest: &[&str]| {
        let mut command = strings(["mvn", "-B", "-q", "-ntp", "-Dmaven.repo.local=$CACHE/maven"]);
        command.extend(rest.iter().map(|word| (*word).to_owned()));
        command
    };
    let fetch = Stage {
        name: "dependencies".into(),
        commands: vec![goals(&["-DskipTests", "dependency:go-offline"])],
        env: env(settings),
        network: true,
        inputs: strings(["pom.xml", "*/pom.xml"]),
        caches: caches([Cache::shared("maven")]),
        keep: false,
    };
    let find = "set -e; mkdir \"$1/app\"; rm -f target/original-*.jar target/*-sources.jar target/*-javadoc.jar; \
        if [ -d target/quarkus-app ]; then cp -a target/quarkus-app/. \"$1/app/\"; mv \"$1/app/quarkus-run.jar\" \"$1/app/app.jar\"; \
        else set -- \"$1\" target/*.jar; [ $# -eq 2 ] && [ -f \"$2\" ]; cp \"$2\" \"$1/app/app.jar\"; fi; \
        if [ -d target/lib ]; then cp -a target/lib \"$1/app/lib\"; fi";
    let compile = Stage {
        name: "compile".into(),
        commands: vec![
            goals(&["-o", "-DskipTests", "-Dproject.build.outputTimestamp=1980-01-01T00:00:02Z", "package"]),
            ["sh", "-c", find, "collect", "$OUT"].map(str::to_owned).to_vec(),
        ],
        env: env(settings),
        caches: caches([Cache::shared("maven")]),
        ..Stage::default()
    };
    let application = Copy { from: "$STAGE/compile/app".into(), to: "/app".into(), except: Vec::new() };
    let command = strings(["java", "-jar", "/app/app.jar"]);
    Ok((vec![fetch, compile], vec![layer("application", vec![application])], command))
}
