use actix_web::error::ErrorInternalServerError;
use cloudevents::{AttributesReader, Event, EventBuilder, EventBuilderV10};
use serde_json::json;

/// Takes an event and answers with one.
pub async fn handle(event: Event) -> Result<Event, actix_web::Error> {
    // YOUR CODE HERE
    log::info!("got {} from {}", event.ty(), event.source());

    EventBuilderV10::new()
        .id(format!("response-{}", event.id()))
        .source("function")
        .ty("function.response")
        .data("application/json", json!({"message": "OK"}))
        .build()
        .map_err(ErrorInternalServerError)
}

#[cfg(test)]
mod tests {
    use actix_web::{test, web, App};

    use super::*;

    #[actix_web::test]
    async fn answers_with_an_event() {
        let answer = handle(Event::default()).await.unwrap();
        assert_eq!(answer.ty(), "function.response");
        assert!(answer.data().is_some());
    }

    #[actix_web::test]
    async fn refuses_what_is_no_event() {
        let app = test::init_service(App::new().route("/", web::post().to(handle))).await;
        let response = test::call_service(&app, test::TestRequest::post().uri("/").to_request()).await;
        assert!(response.status().is_client_error());
    }
}
