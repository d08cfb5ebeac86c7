//! One hop and nothing else, for the benchmark beside nginx: `hop LISTEN UPSTREAM`.
//!
//! Routing (any host in the `hop` table), the concurrency gate and metrics are on, as in the platform.

use std::net::SocketAddr;
use std::sync::Arc;

use dormouse_api::key::RevisionKey;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_gateway::{Gateway, GatewayConfig, RevisionPolicy, Visibility, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: hop LISTEN UPSTREAM [THREADS]";
    let listen: SocketAddr = arguments.next().ok_or(usage)?.parse()?;
    let upstream: SocketAddr = arguments.next().ok_or(usage)?.parse()?;
    let threads: usize = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let tasks = Tasks::new(Shutdown::new());
        let gateway = Gateway::new(GatewayConfig { threads, ..GatewayConfig::default() }, tasks.clone())?;
        let hosts = [listen.ip().to_string(), "localhost".to_owned(), "hop.default.localhost".to_owned()];
        let ingress = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "default", "name": "hop"},
            "spec": {"rules": [{"hosts": hosts, "http": {"paths": [
                {"splits": [{"serviceName": "hop-00001", "percent": 100}]}
            ]}}]}
        }))?;
        gateway.swap_routes(compile(&[Arc::new(ingress)]));
        let revision = RevisionKey::new("default", "hop-00001");
        gateway.set_policy(&revision, RevisionPolicy { container_concurrency: 1000, ..Default::default() });
        gateway.set_endpoints(&revision, vec![("upstream".to_owned(), upstream)]);
        let listener = std::net::TcpListener::bind(listen)?;
        gateway.serve(&listener, Visibility::External, &tasks)?;
        tokio::signal::ctrl_c().await?;
        tasks.shutdown().trigger();
        Ok(())
    })
}
