//! An HTTP server on loopback, one request a connection, that can answer as badly as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What goes wrong with the next request for a file, or of the API.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// An answer without a body; with `Retry-After` seconds.
    Status(u16, Option<u32>),
    /// Another body than the true one.
    Body(Vec<u8>),
    /// The range asked for is ignored: the whole file comes, with 200.
    WholeFile,
    /// More bytes than announced by the listing, without a `Content-Length`.
    Longer,
    /// The part that was asked for, said to begin one byte later.
    WrongRange,
    /// The part that was asked for, said to be of a longer file.
    WrongTotal,
    /// Every byte takes so long.
    Drip(Duration),
    /// Look there instead.
    Redirect(String),
    /// The body is said to be compressed.
    Encoded,
}

/// A request, with its path as it was sent and decoded.
pub struct Request {
    pub method: String,
    pub raw_path: String,
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The decoded value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decode(value))
    }
}

/// Runs until it is dropped.
pub struct Server {
    pub address: String,
    /// Bytes of the bodies of files that were sent.
    pub served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One answer on its way.
pub struct Answer {
    stream: TcpStream,
    without_body: bool,
    served: Arc<AtomicU64>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request, Answer, &str) -> Option<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let answer = Arc::new(answer);
        let thread = {
            let (address, stop, served) = (address.clone(), stop.clone(), served.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten().take_while(|_| !stop.load(Ordering::SeqCst)) {
                    let (address, served, answer) = (address.clone(), served.clone(), answer.clone());
                    // It ends when its client does.
                    std::thread::spawn(move || {
                        let request = read(&stream)?;
                        let without_body = request.method == "HEAD";
                        answer(&request, Answer { stream, without_body, served }, &address)
                    });
                }
            })
        };
        Self { address, served, stop, thread: Some(thread) }
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Out of its wait for the next connection.
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request { method, raw_path: path.to_owned(), path: decode(path), query: query.to_owned(), headers })
}

impl Answer {
    /// An answer as it should be.
    pub fn reply(mut self, status: u16, headers: &[(&str, String)], body: &[u8]) -> Option<()> {
        self.head(status, headers, Some(body.len()))?;
        if self.without_body { Some(()) } else { self.stream.write_all(body).ok() }
    }

    /// An answer without a body, as a fault has it.
    pub fn refuse(self, status: u16, after: Option<u32>) -> Option<()> {
        let headers: Vec<_> = after.map(|seconds| ("Retry-After", seconds.to_string())).into_iter().collect();
        self.reply(status, &headers, b"")
    }

    /// A file or the part of it that is asked for, unless a fault has it otherwise; `pace` is the time that 32 KiB
    /// take.
    pub fn content(
        mut self,
        request: &Request,
        headers: &[(&str, String)],
        content: &[u8],
        fault: Option<Fault>,
        pace: Duration,
    ) -> Option<()> {
        let asked = request.header("range").strip_prefix("bytes=").map(|range| range.trim_end_matches('-'));
        let mut from: Option<usize> = asked.and_then(|from| from.parse().ok());
        let mut content = content.to_vec();
        let mut headers = headers.to_vec();
        match &fault {
            Some(Fault::Status(status, after)) => return self.refuse(*status, *after),
            Some(Fault::Redirect(to)) => return self.reply(302, &[("Location", to.clone())], b""),
            Some(Fault::Body(body)) => content.clone_from(body),
            Some(Fault::WholeFile) => from = None,
            Some(Fault::Longer) => content.extend_from_slice(b"and more"),
            Some(Fault::Encoded) => headers.push(("Content-Encoding", "gzip".to_owned())),
            _ => {}
        }
        let total = content.len() + usize::from(matches!(fault, Some(Fault::WrongTotal)));
        if from.is_some_and(|from| from >= content.len()) {
            headers.push(("Content-Range", format!("bytes */{total}")));
            return self.reply(416, &headers, b"");
        }
        if let Some(from) = from {
            let said = from + usize::from(matches!(fault, Some(Fault::WrongRange)));
            headers.push(("Content-Range", format!("bytes {said}-{}/{total}", total - 1)));
        }
        let rest = &content[from.unwrap_or(0)..];
        let length = if let Some(Fault::Longer) = fault { None } else { Some(rest.len()) };
        self.head(if from.is_some() { 206 } else { 200 }, &headers, length)?;
        match fault {
            Some(Fault::Cut(bytes)) => self.body(&rest[..bytes.min(rest.len())]),
            Some(Fault::Drip(time)) => rest.chunks(1).try_for_each(|byte| {
                std::thread::sleep(time);
                self.body(byte)
            }),
            _ => rest.chunks(32 << 10).try_for_each(|piece| {
                std::thread::sleep(pace);
                self.body(piece)
            }),
        }
    }

    fn head(&mut self, status: u16, headers: &[(&str, String)], length: Option<usize>) -> Option<()> {
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        if let Some(length) = length {
            head += &format!("Content-Length: {length}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{head}\r\n").as_bytes()).ok()
    }

    fn body(&mut self, bytes: &[u8]) -> Option<()> {
        if self.without_body {
            return Some(());
        }
        self.stream.write_all(bytes).ok()?;
        self.served.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Some(())
    }
}

/// Undoes percent-encoding.
pub fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digits = if byte == b'%' { bytes.next().zip(bytes.next()) } else { None };
        let hex = digits.and_then(|(a, b)| u8::from_str_radix(std::str::from_utf8(&[a, b]).ok()?, 16).ok());
        out.push(hex.unwrap_or(byte));
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
