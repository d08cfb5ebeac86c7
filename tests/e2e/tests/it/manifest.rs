//! Manifests as a user writes them, with the parts that scenarios change.

use dormouse_e2e::platform::HELLO;

/// A Knative Service of the example image.
pub(crate) struct Service<'a> {
    name: &'a str,
    image: &'a str,
    annotations: Vec<(&'a str, &'a str)>,
    environment: Vec<(&'a str, &'a str)>,
    spec: Vec<String>,
    container: Vec<String>,
    metadata: Vec<String>,
    traffic: Vec<String>,
}

/// The shortest window that Knative allows: scenarios wait for sleep.
const WINDOW: (&str, &str) = ("autoscaling.knative.dev/window", "6s");

pub(crate) fn service(name: &str) -> Service<'_> {
    Service {
        name,
        image: HELLO,
        annotations: vec![WINDOW],
        environment: Vec::new(),
        spec: Vec::new(),
        container: Vec::new(),
        metadata: Vec::new(),
        traffic: Vec::new(),
    }
}

impl<'a> Service<'a> {
    pub(crate) fn image(mut self, image: &'a str) -> Self {
        self.image = image;
        self
    }

    pub(crate) fn annotation(mut self, name: &'a str, value: &'a str) -> Self {
        self.annotations.push((name, value));
        self
    }

    pub(crate) fn environment(mut self, name: &'a str, value: &'a str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// A field of the revision's spec.
    pub(crate) fn spec(mut self, line: &str) -> Self {
        self.spec.push(line.to_owned());
        self
    }

    /// A field of the container.
    pub(crate) fn container(mut self, line: &str) -> Self {
        self.container.push(line.to_owned());
        self
    }

    /// The revision's name.
    pub(crate) fn revision(mut self, name: &str) -> Self {
        self.metadata.push(format!("name: {name}"));
        self
    }

    /// A traffic target in flow style.
    pub(crate) fn traffic(mut self, target: &str) -> Self {
        self.traffic.push(target.to_owned());
        self
    }

    pub(crate) fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: {}\nspec:\n  template:\n    metadata:\n",
            self.name
        );
        let mut line = |indent: usize, content: &str| text.push_str(&format!("{:indent$}{content}\n", ""));
        for field in &self.metadata {
            line(6, field);
        }
        line(6, "annotations:");
        for (name, value) in &self.annotations {
            line(8, &format!("{name}: {value:?}"));
        }
        line(4, "spec:");
        for field in &self.spec {
            line(6, field);
        }
        line(6, "containers:");
        line(8, &format!("- image: {}", self.image));
        for field in &self.container {
            line(10, field);
        }
        if !self.environment.is_empty() {
            line(10, "env:");
            for (name, value) in &self.environment {
                line(12, &format!("- {{name: {name}, value: {value:?}}}"));
            }
        }
        if !self.traffic.is_empty() {
            line(2, "traffic:");
            for target in &self.traffic {
                line(4, &format!("- {target}"));
            }
        }
        text
    }
}
