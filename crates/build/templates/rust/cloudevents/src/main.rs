//! The server of the function.

mod config;
mod handler;

use actix_web::{middleware::Logger, web, App, HttpResponse, HttpServer};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    HttpServer::new(|| {
        App::new()
            .wrap(Logger::default().exclude_regex("^/health/"))
            .configure(config::configure)
            .route("/health/{probe:(liveness|readiness)}", web::get().to(HttpResponse::Ok))
            .default_service(web::post().to(handler::handle))
    })
    .bind(("0.0.0.0", port))?
    .workers(1)
    .run()
    .await
}
