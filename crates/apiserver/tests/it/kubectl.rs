//! The real kubectl over TLS.

use std::path::Path;
use std::process::{Command, Output};

use dormouse_apiserver::{Authority, serve};
use dormouse_base::clock;
use tokio::net::TcpListener;

use crate::harness::World;

const KUBECTL: &str = "/usr/bin/kubectl";

struct Kubectl {
    config: String,
    cache: String,
}

impl Kubectl {
    async fn run(&self, arguments: &str, input: &str) -> Output {
        let arguments: Vec<String> = arguments.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
        let (config, cache, input) = (self.config.clone(), self.cache.clone(), input.to_owned());
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = Command::new(KUBECTL)
                .args(arguments)
                .env("KUBECONFIG", config)
                .env("HOME", &cache)
                .arg(format!("--cache-dir={cache}"))
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }

    async fn ok(&self, arguments: &str) -> String {
        self.ok_with(arguments, "").await
    }

    async fn ok_with(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments}\n{out}\n{err}");
        out.into_owned()
    }

    async fn fails(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {arguments} succeeded");
        err
    }
}

async fn served() -> Option<(World, Kubectl)> {
    if !Path::new(KUBECTL).exists() {
        eprintln!("SKIPPED: {KUBECTL} is not installed");
        return None;
    }
    let world = World::new().await;
    let directory = world.directory.path().join("tls");
    let authority =
        Authority::load_or_create(&directory, &["example.test".into()], clock::timestamp()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = world.directory.path().join("kubeconfig");
    authority.write_kubeconfig(&config, &url).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&config).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let serving =
        serve(world.server.clone(), listener, authority.server_config().unwrap(), world.tasks.clone());
    world.tasks.spawn("serve", serving);
    let cache = world.directory.path().join("cache").display().to_string();
    Some((world, Kubectl { config: config.display().to_string(), cache }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_health_and_nothing_else() {
    let Some((world, kubectl)) = served().await else { return };
    let url = kubectl.ok("config view --minify -o jsonpath={.clusters[0].cluster.server}").await;
    let directory = world.directory.path();
    let authority = Authority::load_or_create(&directory.join("tls"), &[], clock::timestamp()).unwrap();
    let (certificate, key) = authority.client_certificate("bob", Some("people"), clock::timestamp()).unwrap();
    std::fs::write(directory.join("bob.crt"), certificate).unwrap();
    std::fs::write(directory.join("bob.key"), key).unwrap();
    let place = directory.display();
    let stranger =
        format!("--kubeconfig=/dev/null --server={url} --certificate-authority={place}/tls/ca.crt");
    let bob = format!("{stranger} --client-certificate={place}/bob.crt --client-key={place}/bob.key");
    assert_eq!(kubectl.ok(&format!("{bob} get --raw /livez")).await, "ok");
    let refused = kubectl.fails(&format!("{bob} get --raw /api/v1/pods"), "").await;
    assert!(refused.contains("Forbidden") && refused.contains("User \"bob\" cannot list"), "{refused}");
    let refused = kubectl.fails(&format!("{stranger} --token=x get --raw /api/v1/pods"), "").await;
    assert!(refused.contains("must be logged in"), "{refused}");
    world.close().await;
}

const KSVC: &str = "apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: hello
spec:
  template:
    spec:
      containers:
      - image: example.com/hello
        env:
        - name: TARGET
          value: World
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_reads_changes_and_deletes() {
    let Some((world, kubectl)) = served().await else { return };
    assert!(kubectl.ok("version").await.contains("v1.35.0"));
    kubectl.ok("create namespace t1").await;
    kubectl.ok("-n t1 get serviceaccount default").await;
    kubectl.ok("-n t1 create deployment d --image=x --replicas=0").await;
    assert_eq!(kubectl.ok("-n t1 get deploy d -o jsonpath={.spec.replicas}").await, "0");
    kubectl.ok("-n t1 set image deploy/d x=new").await;
    kubectl.ok("-n t1 set env deploy/d A=b").await;
    let container = kubectl.ok("-n t1 get deploy d -o jsonpath={.spec.template.spec.containers[0]}").await;
    assert!(container.contains("\"image\":\"new\"") && container.contains("\"name\":\"A\""), "{container}");
    kubectl.ok("-n t1 scale deploy/d --replicas=2").await;
    assert_eq!(kubectl.ok("-n t1 get deploy d -o jsonpath={.spec.replicas}").await, "2");
    assert!(kubectl.ok("get pods -A -o wide --show-labels").await.is_empty());
    kubectl.ok("-n t1 create configmap c --from-literal=a=b").await;
    kubectl.ok("-n t1 label configmap c x=y").await;
    assert!(kubectl.ok("-n t1 get cm -l x=y").await.contains("NAME"));
    kubectl.ok("-n t1 create secret generic s --from-literal=a=b").await;
    kubectl.ok("-n t1 delete secret s").await;
    kubectl.ok("-n t1 delete configmap c --dry-run=server").await;
    kubectl.ok("-n t1 get configmap c").await;
    assert!(kubectl.ok("auth whoami").await.contains("kubernetes-admin"));
    assert!(kubectl.ok("auth can-i create pods").await.contains("yes"));
    let forbidden = kubectl.fails("--as=bob get pods", "").await;
    assert!(forbidden.contains("Forbidden"), "{forbidden}");
    kubectl.ok("delete namespace t1 --timeout=20s").await;
    assert!(kubectl.fails("get namespace t1", "").await.contains("not found"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_a_knative_service() {
    let Some((world, kubectl)) = served().await else { return };
    let applied = kubectl.ok_with("apply -f -", KSVC).await;
    assert!(applied.contains("service.serving.knative.dev/hello created"), "{applied}");
    let version = kubectl.ok("get ksvc hello -o jsonpath={.metadata.resourceVersion}").await;
    // kubectl cannot see through defaulted lists, so it sends a patch; the patch must change nothing.
    kubectl.ok_with("apply -f -", KSVC).await;
    assert_eq!(kubectl.ok("get ksvc hello -o jsonpath={.metadata.resourceVersion}").await, version);
    let changed = KSVC.replace("World", "Moon");
    assert!(kubectl.ok_with("diff -f -", KSVC).await.is_empty());
    assert_eq!(kubectl.ok("get ksvc hello -o jsonpath={.metadata.resourceVersion}").await, version);
    assert!(kubectl.ok_with("apply -f -", &changed).await.contains("configured"));
    let table = kubectl.ok("get ksvc").await;
    assert!(table.contains("LATESTCREATED") && table.contains("hello") && !table.contains("AGE"), "{table}");
    kubectl.ok("get ksvc,rt,cfg,rev,po,deploy").await;
    kubectl.ok_with("apply --server-side --force-conflicts -f -", &changed).await;
    kubectl.ok("get all -A").await;
    kubectl.ok("get knative -A").await;
    assert!(kubectl.ok("describe ksvc hello").await.contains("example.com/hello"));
    let crd = kubectl.ok("get crd services.serving.knative.dev -o jsonpath={.metadata.labels}").await;
    assert!(crd.contains("crd-install"), "{crd}");
    let mistake = KSVC.replace("containers:", "containerz:");
    let refused = kubectl.fails("apply -f -", &mistake).await;
    assert!(refused.contains("containerz"), "{refused}");
    let scaled = kubectl.fails("scale ksvc/hello --replicas=1", "").await;
    assert!(!scaled.is_empty());
    let patched = kubectl.fails("patch ksvc hello -p {}", "").await;
    assert!(patched.contains("strategic-merge-patch"), "{patched}");
    kubectl.ok("patch ksvc hello --type merge -p {\"metadata\":{\"labels\":{\"a\":\"b\"}}}").await;
    kubectl.ok("explain pod.spec.containers").await;
    kubectl.ok("api-resources").await;
    kubectl.ok("wait --for=jsonpath={.metadata.labels.a}=b ksvc/hello --timeout=10s").await;
    kubectl.ok("delete ksvc hello --timeout=10s").await;
    assert!(kubectl.fails("get ksvc hello", "").await.contains("NotFound"));
    assert!(
        kubectl.fails("get --raw /apis/nope/v1", "").await.contains("could not find the requested resource")
    );
    world.close().await;
}
