//! Functions as they run: each template with its main program laid over it, started, asked, probed and stopped.
//!
//! Needs go, node, python3 and javac; nothing is downloaded.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use dormouse_build::Request;
use dormouse_build::function::{Function, Template, templates};

const PATIENCE: Duration = Duration::from_secs(120);

/// A function's directory with the scaffold in it, as a build sees it.
fn project(language: &str, template: &str) -> (tempfile::TempDir, Request) {
    let dir = tempfile::tempdir().unwrap();
    let template = Template::find(language, template).unwrap();
    template.create(dir.path(), "f", "2026-01-02T03:04:05Z").unwrap();
    let request = overlay(dir.path());
    (dir, request)
}

fn overlay(root: &Path) -> Request {
    let request = Function::open(root, "").unwrap().request(&|_| None).unwrap();
    for (path, text) in &request.scaffold {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    request
}

/// A running function.
struct Server {
    child: Child,
    port: u16,
    lines: mpsc::Receiver<String>,
}

impl Server {
    /// Starts `command` in `root` on a free port; it says where it listens.
    fn start(root: &Path, command: &[&str]) -> Self {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .current_dir(root)
            .env("PORT", "0")
            .env_remove("LISTEN_ADDRESS")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = mpsc::channel();
        let readers: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for reader in readers {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    let _ = tell.send(line);
                }
            });
        }
        let mut server = Self { child, port: 0, lines };
        let line = server.line("listening on port ");
        let port = line.split("listening on port ").nth(1).unwrap_or_default();
        server.port = port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        server
    }

    fn line(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {part:?} ({error}) in {seen:#?}"),
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .or_else(|_| TcpStream::connect(("::1", self.port)))
            .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request on a connection of its own; answers all that comes back.
    fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = self.connect();
        let length = body.len();
        write!(stream, "{head}\r\nhost: f\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn healthy(&self) {
        for probe in ["liveness", "readiness"] {
            let answer = self.ask(&format!("GET /health/{probe} HTTP/1.1"), "");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }

    /// Asks it to end; answers whether it ended well.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        // The JVM ends with 143 after its hooks have run.
        assert!(status.success() || status.code() == Some(143), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const EVENT: &str = "POST / HTTP/1.1\r\nce-id: 1\r\nce-type: t\r\nce-source: /s%20x\r\nce-specversion: 1.0\r\ncontent-type: application/json";
const STRUCTURED: &str = r#"{"specversion":"1.0","id":"1","type":"t","source":"/s","data":{"a":1}}"#;

fn takes_http(server: &Server) {
    server.healthy();
    for head in ["GET /?name=a HTTP/1.1", "POST / HTTP/1.1\r\ncontent-type: application/json"] {
        let body = if head.starts_with("POST") { "{\"a\":1}" } else { "" };
        let answer = server.ask(head, body);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("OK"), "{answer}");
    }
}

fn takes_events(server: &Server, structured: bool) {
    server.healthy();
    let answer = server.ask(EVENT, "{\"a\":1}");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("function.response"), "{answer}");
    assert!(answer.contains("response-1") && answer.contains("OK"), "{answer}");
    if structured {
        let answer = server
            .ask("POST / HTTP/1.1\r\ncontent-type: application/cloudevents+json; charset=utf-8", STRUCTURED);
        assert!(answer.contains("function.response"), "{answer}");
        let batch = server.ask("POST / HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json", "[]");
        assert!(batch.starts_with("HTTP/1.1 415"), "{batch}");
    }
    let lacking = EVENT.replace("ce-id: 1\r\n", "");
    assert!(server.ask(&lacking, "{}").starts_with("HTTP/1.1 400"));
}

fn run(root: &Path, command: &mut Command) {
    let output = command.current_dir(root).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn words(request: &Request) -> Vec<&str> {
    request.command.iter().map(String::as_str).collect()
}

#[test]
fn go_http() {
    let (dir, request) = project("go", "http");
    run(dir.path(), Command::new("go").args(["vet", "./..."]).env("GOFLAGS", "-mod=readonly"));
    run(dir.path(), Command::new("go").args(["test", "."]).env("GOFLAGS", "-mod=readonly"));
    go_server(dir.path(), &request, takes_http);
}

#[test]
fn go_functions_without_new_and_with_every_hook() {
    let (dir, request) = project("go", "http");
    assert!(request.command.is_empty());
    let code = "package function\n\nimport (\n\t\"context\"\n\t\"errors\"\n\t\"net/http\"\n)\n\ntype F struct{ env map[string]string }\n\n\
        func New() *F { return &F{} }\n\
        func (f *F) Start(_ context.Context, env map[string]string) error { f.env = env; return nil }\n\
        func (f *F) Stop(context.Context) error { println(\"stopped\"); return nil }\n\
        func (f *F) Alive(context.Context) (bool, error) { return false, errors.New(\"sick\") }\n\
        func (f *F) Ready(context.Context) (bool, error) { return false, nil }\n\
        func (f *F) Handle(w http.ResponseWriter, r *http.Request) {\n\tif r.URL.Path == \"/panic\" {\n\t\tpanic(\"no\")\n\t}\n\tw.Write([]byte(f.env[\"PORT\"]))\n}\n";
    std::fs::write(dir.path().join("function.go"), code).unwrap();
    go_server(dir.path(), &overlay(dir.path()), |server| {
        assert!(server.ask("GET /health/liveness HTTP/1.1", "").contains("sick"));
        assert!(server.ask("GET /health/readiness HTTP/1.1", "").starts_with("HTTP/1.1 503"));
        assert!(server.ask("GET /panic HTTP/1.1", "").starts_with("HTTP/1.1 500"));
        assert!(server.ask("GET / HTTP/1.1", "").ends_with("\r\n\r\n0"));
    });
    let code = "package function\n\nimport \"net/http\"\n\nfunc Handle(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(\"static OK\")) }\n";
    std::fs::write(dir.path().join("function.go"), code).unwrap();
    go_server(dir.path(), &overlay(dir.path()), takes_http);
}

#[test]
fn go_events() {
    let (dir, request) = project("go", "cloudevents");
    // The module is fetched through Go's proxy; without it there is nothing to compile against.
    let fetched = Command::new("go").args(["mod", "download"]).current_dir(dir.path()).output().unwrap();
    if !fetched.status.success() {
        println!("not run: {}", String::from_utf8_lossy(&fetched.stderr));
        return;
    }
    run(dir.path(), Command::new("go").args(["test", "."]).env("GOFLAGS", "-mod=readonly"));
    go_server(dir.path(), &request, |server| takes_events(server, true));
}

fn go_server(root: &Path, request: &Request, check: impl Fn(&Server)) {
    let main = request.scaffold.keys().next().unwrap().parent().unwrap();
    let package = format!("./{}", main.display());
    run(root, Command::new("go").args(["build", "-o", "f.bin", &package]).env("GOFLAGS", "-mod=readonly"));
    let program = root.join("f.bin");
    let server = Server::start(root, &[program.to_str().unwrap()]);
    check(&server);
    server.stop();
}

#[test]
fn node_http() {
    let (dir, request) = project("node", "http");
    run(dir.path(), Command::new("npm").args(["test", "--silent"]));
    let server = Server::start(dir.path(), &words(&request));
    takes_http(&server);
    let bad = server.ask("POST / HTTP/1.1\r\ncontent-type: application/json", "{");
    assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
    server.stop();
}

#[test]
fn node_answers_what_handle_returns() {
    let (dir, _) = project("node", "http");
    let code = "let ready = false;\nexports.init = async () => { ready = true; };\nexports.shutdown = () => console.log('shut down');\n\
        exports.readiness = (_, reply) => reply.code(ready ? 200 : 503).send('r');\n\
        exports.handle = (context, body) => { switch (context.path) {\n\
        case '/none': return;\ncase '/text': return 'text';\ncase '/json': return { a: context.query.a };\n\
        case '/status': return { statusCode: 418, headers: { 'X-Tea': 'pot' }, body: { short: true } };\n\
        case '/throw': throw new Error('oops');\ncase '/body': return String(Buffer.isBuffer(body)); } };\n";
    std::fs::write(dir.path().join("index.js"), code).unwrap();
    let request = overlay(dir.path());
    let server = Server::start(dir.path(), &words(&request));
    server.healthy();
    for (path, parts) in [
        ("/none", &["HTTP/1.1 204"][..]),
        ("/text", &["text/plain", "\r\n\r\ntext"]),
        ("/json?a=1", &["application/json", "{\"a\":\"1\"}"]),
        ("/status", &["HTTP/1.1 418", "x-tea: pot", "{\"short\":true}"]),
        ("/throw", &["HTTP/1.1 500", "oops"]),
        ("/body", &["true"]),
    ] {
        let answer = server.ask(&format!("POST {path} HTTP/1.1"), "bytes");
        assert!(parts.iter().all(|part| answer.contains(part)), "{path}: {answer}");
    }
    server.stop();
}

#[test]
fn node_events() {
    let (dir, request) = project("node", "cloudevents");
    run(dir.path(), Command::new("npm").args(["test", "--silent"]));
    let server = Server::start(dir.path(), &words(&request));
    takes_events(&server, true);
    server.stop();
}

#[test]
fn python_http() {
    let (dir, request) = project("python", "http");
    run(
        dir.path(),
        Command::new("python3").args(["-m", "unittest", "discover", "tests"]).env("PYTHONPATH", "."),
    );
    let server = Server::start(dir.path(), &words(&request));
    takes_http(&server);
    // One connection for several requests, a chunked body, and a request that waits for leave to send its body.
    let mut stream = server.connect();
    for _ in 0..2 {
        stream
            .write_all(
                b"POST / HTTP/1.1\r\nhost: f\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            )
            .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        while line != "0\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        reader.read_line(&mut line).unwrap();
    }
    for bad in ["GET /", "GET / HTTP/1.1\r\nbad header", "GET / HTTP/1.1\r\ntransfer-encoding: gzip"] {
        let answer = server.ask(bad, "");
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    server.stop();
}

#[test]
fn python_functions_with_plain_handle_and_hooks() {
    let (dir, _) = project("python", "http");
    let code = "async def handle(scope, receive, send):\n    body = (await receive())['body']\n    if scope['path'] == '/fail':\n        raise ValueError('no')\n\
        \x20   await send({'type': 'http.response.start', 'status': 201, 'headers': []})\n    await send({'type': 'http.response.body', 'body': body, 'more_body': True})\n\
        \x20   await send({'type': 'http.response.body', 'body': scope['query_string']})\n";
    std::fs::write(dir.path().join("function/func.py"), code).unwrap();
    std::fs::write(dir.path().join("function/__init__.py"), "from .func import handle\n").unwrap();
    let request = overlay(dir.path());
    let server = Server::start(dir.path(), &words(&request));
    let answer = server.ask("POST /x?q=1 HTTP/1.1", "body");
    assert!(
        answer.starts_with("HTTP/1.1 201") && answer.contains("body") && answer.contains("q=1"),
        "{answer}"
    );
    assert!(server.ask("GET /fail HTTP/1.1", "").starts_with("HTTP/1.1 500"));
    server.stop();
    let code = "class F:\n    async def handle(self, scope, receive, send):\n        await send({'type': 'http.response.start', 'status': 200})\n\
        \x20   def alive(self):\n        return False, 'sick'\n    async def ready(self):\n        return True\n    def stop(self):\n        print('stopped', flush=True)\ndef new():\n    return F()\n";
    std::fs::write(dir.path().join("function/__init__.py"), code).unwrap();
    let server = Server::start(dir.path(), &words(&request));
    let sick = server.ask("GET /health/liveness HTTP/1.1", "");
    assert!(sick.starts_with("HTTP/1.1 500") && sick.contains("sick"), "{sick}");
    assert!(server.ask("GET /health/readiness HTTP/1.1", "").starts_with("HTTP/1.1 200"));
    assert!(server.ask("GET / HTTP/1.1", "").starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn python_events_without_the_package() {
    let (dir, _) = project("python", "cloudevents");
    // The scaffold's own events have the same methods; the template's answer needs the package, a dictionary does not.
    let code = "async def handle(scope, receive, send):\n    e = scope['event']\n    assert e.get_source() in ('/s x', '/s') and e.get_data() == {'a': 1}\n\
        \x20   await send({'id': 'response-' + e.get_id(), 'source': 'f', 'type': 'function.response', 'data': {'message': 'OK'}})\n";
    std::fs::write(dir.path().join("function/__init__.py"), code).unwrap();
    let request = overlay(dir.path());
    let server = Server::start(dir.path(), &words(&request));
    takes_events(&server, true);
    server.stop();
}

#[test]
fn java() {
    for (template, check) in
        [("http", takes_http as fn(&Server)), ("cloudevents", |server: &Server| takes_events(server, false))]
    {
        let (dir, _) = project("java", template);
        let mut compile = Command::new("javac");
        compile.args(["-d", "classes"]);
        let mut places = vec![dir.path().join("src")];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(place).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    places.push(path);
                } else {
                    compile.arg(path);
                }
            }
        }
        run(dir.path(), &mut compile);
        run(dir.path(), Command::new("java").args(["-cp", "classes", "functions.FunctionTest"]));
        let server = Server::start(dir.path(), &["java", "-cp", "classes", "functions.Main"]);
        check(&server);
        server.stop();
    }
}

#[test]
fn every_template_has_what_people_look_for() {
    for template in templates() {
        let files: Vec<_> = template.files().map(|(path, _)| path.display().to_string()).collect();
        assert!(files.contains(&"README.md".to_owned()), "{} {}", template.language, template.name);
        for (path, text) in template.files() {
            assert!(text.ends_with('\n'), "{} {}: {}", template.language, template.name, path.display());
            if path.extension().is_some_and(|suffix| suffix == "json") {
                serde_json::from_str::<serde_json::Value>(text).unwrap();
            }
            if path.extension().is_some_and(|suffix| suffix == "toml") {
                text.parse::<toml::Table>().unwrap();
            }
        }
    }
}
