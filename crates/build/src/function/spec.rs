//! The fields of func.yaml, by upstream's names and in upstream's order.

use std::collections::BTreeMap;

use super::record::{Field, Notes, Time, record};
use super::yaml::{Node, Value};

record! {
    /// What func.yaml holds.
    Spec as "functions.Function" {
        /// The newest migration that it has seen; `0.36.0` is the last one known.
        spec_version: String = "specVersion", always;
        /// A DNS-1035 label.
        name: String = "name";
        /// A domain of the route instead of the platform's.
        domain: String = "domain";
        /// The language: `go`, `node`, `python`…
        runtime: String = "runtime";
        /// Registry and namespace of images, `ghcr.io/alice`.
        registry: String = "registry";
        /// Whether the registry's certificate is not checked.
        registry_insecure: bool = "registryInsecure";
        /// The full name of the image, instead of `registry/name:latest`.
        image: String = "image";
        /// Where it shall be deployed.
        namespace: String = "namespace";
        /// How it shall be deployed: `knative`, `raw` or `keda`.
        deployer: String = "deployer";
        /// When it was created; what has no such time is no function yet.
        created: Time = "created", always;
        /// What it takes: `http` (also when empty) or `cloudevent`.
        invoke: String = "invoke";
        /// How it is built.
        build: Build = "build";
        /// How it runs.
        run: Run = "run";
        /// How it is deployed.
        deploy: Deploy = "deploy";
    }
}

record! {
    /// `build`.
    Build as "functions.BuildSpec" {
        /// The repository that builds of the platform read.
        git: Git = "git";
        /// An image per builder instead of its own.
        builder_images: BTreeMap<String, String> = "builderImages";
        /// For the builder `pack`.
        buildpacks: Vec<String> = "buildpacks";
        /// `host`, `pack` or `s2i`.
        builder: String = "builder";
        /// Variables of the build.
        envs: Vec<Env> = "buildEnvs";
        /// The volume of builds on a cluster.
        pvc_size: String = "pvcSize";
        /// Its storage class.
        remote_storage_class: String = "remoteStorageClass";
        /// The image to build upon (builder `host`).
        base_image: String = "baseImage";
        /// Directories of the machine for the build.
        mounts: Vec<Mount> = "volumes";
    }
}

record! {
    /// A repository.
    Git as "functions.Git" {
        /// Where.
        url: String = "url";
        /// Branch, tag or commit.
        revision: String = "revision";
        /// The function's directory in it.
        context_dir: String = "contextDir";
    }
}

record! {
    /// A directory of the machine for the build.
    Mount as "functions.MountSpec" {
        /// On this machine.
        source: String = "hostPath", always;
        /// In the build.
        destination: String = "path", always;
    }
}

record! {
    /// `run`.
    Run as "functions.RunSpec" {
        /// What is mounted.
        volumes: Vec<Volume> = "volumes";
        /// Variables.
        envs: Vec<Env> = "envs";
        /// How long a start may take, as Go writes durations.
        start_timeout: String = "startTimeout";
        /// A Kafka topic as the source of events.
        kafka: Option<Kafka> = "kafka";
    }
}

record! {
    /// A variable. Without a name, the value names a whole Secret or ConfigMap.
    Env as "functions.Env" {
        /// Its name.
        name: Option<String> = "name";
        /// Its value, or `{{ env:NAME }}`, `{{ secret:name:key }}`, `{{ configMap:name:key }}`.
        value: Option<String> = "value";
    }
}

record! {
    /// A volume: one source and a path.
    Volume as "functions.Volume" {
        /// A Secret's name.
        secret: Option<String> = "secret";
        /// A ConfigMap's name.
        config_map: Option<String> = "configMap";
        /// A claim.
        claim: Option<Claim> = "persistentVolumeClaim";
        /// A directory that lives with the instance.
        empty_dir: Option<EmptyDir> = "emptyDir";
        /// Where it is mounted.
        path: Option<String> = "path";
    }
}

record! {
    /// A persistent volume claim.
    Claim as "functions.PersistentVolumeClaim" {
        /// Its name.
        name: Option<String> = "claimName";
        /// Whether it may not be written.
        read_only: bool = "readOnly";
    }
}

record! {
    /// A directory that lives with the instance.
    EmptyDir as "functions.EmptyDir" {
        /// Empty or `Memory`.
        medium: String = "medium";
        /// A quantity.
        size_limit: Option<String> = "sizeLimit";
    }
}

record! {
    /// A Kafka topic.
    Kafka as "functions.KafkaConfig" {
        /// Addresses, separated by commas.
        brokers: String = "brokers", always;
        /// The topic.
        topic: String = "topic", always;
        /// The consumer group.
        consumer_group: String = "consumerGroup", always;
    }
}

record! {
    /// `deploy`.
    Deploy as "functions.DeploySpec" {
        /// Where it is deployed now.
        namespace: String = "namespace";
        /// The deployed image with its digest.
        image: String = "image";
        /// Annotations of the Service.
        annotations: BTreeMap<String, String> = "annotations";
        /// Scaling and resources.
        options: Options = "options";
        /// Labels of the Service.
        labels: Vec<Label> = "labels";
        /// Where it answers probes.
        health: Health = "healthEndpoints";
        /// The service account.
        service_account: String = "serviceAccountName";
        /// The Secret for pulling the image.
        image_pull_secret: String = "imagePullSecret";
        /// How it is deployed now.
        deployer: String = "deployer";
        /// The events that it wants.
        subscriptions: Vec<Subscription> = "subscriptions";
        /// Whether upstream's operator leaves it alone.
        management_disabled: bool = "managementDisabled";
    }
}

record! {
    /// `deploy.options`.
    Options as "functions.Options" {
        /// Scaling.
        scale: Option<Scale> = "scale";
        /// Resources.
        resources: Option<Resources> = "resources";
    }
}

record! {
    /// `deploy.options.scale`.
    Scale as "functions.ScaleOptions" {
        /// Instances at least.
        min: Option<i64> = "min";
        /// Instances at most.
        max: Option<i64> = "max";
        /// `concurrency` or `rps`.
        metric: Option<String> = "metric";
        /// Of the metric, per instance.
        target: Option<f64> = "target";
        /// Percent of the target.
        utilization: Option<f64> = "utilization";
    }
}

record! {
    /// `deploy.options.resources`.
    Resources as "functions.ResourcesOptions" {
        /// What is reserved.
        requests: Option<Requests> = "requests";
        /// What is the most.
        limits: Option<Limits> = "limits";
    }
}

record! {
    /// What is reserved.
    Requests as "functions.ResourcesRequestsOptions" {
        /// A quantity.
        cpu: Option<String> = "cpu";
        /// A quantity.
        memory: Option<String> = "memory";
    }
}

record! {
    /// What is the most.
    Limits as "functions.ResourcesLimitsOptions" {
        /// A quantity.
        cpu: Option<String> = "cpu";
        /// A quantity.
        memory: Option<String> = "memory";
        /// Requests at once per instance; 0 is any number.
        concurrency: Option<i64> = "concurrency";
    }
}

record! {
    /// A label.
    Label as "functions.Label" {
        /// Its key.
        key: Option<String> = "key", always;
        /// Its value, or `{{ env:NAME }}`.
        value: Option<String> = "value";
    }
}

record! {
    /// Paths of the probes.
    Health as "functions.HealthEndpoints" {
        /// Whether it lives.
        liveness: String = "liveness";
        /// Whether it takes requests.
        readiness: String = "readiness";
    }
}

record! {
    /// Events of a broker.
    Subscription as "functions.KnativeSubscription" {
        /// The broker.
        source: String = "source", always;
        /// Attributes that an event must have.
        filters: BTreeMap<String, String> = "filters";
    }
}

impl Env {
    /// `name` with `value`.
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: Some(name.to_owned()), value: Some(value.to_owned()), unknown: Vec::new() }
    }
}
