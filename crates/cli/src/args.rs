//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where a platform keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/dormouse";

/// Knative in one program: services that sleep when nothing happens and wake on a request.
#[derive(Debug, Parser)]
#[command(name = "dormouse", version, max_term_width = 100)]
pub struct Cli {
    /// What to log, e.g. `info` or `warn,dormouse_gateway=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the platform and stay in the foreground.
    Up(Up),
    /// Show whether the platform runs and where it listens.
    Status(Status),
    /// Stop the platform and remove every process, mount, namespace, bridge, cgroup and firewall rule of it.
    Down(Down),
    /// Check what this machine offers and say what to do about every lack.
    Doctor(Doctor),
    /// Push, pull, list, remove, import and build images in the platform's store.
    Image(Image),
    /// Build a directory into an image and make it a service: from source to a URL.
    Deploy(Deploy),
    /// Make, build, run, deploy and look after function projects, as `kn func` does.
    Func(Box<crate::func::args::Func>),
    /// Build an example, start a private platform, and watch it wake, grow, sleep and wake again.
    Demo(Demo),
    /// The helper process that launches sandboxes; started by `up`.
    #[command(hide = true)]
    Keeper(Keeper),
}

/// Which platform is meant.
#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// The platform's data directory.
    #[arg(long, global = true, default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `dormouse up`.
#[derive(Debug, Clone, Args)]
pub struct Up {
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// Kubernetes API over TLS.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub api_listen: SocketAddr,
    /// Public gateway [default: 127.0.0.1:80, or 127.0.0.1:8080 when 80 is taken].
    #[arg(long, value_name = "ADDR")]
    pub gateway_listen: Option<SocketAddr>,
    /// Gateway for cluster-local hosts.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    pub internal_gateway_listen: SocketAddr,
    /// OCI registry.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDR")]
    pub registry_listen: SocketAddr,
    /// Health, metrics and status.
    #[arg(long, default_value = "127.0.0.1:9091", value_name = "ADDR")]
    pub admin_listen: SocketAddr,
    /// Another name or address for the API server's certificate; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// On SIGTERM leave the instances running for the next `up` to adopt.
    #[arg(long)]
    pub keep_instances: bool,
    /// How long a stop waits for requests in flight, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub drain_seconds: u64,
}

/// `dormouse status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// `text` or `json`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// `dormouse down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// How long to wait for a running platform to stop, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout_seconds: u64,
}

/// `dormouse doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// `text` or `json`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// `dormouse deploy`.
#[derive(Debug, Clone, Args)]
pub struct Deploy {
    /// The project's directory, or one file: a static program or a WebAssembly component.
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Which platform.
    #[command(flatten)]
    pub data: DataDir,
    /// The service's name [default: the directory's].
    #[arg(long)]
    pub name: Option<String>,
    /// The namespace of the service.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// A variable of the service, NAME=VALUE; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A variable of the build, NAME=VALUE; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_env: Vec<String>,
    /// The port that the program listens on [default: 8080, told to it as PORT].
    #[arg(long)]
    pub port: Option<u16>,
    /// What the project is written in [default: detected].
    #[arg(short, long)]
    pub language: Option<String>,
    /// The image to build upon [default: an empty one, or the machine's interpreter made into one].
    #[arg(long, value_name = "IMAGE")]
    pub base_image: Option<String>,
    /// What to run instead of what the project says.
    #[arg(long, value_name = "ARG", num_args = 1.., allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Never use the network: everything must be in the caches.
    #[arg(long)]
    pub offline: bool,
    /// Print what would be done, as JSON, and do nothing.
    #[arg(long)]
    pub plan: bool,
    /// Deploy again whenever a file changes, until Ctrl-C.
    #[arg(short, long, conflicts_with = "plan")]
    pub watch: bool,
    /// How long to wait for the service to become Ready, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout_seconds: u64,
    /// How long one step of the build may take, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub build_timeout_seconds: u64,
    /// `text` or `json`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// `dormouse image …`.
#[derive(Debug, Args)]
pub struct Image {
    /// Which platform's store.
    #[command(flatten)]
    pub data: DataDir,
    /// What to do.
    #[command(subcommand)]
    pub verb: ImageVerb,
}

/// The image verbs.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Copy an image from the store to a registry.
    Push {
        /// The image in the store.
        reference: String,
        /// Where to [default: the reference itself].
        target: Option<String>,
    },
    /// Copy an image from a registry into the store.
    Pull {
        /// The image, e.g. `docker.io/library/nginx:latest`.
        reference: String,
    },
    /// List the images of the store.
    Ls,
    /// Remove a name; content that nothing else needs goes too.
    Rm {
        /// The image.
        reference: String,
    },
    /// Take an image from a `docker save` archive or an OCI layout (directory or tar).
    Import {
        /// The archive or directory.
        path: PathBuf,
        /// The name to give it [default: the name inside].
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image from a static binary, a directory or a WebAssembly component.
    Build {
        /// The binary, the directory that becomes `/`, or the component (`*.wasm`).
        path: PathBuf,
        /// The name to give it.
        #[arg(long)]
        name: String,
        /// The entry point [default for a binary: the binary].
        #[arg(long, value_name = "ARG", num_args = 1.., allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// An environment variable, NAME=VALUE; may be repeated.
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// The user, `uid`, `uid:gid` or a name in the image.
        #[arg(long)]
        user: Option<String>,
    },
}

/// `dormouse demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Keep the platform running until Ctrl-C instead of cleaning up at once.
    #[arg(long)]
    pub stay: bool,
}

/// `dormouse keeper`.
#[derive(Debug, Args)]
pub struct Keeper {
    /// Where its socket and its log are.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_address_names_the_flag() {
        let error = Cli::try_parse_from(["dormouse", "up", "--api-listen", "nowhere"]).unwrap_err();
        assert!(error.to_string().contains("--api-listen"), "{error}");
    }
}
