use actix_web::{HttpRequest, HttpResponse};

/// Answers a request.
pub async fn index(request: HttpRequest) -> HttpResponse {
    // YOUR CODE HERE
    log::info!("{} {}", request.method(), request.uri());
    HttpResponse::Ok().body("OK")
}

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, http::StatusCode, test::TestRequest};

    use super::*;

    #[actix_web::test]
    async fn answers() {
        for request in [TestRequest::get(), TestRequest::post()] {
            let response = index(request.to_http_request()).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(to_bytes(response.into_body()).await.unwrap(), "OK");
        }
    }
}
