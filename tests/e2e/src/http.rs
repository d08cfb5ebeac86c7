//! A blocking HTTP/1.1 client small enough to be trusted: it adds nothing, retries nothing and hides nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest wait for one read: a hang must fail a test, not the whole run.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// One request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`…
    pub method: &'a str,
    /// The `Host` header.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent with `content-length` when not empty.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A GET without further headers.
    pub fn get(host: &'a str, path: &'a str) -> Self {
        Request { method: "GET", host, path, headers: &[], body: &[] }
    }

    /// The bytes that go on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.path, self.host);
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body);
        bytes
    }
}

/// One response, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of that (lower case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that can be used for several requests.
pub struct Connection<S> {
    stream: BufReader<S>,
}

impl Connection<TcpStream> {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Connection::over(stream))
    }
}

impl<S: Read + Write> Connection<S> {
    /// Speaks HTTP over a stream that exists, such as a TLS session.
    pub fn over(stream: S) -> Self {
        Connection { stream: BufReader::new(stream) }
    }

    /// Sends one request and reads the whole response.
    ///
    /// # Errors
    /// When the connection ends before the response does.
    pub fn send(&mut self, request: &Request<'_>) -> Result<Response> {
        self.write(&request.encode())?;
        self.response()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).context("send")?;
        stream.flush().context("send")
    }

    /// Reads the head of a response: its status and headers.
    ///
    /// # Errors
    /// When what arrives is not a response.
    pub fn head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let Some(status) = status else { bail!("not a status line: {line:?}") };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// Reads one response to its end.
    ///
    /// # Errors
    /// When the connection ends before the response does.
    pub fn response(&mut self) -> Result<Response> {
        let (mut status, mut headers) = self.head()?;
        while status == 100 {
            (status, headers) = self.head()?;
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            while let Some(chunk) = self.chunk()? {
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().context("content-length")?;
            response.body = vec![0; length];
            self.stream.read_exact(&mut response.body).context("the body ended early")?;
        } else if !matches!(response.status, 101 | 204 | 304) {
            self.stream.read_to_end(&mut response.body).context("body")?;
        }
        Ok(response)
    }

    /// One chunk of a chunked body; `None` at its end.
    ///
    /// # Errors
    /// When the framing is broken or the connection ends.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("chunk size {line:?}"))?;
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk).context("the chunk ended early")?;
        self.line()?;
        Ok((size > 0).then_some(chunk))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).context("read a line")?;
        if read == 0 {
            bail!("the connection was closed");
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Connection::send`].
pub fn send(address: SocketAddr, request: &Request<'_>) -> Result<Response> {
    Connection::open(address)?.send(request)
}
