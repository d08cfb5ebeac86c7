//! `grpc.health.v1.Health/Check` over plain HTTP/2, as little of both as one question needs: no header of the answer is
//! read, for the message says everything.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &[u8] = b"/grpc.health.v1.Health/Check";
/// The longest frame that is read; a health answer has 7 bytes.
const FRAME_MAX: usize = 16 << 10;
/// The longest name of a service that fits a length of one byte.
const SERVICE_MAX: usize = 100;
/// `status: SERVING` in a HealthCheckResponse.
const SERVING: &[u8] = &[0x08, 0x01];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Asks once.
pub(super) async fn check(to: SocketAddr, service: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("failed to connect service \"{to}\": {error}");
    let mut stream = TcpStream::connect(to).await.map_err(failed)?;
    stream.write_all(&question(to, service)?).await.map_err(failed)?;
    let mut message = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.map_err(failed)?;
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > FRAME_MAX {
            return Err(format!("\"{to}\" does not speak gRPC"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.map_err(failed)?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.map_err(failed)?;
            }
            PING if flags & ACK == 0 => {
                stream.write_all(&frame(PING, ACK, 0, &payload)).await.map_err(failed)?;
            }
            DATA => message.extend_from_slice(&payload),
            RST_STREAM | GOAWAY => return Err(format!("\"{to}\" refused the health check")),
            _ => {}
        }
        if let Some(status) = complete(&message) {
            return if status == SERVING {
                Ok(())
            } else {
                Err(format!("service unhealthy (responded with {:?})", name(status)))
            };
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Err(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            );
        }
    }
}

/// The answer inside its gRPC frame, once it is whole.
fn complete(message: &[u8]) -> Option<&[u8]> {
    let (head, body) = message.split_first_chunk::<5>()?;
    let [_, a, b, c, d] = *head;
    body.get(..usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?)
}

fn name(status: &[u8]) -> &'static str {
    match status {
        [0x08, 0x02] => "NOT_SERVING",
        [0x08, 0x03] => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Preface, settings, and one request on stream 1.
fn question(to: SocketAddr, service: &str) -> Result<Vec<u8>, String> {
    if service.len() > SERVICE_MAX {
        return Err(format!("the service name is longer than {SERVICE_MAX} bytes"));
    }
    let mut request = Vec::new();
    if !service.is_empty() {
        request.extend([0x0a, one_byte(service.as_bytes())]);
        request.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0, 0, 0, 0, one_byte(&request)];
    body.extend(request);
    let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http, from HPACK's static table
    let authority = to.to_string();
    for (name, value) in [
        (&b":path"[..], PATH),
        (b":authority", authority.as_bytes()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", super::USER_AGENT.as_bytes()),
    ] {
        // A literal without indexing, name and value as they are.
        headers.push(0);
        for text in [name, value] {
            headers.push(one_byte(text));
            headers.extend_from_slice(text);
        }
    }
    let mut all = PREFACE.to_vec();
    all.extend(frame(SETTINGS, 0, 0, &[]));
    all.extend(frame(HEADERS, END_HEADERS, 1, &headers));
    all.extend(frame(DATA, END_STREAM, 1, &body));
    Ok(all)
}

/// A length below 127, which every number format here writes as one byte.
fn one_byte(text: &[u8]) -> u8 {
    u8::try_from(text.len()).unwrap_or(u8::MAX)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that reads the question and answers with these frames.
    async fn ask(answer: Vec<u8>) -> (Result<(), String>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let expected = question(to, "mine").unwrap().len();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; expected];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            asked
        };
        tokio::join!(check(to, "mine"), server)
    }

    fn answer(status: u8) -> Vec<u8> {
        let mut all = frame(SETTINGS, 0, 0, &[]);
        all.extend(frame(HEADERS, END_HEADERS, 1, &[0x88]));
        all.extend(frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 8, status]));
        all
    }

    #[tokio::test]
    async fn serving_is_healthy_and_everything_else_is_not() {
        let (result, asked) = ask(answer(1)).await;
        assert_eq!(result, Ok(()));
        assert!(asked.starts_with(PREFACE));
        assert!(asked.ends_with(&[0, 0, 0, 0, 6, 0x0a, 4, b'm', b'i', b'n', b'e']), "{asked:?}");
        assert!(ask(answer(2)).await.0.unwrap_err().contains("NOT_SERVING"));
        let trailers_only = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        assert!(ask(trailers_only).await.0.unwrap_err().contains("does not implement"));
        assert!(ask(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await.0.is_err());
    }
}
