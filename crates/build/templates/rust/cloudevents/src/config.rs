use actix_web::web::ServiceConfig;

/// Adds to the server what requests share: data, limits, more routes.
pub fn configure(_config: &mut ServiceConfig) {
    log::info!("configuring");
}
