//! The command line of `dormouse func`: upstream's verbs, flags and environment variables.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use crate::args::DataDir;

/// `dormouse func …`.
#[derive(Debug, Args)]
pub struct Func {
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a function project.
    #[command(visible_alias = "init")]
    Create(Create),
    /// Build the function's image.
    Build(Build),
    /// Build the function, run it on the platform and print its URL.
    Deploy(Deploy),
    /// Run the function here, as a process of this machine.
    Run(Run),
    /// Send the function a request or an event.
    Invoke(Invoke),
    /// List the deployed functions.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a deployed function: URL, image, subscriptions.
    #[command(visible_aliases = ["info", "desc"])]
    Describe(Describe),
    /// Undeploy a function; its files stay.
    #[command(visible_aliases = ["remove", "rm"])]
    Delete(Delete),
    /// Show what a deployed function prints, as it prints it.
    Logs(Logs),
    /// Let a function get events of a broker; the next deploy makes it so.
    Subscribe(Subscribe),
    /// Show versions, languages, templates, tools and the function here.
    #[command(visible_alias = "env")]
    Environment(Environment),
    /// List the languages.
    Languages(Languages),
    /// List the templates.
    Templates(Templates),
    /// Show the version.
    Version(Version),
}

/// Where the function is.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The function's directory [default: the current one].
    #[arg(
        short,
        long,
        env = "FUNC_PATH",
        default_value = ".",
        hide_default_value = true,
        value_name = "DIR"
    )]
    pub path: PathBuf,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}

/// `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Where to make it; the directory's name is the function's.
    #[arg(value_name = "PATH")]
    pub directory: Option<PathBuf>,
    /// The language; `languages` lists them.
    #[arg(short, long, env = "FUNC_LANGUAGE")]
    pub language: Option<String>,
    /// The template; `templates` lists them.
    #[arg(short, long, env = "FUNC_TEMPLATE", default_value = "http")]
    pub template: String,
    /// Like PATH.
    #[arg(short, long, env = "FUNC_PATH", value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Show what would be made and ask.
    #[arg(short, long, env = "FUNC_CONFIRM")]
    pub confirm: bool,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}

/// How images are built and named.
#[derive(Debug, Clone, Args)]
pub struct Building {
    /// Who builds: `host`, this program with the machine's tools. `pack` and `s2i` need a container daemon.
    #[arg(short, long, env = "FUNC_BUILDER", value_parser = ["host", "pack", "s2i"])]
    pub builder: Option<String>,
    /// The image of upstream's other builders; kept in func.yaml.
    #[arg(long, env = "FUNC_BUILDER_IMAGE", value_name = "IMAGE")]
    pub builder_image: Option<String>,
    /// The image to build upon.
    #[arg(long, value_name = "IMAGE")]
    pub base_image: Option<String>,
    /// The image's full name, instead of registry and name.
    #[arg(short, long, env = "FUNC_IMAGE")]
    pub image: Option<String>,
    /// Registry and namespace of the image, `ghcr.io/alice` [default: the platform's own registry].
    #[arg(short, long, env = "FUNC_REGISTRY")]
    pub registry: Option<String>,
    /// Talk to the registry without TLS if it does not speak it; kept in func.yaml.
    #[arg(long, env = "FUNC_REGISTRY_INSECURE")]
    pub registry_insecure: bool,
    /// A file with the registry's credentials, as docker and podman keep them.
    #[arg(long, env = "FUNC_REGISTRY_AUTHFILE", value_name = "FILE")]
    pub registry_authfile: Option<PathBuf>,
    /// The user at the registry.
    #[arg(long, env = "FUNC_USERNAME", hide_env_values = true, requires = "password")]
    pub username: Option<String>,
    /// The password at the registry.
    #[arg(long, env = "FUNC_PASSWORD", hide_env_values = true, requires = "username")]
    pub password: Option<String>,
    /// The platform to build for; only this machine's can be.
    #[arg(long, env = "FUNC_PLATFORM", value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Accepted as upstream has it; images carry no time here, so that equal source gives an equal image.
    #[arg(long, hide = true)]
    pub build_timestamp: bool,
    /// Never use the network: everything must be in the caches.
    #[arg(long)]
    pub offline: bool,
    /// Show what would be done and ask.
    #[arg(short, long, env = "FUNC_CONFIRM")]
    pub confirm: bool,
}

/// `build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// How.
    #[command(flatten)]
    pub building: Building,
    /// Push the image to its registry.
    #[arg(short = 'u', long, env = "FUNC_PUSH")]
    pub push: bool,
    /// `human` or `json`.
    #[arg(short, long, env = "FUNC_OUTPUT", default_value = "human", value_parser = ["human", "json"])]
    pub output: String,
}

/// `deploy`.
#[derive(Debug, Args)]
pub struct Deploy {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// How it is built.
    #[command(flatten)]
    pub building: Building,
    /// Whether to build: `auto` builds what has changed, `false` deploys the image that was built last.
    #[arg(
        long,
        env = "FUNC_BUILD",
        default_value = "auto",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_parser = ["auto", "true", "false"]
    )]
    pub build: String,
    /// Push the image to the registry that it is named for. Without --image or --registry the platform's own registry
    /// has it already.
    #[arg(
        short = 'u',
        long,
        env = "FUNC_PUSH",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    pub push: bool,
    /// The namespace [default: where it is deployed, else `default`].
    #[arg(short, long, env = "FUNC_NAMESPACE")]
    pub namespace: Option<String>,
    /// A variable, NAME=VALUE, or NAME- to remove it; may be repeated. Kept in func.yaml.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// How to deploy: as a Knative Service.
    #[arg(long, env = "FUNC_DEPLOYER", value_parser = ["knative"])]
    pub deployer: Option<String>,
    /// The domain of the route.
    #[arg(long, env = "FUNC_DOMAIN")]
    pub domain: Option<String>,
    /// The service account.
    #[arg(long, env = "FUNC_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,
    /// The Secret for pulling the image.
    #[arg(long, env = "FUNC_IMAGE_PULL_SECRET", value_name = "NAME")]
    pub image_pull_secret: Option<String>,
    /// Keep upstream's operator away from the function.
    #[arg(long, env = "FUNC_MANAGEMENT_DISABLED")]
    pub management_disabled: bool,
    /// Build on the platform; it is on this machine, so this changes nothing.
    #[arg(short = 'R', long, env = "FUNC_REMOTE")]
    pub remote: bool,
    /// How long to wait for the function to become Ready, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout_seconds: u64,
    /// `human`, `url` or `json`.
    #[arg(short, long, env = "FUNC_OUTPUT", default_value = "human", value_parser = ["human", "url", "json"])]
    pub output: String,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// Where it listens [default: 127.0.0.1:8080, or a free port when 8080 is taken].
    #[arg(long, env = "FUNC_ADDRESS", value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// A variable for this run, NAME=VALUE, or NAME- to leave it out; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Tell where it runs as JSON.
    #[arg(long, env = "FUNC_JSON")]
    pub json: bool,
    /// Who builds: `host`.
    #[arg(short, long, env = "FUNC_BUILDER", value_parser = ["host"])]
    pub builder: Option<String>,
}

/// `invoke`.
#[derive(Debug, Args)]
pub struct Invoke {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// `local`, `remote` or a URL [default: local if it runs here, else remote].
    #[arg(short, long, env = "FUNC_TARGET")]
    pub target: Option<String>,
    /// `http` or `cloudevent` [default: what the function takes].
    #[arg(short, long, env = "FUNC_FORMAT", value_parser = ["http", "cloudevent", "cloudevents"])]
    pub format: Option<String>,
    /// The event's id [default: a new one].
    #[arg(long, env = "FUNC_ID")]
    pub id: Option<String>,
    /// The event's source.
    #[arg(long, env = "FUNC_SOURCE", default_value = "/boson/fn")]
    pub source: String,
    /// The event's type.
    #[arg(long = "type", env = "FUNC_TYPE", default_value = "boson.fn")]
    pub kind: String,
    /// What to send.
    #[arg(long, env = "FUNC_DATA", default_value = r#"{"message":"Hello World"}"#)]
    pub data: String,
    /// A file whose content, in base64, is sent instead.
    #[arg(long, env = "FUNC_FILE")]
    pub file: Option<PathBuf>,
    /// What the data is.
    #[arg(long, env = "FUNC_CONTENT_TYPE", default_value = "application/json")]
    pub content_type: String,
    /// The request's method.
    #[arg(long, env = "FUNC_REQUEST_TYPE", default_value = "POST", value_parser = ["POST", "GET"])]
    pub request_type: String,
    /// An extension of the event, NAME=VALUE; may be repeated.
    #[arg(short, long, env = "FUNC_EXTENSION", value_name = "NAME=VALUE", value_delimiter = ',')]
    pub extension: Vec<String>,
    /// Do not check the server's certificate.
    #[arg(short, long, env = "FUNC_INSECURE")]
    pub insecure: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The namespace.
    #[arg(short, long, env = "FUNC_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// `human`, `plain`, `json` or `yaml`.
    #[arg(short, long, env = "FUNC_OUTPUT", default_value = "human", value_parser = ["human", "plain", "json", "yaml", "url"])]
    pub output: String,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}

/// `describe`.
#[derive(Debug, Args)]
pub struct Describe {
    /// The function's name [default: the one in --path].
    pub name: Option<String>,
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// The namespace of the named function.
    #[arg(short, long, env = "FUNC_NAMESPACE")]
    pub namespace: Option<String>,
    /// `human`, `plain`, `json`, `yaml` or `url`.
    #[arg(short, long, env = "FUNC_OUTPUT", default_value = "human", value_parser = ["human", "plain", "json", "yaml", "url"])]
    pub output: String,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The function's name [default: the one in --path].
    pub name: Option<String>,
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// The namespace of the named function.
    #[arg(short, long, env = "FUNC_NAMESPACE")]
    pub namespace: Option<String>,
    /// Delete what was made for the function too.
    #[arg(
        short,
        long,
        env = "FUNC_ALL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    pub all: bool,
    /// Show what would be deleted and ask.
    #[arg(short, long, env = "FUNC_CONFIRM")]
    pub confirm: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// The function's name [default: the one in --path].
    #[arg(long, env = "FUNC_NAME")]
    pub name: Option<String>,
    /// Its namespace.
    #[arg(short, long, env = "FUNC_NAMESPACE")]
    pub namespace: Option<String>,
    /// Only what is newer, e.g. `5s`, `2m` or `3h`.
    #[arg(long, env = "FUNC_LOGS_SINCE", default_value = "1m", value_name = "DURATION")]
    pub since: String,
    /// Stop at the end of what is there instead of waiting for more.
    #[arg(long)]
    pub no_follow: bool,
}

/// `subscribe`.
#[derive(Debug, Args)]
pub struct Subscribe {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// An attribute that events must have, NAME=VALUE; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// The broker.
    #[arg(short, long, default_value = "default")]
    pub source: String,
}

/// `environment`.
#[derive(Debug, Args)]
pub struct Environment {
    /// Where the function is.
    #[command(flatten)]
    pub place: Place,
    /// `json` or `yaml`.
    #[arg(short, long, env = "FUNC_FORMAT", default_value = "json", value_parser = ["json", "yaml"])]
    pub format: String,
}

/// `languages`.
#[derive(Debug, Args)]
pub struct Languages {
    /// As JSON.
    #[arg(long, env = "FUNC_JSON")]
    pub json: bool,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}

/// `templates`.
#[derive(Debug, Args)]
pub struct Templates {
    /// Of one language.
    pub language: Option<String>,
    /// As JSON.
    #[arg(long, env = "FUNC_JSON")]
    pub json: bool,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}

/// `version`.
#[derive(Debug, Args)]
pub struct Version {
    /// `human`, `json` or `yaml`.
    #[arg(short, long, env = "FUNC_OUTPUT", default_value = "human", value_parser = ["human", "json", "yaml"])]
    pub output: String,
    /// Tell more.
    #[arg(short, long, env = "FUNC_VERBOSE")]
    pub verbose: bool,
}
