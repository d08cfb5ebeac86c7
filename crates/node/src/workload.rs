//! From Deployments to what the manager knows: watch, prepare ahead (pull, unpack or compile, plan), watch for deleted pods.
//!
//! One watcher for all Deployments and one for all Pods; a Deployment costs its pod template in memory and no task, once
//! it is prepared. At most a few are prepared at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dormouse_api::key::RevisionKey;
use dormouse_base::backoff::Backoff;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use dormouse_image::{Auth, Images, Silent};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret, ServiceAccount};
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use tokio::sync::Semaphore;

use crate::component::Components;
use crate::manager::cell::Template;
use crate::manager::{Manager, Preparation, Wanted, WorkKey, template_hash};
use crate::tell::Teller;
use crate::template::{self, ImageFacts, Referenced, References, Surroundings, Volumes};

const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// Images that are fetched and unpacked at the same time.
const PARALLEL: usize = 4;
const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_secs(600);
const PREPARE_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(2), max: Duration::from_secs(300), jitter_percent: 10 };
/// No token has a shorter life.
const TOKEN_MIN_SECONDS: u64 = 600;
const WATCH_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), jitter_percent: 20 };

/// Brings images; the product uses the image crate, tests a fake.
pub(crate) trait ImageSource: Send + Sync {
    /// Makes the image ready to run.
    fn prepare<'a>(
        &'a self,
        reference: &'a str,
        auth: Auth,
    ) -> BoxFuture<'a, Result<ImageFacts, ImageFailure>>;
}

/// Why there is no image, in the words of a container's waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl ImageSource for Images {
    fn prepare<'a>(
        &'a self,
        reference: &'a str,
        auth: Auth,
    ) -> BoxFuture<'a, Result<ImageFacts, ImageFailure>> {
        let failed = move |error: dormouse_image::Error| ImageFailure {
            reason: match error {
                dormouse_image::Error::Reference { .. } => "InvalidImageName",
                _ => "ErrImagePull",
            },
            message: format!("failed to pull image {reference:?}: {}", dormouse_base::chain(&error)),
        };
        async move {
            let digest = self.pull(reference, &auth, Arc::new(Silent)).await.map_err(failed)?;
            if let Some(component) = self.component(digest).await.map_err(failed)? {
                return Ok(ImageFacts {
                    digest: component.digest.to_string(),
                    component: Some((component.content.to_string(), component.path)),
                    ..ImageFacts::default()
                });
            }
            let prepared = Images::prepare(self, digest).await.map_err(failed)?;
            Ok(ImageFacts {
                entrypoint: prepared.config.entrypoint,
                cmd: prepared.config.cmd,
                env: prepared.config.env,
                user: prepared.config.user,
                working_dir: prepared.config.working_dir,
                layers: prepared.layers,
                digest: prepared.digest.to_string(),
                component: None,
            })
        }
        .boxed()
    }
}

/// Prepares templates.
#[derive(Clone)]
pub(crate) struct Preparer {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    images: Arc<dyn ImageSource>,
    components: Arc<dyn Components>,
    manager: Manager,
    node_name: String,
    nameservers: Vec<String>,
    volumes: PathBuf,
    permits: Semaphore,
    tasks: Tasks,
}

// === impl Preparer ===

impl Preparer {
    pub(crate) fn new(
        client: kube::Client,
        images: Arc<dyn ImageSource>,
        components: Arc<dyn Components>,
        manager: Manager,
        config: &crate::Config,
        tasks: Tasks,
    ) -> Self {
        let nameservers =
            if config.nameservers.is_empty() { host_nameservers() } else { config.nameservers.clone() };
        let inner = Inner {
            client,
            images,
            components,
            manager,
            node_name: config.node_name.clone(),
            nameservers,
            volumes: config.data_dir.join("volumes"),
            permits: Semaphore::new(PARALLEL),
            tasks,
        };
        Self { inner: Arc::new(inner) }
    }

    fn start(&self, key: WorkKey) {
        let (this, shutdown) = (self.clone(), self.inner.tasks.shutdown().clone());
        self.inner.tasks.spawn("node-prepare", async move {
            tokio::select! {
                biased; // A stop ends it; a pull continues where it was at the next start.
                () = shutdown.wait() => {}
                () = this.prepare(&key) => {}
            }
        });
    }

    /// Prepares until it works, the template changes or the Deployment is gone.
    async fn prepare(&self, key: &WorkKey) {
        let Some(wanted) = self.inner.manager.wanted(key) else { return };
        let hash = wanted.template.hash.clone();
        let mut attempt = 0;
        loop {
            let result = match self.inner.permits.acquire().await {
                Ok(_permit) => self.attempt(key, &wanted.template).await,
                Err(_) => return,
            };
            if self.inner.manager.wanted(key).is_none_or(|now| now.template.hash != hash) {
                return;
            }
            match result {
                Ok(skeleton) => {
                    self.inner.manager.prepared(key, &hash, Preparation::Ready(Arc::new(skeleton)));
                    // Tokens are renewed in the files of running instances before they end.
                    let tokens = template::references(&wanted.template.spec).tokens;
                    let Some(seconds) = tokens.iter().map(|token| token.seconds).min() else { return };
                    let life =
                        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(TOKEN_MIN_SECONDS));
                    clock::sleep(life * 4 / 5).await;
                    if self.inner.manager.wanted(key).is_none_or(|now| now.template.hash != hash) {
                        return;
                    }
                    continue;
                }
                Err(failure) => {
                    if attempt == 0 {
                        tracing::warn!(deployment = %key, reason = failure.reason, "{}", failure.message);
                    }
                    let reason = match (attempt, failure.reason) {
                        (1.., "ErrImagePull") => "ImagePullBackOff",
                        (_, reason) => reason,
                    };
                    let failed = Preparation::Failed { reason: reason.to_owned(), message: failure.message };
                    self.inner.manager.prepared(key, &hash, failed);
                }
            }
            clock::sleep(PREPARE_BACKOFF.delay(attempt, 0.5)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn attempt(&self, key: &WorkKey, template: &Template) -> Result<template::Skeleton, ImageFailure> {
        let bad = |message: String| ImageFailure { reason: "CreateContainerConfigError", message };
        let spec = &template.spec;
        let auth = self.auth(key, spec).await.map_err(bad)?;
        let mut images = Vec::new();
        for container in template::containers(spec) {
            let image = container.image.clone().unwrap_or_default();
            images.push(self.inner.images.prepare(&image, auth.clone()).await?);
        }
        let referenced = self
            .read(key, spec.service_account_name.as_deref(), &template::references(spec))
            .await
            .map_err(bad)?;
        let volume_dir = self.volume_dir(key).join(&template.hash);
        let nameservers = match spec.dns_config.as_ref().and_then(|dns| dns.nameservers.clone()) {
            Some(given) if !given.is_empty() => given,
            _ => self.inner.nameservers.clone(),
        };
        let inner = self.inner.clone();
        let namespace = key.namespace.clone();
        let (spec, labels, annotations) =
            (template.spec.clone(), template.labels.clone(), template.annotations.clone());
        // It reads the image's user database and writes files.
        let work = move || {
            let around = Surroundings {
                namespace: &namespace,
                node_name: &inner.node_name,
                nameservers: &nameservers,
                volume_dir: &volume_dir,
            };
            let (skeleton, volumes) =
                template::skeleton(&spec, &labels, &annotations, &images, &referenced, &around)?;
            write_volumes(&volumes).map_err(|error| format!("write the volumes: {error}"))?;
            skeleton.check_directories()?;
            Ok(skeleton)
        };
        let skeleton = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()));
        let skeleton = skeleton.map_err(bad)?;
        if let Some(component) = &skeleton.component {
            let prepared = self.inner.components.prepare(component.source.clone()).await;
            prepared.map_err(|error| ImageFailure { reason: error.reason, message: error.message })?;
        }
        Ok(skeleton)
    }

    fn volume_dir(&self, key: &WorkKey) -> PathBuf {
        self.inner.volumes.join(&*key.namespace).join(&*key.name)
    }

    async fn auth(&self, key: &WorkKey, spec: &PodSpec) -> Result<Auth, String> {
        let api: Api<Secret> = Api::namespaced(self.inner.client.clone(), &key.namespace);
        let mut auth = Auth::anonymous();
        for reference in spec.image_pull_secrets.iter().flatten() {
            // As in Kubernetes, a secret that does not exist is passed over: the image may be public.
            let Ok(Some(secret)) = api.get_opt(&reference.name).await else { continue };
            let data = secret.data.unwrap_or_default();
            if let Some(bytes) = data.get(".dockerconfigjson") {
                let found = Auth::from_docker_config(
                    &format!("secret {}/{}", key.namespace, reference.name),
                    &bytes.0,
                );
                auth = auth.or(found.map_err(|error| dormouse_base::chain(&error))?);
            }
        }
        Ok(auth)
    }

    async fn read(
        &self,
        key: &WorkKey,
        account: Option<&str>,
        references: &References,
    ) -> Result<Referenced, String> {
        let mut found = Referenced::default();
        let secrets: Api<Secret> = Api::namespaced(self.inner.client.clone(), &key.namespace);
        for name in &references.secrets {
            let secret =
                secrets.get_opt(name).await.map_err(|error| format!("read secret {name:?}: {error}"))?;
            if let Some(secret) = secret {
                let data = secret.data.unwrap_or_default();
                found
                    .secrets
                    .insert(name.clone(), data.into_iter().map(|(key, value)| (key, value.0)).collect());
            }
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.inner.client.clone(), &key.namespace);
        for name in &references.config_maps {
            let map =
                maps.get_opt(name).await.map_err(|error| format!("read configmap {name:?}: {error}"))?;
            if let Some(map) = map {
                let text =
                    map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                let binary =
                    map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                found.config_maps.insert(name.clone(), text.chain(binary).collect());
            }
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.inner.client.clone(), &key.namespace);
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        for wanted in &references.tokens {
            let request = TokenRequest {
                spec: TokenRequestSpec {
                    audiences: Some(wanted.audience.clone())
                        .into_iter()
                        .filter(|it| !it.is_empty())
                        .collect(),
                    expiration_seconds: Some(wanted.seconds),
                    ..TokenRequestSpec::default()
                },
                ..TokenRequest::default()
            };
            let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
            let answer =
                answer.map_err(|error| format!("get a token for service account {account:?}: {error}"))?;
            let token = answer.status.map(|status| status.token).unwrap_or_default();
            found.tokens.insert(wanted.clone(), token.into_bytes());
        }
        Ok(found)
    }

    fn applied(&self, deployment: Deployment) {
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.deleted(&deployment);
        }
        let Some(wanted) = wanted(deployment) else { return };
        let key = wanted.key.clone();
        if self.inner.manager.apply(wanted) {
            self.start(key);
        }
    }

    fn deleted(&self, deployment: &Deployment) {
        let key = key_of(deployment);
        self.inner.manager.remove(&key);
        let dir = self.volume_dir(&key);
        drop(tokio::task::spawn_blocking(move || drop(fs::remove_dir_all(dir))));
    }

    /// Watches Deployments for ever. Cancel-safe: the next start lists again.
    pub(crate) async fn watch_deployments(&self) {
        let api: Api<Deployment> = Api::all(self.inner.client.clone());
        let mut stream = watcher::watcher(api, watcher::Config::default()).boxed();
        let mut seen: Option<Vec<WorkKey>> = None;
        let mut failures = 0;
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => seen = Some(Vec::new()),
                Ok(Event::InitApply(deployment)) => {
                    if let Some(seen) = &mut seen {
                        seen.push(key_of(&deployment));
                    }
                    self.applied(deployment);
                }
                Ok(Event::InitDone) => {
                    let seen: std::collections::HashSet<WorkKey> =
                        seen.take().unwrap_or_default().into_iter().collect();
                    for key in self.inner.manager.keys().into_iter().filter(|key| !seen.contains(key)) {
                        self.inner.manager.remove(&key);
                    }
                    self.inner.manager.kill_orphans().await;
                }
                Ok(Event::Apply(deployment)) => self.applied(deployment),
                Ok(Event::Delete(deployment)) => self.deleted(&deployment),
                Err(error) => {
                    tracing::warn!(%error, "watching deployments failed; trying again");
                    clock::sleep(WATCH_BACKOFF.delay(failures, 0.5)).await;
                    failures += 1;
                    continue;
                }
            }
            failures = 0;
        }
    }

    /// Watches Secrets for ever: what refers to a changed one is prepared again, for the instances to come.
    pub(crate) async fn watch_secrets(&self) {
        let api: Api<Secret> = Api::all(self.inner.client.clone());
        self.watch_referenced(api, |references, name| references.secrets.contains(name)).await;
    }

    /// Watches ConfigMaps for ever, likewise.
    pub(crate) async fn watch_config_maps(&self) {
        let api: Api<ConfigMap> = Api::all(self.inner.client.clone());
        self.watch_referenced(api, |references, name| references.config_maps.contains(name)).await;
    }

    async fn watch_referenced<K>(&self, api: Api<K>, refers: fn(&References, &str) -> bool)
    where
        K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let mut stream = watcher::watcher(api, watcher::Config::default()).boxed();
        let mut failures = 0;
        while let Some(event) = stream.next().await {
            match event {
                // What exists at the start is read when a Deployment is prepared.
                Ok(Event::Init | Event::InitApply(_) | Event::InitDone) => {}
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                    let keys =
                        self.inner.manager.keys().into_iter().filter(|key| *key.namespace == *namespace);
                    for key in keys.collect::<Vec<_>>() {
                        let wanted = self.inner.manager.wanted(&key);
                        if wanted
                            .is_some_and(|wanted| refers(&template::references(&wanted.template.spec), &name))
                        {
                            self.start(key);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "watching secrets or configmaps failed; trying again");
                    clock::sleep(WATCH_BACKOFF.delay(failures, 0.5)).await;
                    failures += 1;
                    continue;
                }
            }
            failures = 0;
        }
    }

    /// Watches Pods for ever: a deleted one stops its instance, one that nobody owns is refused.
    pub(crate) async fn watch_pods(&self, teller: &Teller) {
        let api: Api<Pod> = Api::all(self.inner.client.clone());
        let mut stream = watcher::watcher(api, watcher::Config::default()).boxed();
        let mut failures = 0;
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.pod(&pod).await,
                Ok(Event::Delete(pod)) => {
                    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                    teller.forget(&namespace, &name);
                    // Requests in flight are finished even then.
                    self.inner.manager.delete_pod(&namespace, &name, None);
                }
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => {
                    tracing::warn!(%error, "watching pods failed; trying again");
                    clock::sleep(WATCH_BACKOFF.delay(failures, 0.5)).await;
                    failures += 1;
                    continue;
                }
            }
            failures = 0;
        }
    }

    async fn pod(&self, pod: &Pod) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.inner.client.clone(), &namespace);
        let ours = self.inner.manager.pod(&namespace, &name).is_some();
        if pod.metadata.deletion_timestamp.is_some() {
            let seconds =
                pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            if !self.inner.manager.delete_pod(&namespace, &name, seconds.map(Duration::from_secs)) {
                // Nothing runs for it: finish the deletion.
                let now = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
                if let Err(error) = api.delete(&name, &now).await {
                    tracing::debug!(pod = name, %error, "could not finish the deletion of a pod");
                }
            }
        } else if !ours
            && pod.owner_references().is_empty()
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Failed")
        {
            let status = serde_json::json!({ "status": {
                "phase": "Failed", "reason": "NotSupported",
                "message": "pods without an owner are not run yet: create a Deployment or a Knative Service",
            }});
            let patch = kube::api::Patch::Merge(status);
            if let Err(error) = api.patch_status(&name, &kube::api::PatchParams::default(), &patch).await {
                tracing::debug!(pod = name, %error, "could not refuse a pod");
            }
        }
    }
}

fn key_of(deployment: &Deployment) -> WorkKey {
    WorkKey {
        namespace: deployment.namespace().unwrap_or_default().into(),
        name: deployment.name_any().into(),
    }
}

/// What a Deployment wants; `None` for one without a pod template.
fn wanted(deployment: Deployment) -> Option<Wanted> {
    let key = key_of(&deployment);
    let meta = deployment.metadata;
    let revision = meta.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
    let revision = revision.map(|name| RevisionKey::new(key.namespace.clone(), name.as_str()));
    let spec = deployment.spec?;
    let template_meta = spec.template.metadata.unwrap_or_default();
    let pod = spec.template.spec?;
    let labels: BTreeMap<String, String> = template_meta.labels.unwrap_or_default();
    let annotations = template_meta.annotations.unwrap_or_default();
    // Of a Deployment's template only what changes the container counts, not annotations that others put on it.
    let hash = template_hash(&labels, &pod);
    let deadline = spec.progress_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Some(Wanted {
        key,
        uid: meta.uid.unwrap_or_default(),
        revision,
        generation: meta.generation.unwrap_or_default(),
        replicas: spec.replicas.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(1),
        template: Arc::new(Template { hash, labels, annotations, spec: pod }),
        progress_deadline: deadline.map_or(DEFAULT_PROGRESS_DEADLINE, Duration::from_secs),
    })
}

fn host_nameservers() -> Vec<String> {
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    template::nameservers(&texts)
}

fn write_volumes(volumes: &Volumes) -> std::io::Result<()> {
    let private = |dir: &Path| -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
    };
    for directory in &volumes.directories {
        // Secrets: nobody but root and the instances comes past the directory above.
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
        }
        private(directory)?;
    }
    for file in &volumes.files {
        if let Some(parent) = file.path.parent() {
            private(parent)?;
        }
        fs::write(&file.path, &file.content)?;
        fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(image: &str, note: &str) -> Deployment {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "hello-00001-deployment", "namespace": "default", "generation": 2,
                "labels": {"serving.knative.dev/revision": "hello-00001"}},
            "spec": {"replicas": 0, "selector": {}, "template": {
                "metadata": {"labels": {"app": "x"}, "annotations": {"note": note}},
                "spec": {"containers": [{"name": "c", "image": image}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_revision_is_known_by_its_label_and_its_template_by_a_hash() {
        let one = wanted(deployment("a", "1")).unwrap();
        assert_eq!(one.revision, Some(RevisionKey::new("default", "hello-00001")));
        assert_eq!((one.replicas, one.generation), (0, 2));
        assert_eq!(one.progress_deadline, DEFAULT_PROGRESS_DEADLINE);
        assert_eq!(one.template.hash, wanted(deployment("a", "2")).unwrap().template.hash);
        assert_ne!(one.template.hash, wanted(deployment("b", "1")).unwrap().template.hash);
    }

    #[test]
    fn volume_files_are_written_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("hash/conf");
        let files =
            vec![template::VolumeFile { path: volume.join("a/b"), content: b"x".to_vec(), mode: 0o400 }];
        write_volumes(&Volumes { directories: vec![volume.clone()], files, mounts: vec![] }).unwrap();
        let mode = fs::metadata(volume.join("a/b")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o400);
        assert_eq!(fs::metadata(dir.path().join("hash")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
