//! An object store on loopback: one bucket, `ListObjectsV2` in pages, `GetObject` with ranges and conditions. It
//! computes the signature of every request itself (AWS Signature Version 4 in the query) and refuses any other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::http::{Answer, Fault, Request, Server, decode, hex};

pub const REGION: &str = "eu-test-1";

#[derive(Default)]
pub struct Bucket {
    pub objects: BTreeMap<String, Vec<u8>>,
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    pub list_faults: VecDeque<Fault>,
    pub page_size: usize,
    /// Id, secret and session token that requests must be signed with; none: anybody may read.
    pub key: Option<(String, String, Option<String>)>,
    /// What every page says is the token of the next, instead of the truth.
    pub next_token: Option<String>,
    pub log: Vec<String>,
}

/// Serves the bucket `corpus` until it is dropped.
pub struct Store {
    pub address: String,
    pub bucket: Arc<Mutex<Bucket>>,
    _server: Server,
}

impl Store {
    pub fn start(objects: &[(&str, &[u8])]) -> Self {
        let objects = objects.iter().map(|(key, content)| ((*key).to_owned(), content.to_vec())).collect();
        let bucket = Arc::new(Mutex::new(Bucket { objects, page_size: 1000, ..Bucket::default() }));
        let shared = bucket.clone();
        let server = Server::start(move |request, answer, _| respond(&shared, request, answer));
        Self { address: server.address.clone(), bucket, _server: server }
    }

    pub fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap()
    }

    pub fn fault(&self, key: &str, fault: Fault) {
        self.bucket().faults.entry(key.to_owned()).or_default().push_back(fault);
    }
}

fn respond(bucket: &Mutex<Bucket>, request: &Request, answer: Answer) -> Option<()> {
    let mut bucket = bucket.lock().unwrap();
    bucket.log.push(format!("{}?{} range={}", request.path, request.query, request.header("range")));
    let error = |answer: Answer, status, code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        answer.reply(status, &[("Content-Type", "application/xml".to_owned())], body.as_bytes())
    };
    if let Some((id, secret, token)) = &bucket.key {
        let scope = request.parameter("X-Amz-Credential").unwrap_or_default();
        let expected = signature(request, secret, REGION);
        if request.parameter("X-Amz-Security-Token") != *token || !scope.starts_with(&format!("{id}/")) {
            return error(answer, 403, "InvalidAccessKeyId");
        }
        if !scope.contains(&format!("/{REGION}/s3/")) {
            let headers = [("x-amz-bucket-region", REGION.to_owned())];
            return answer.reply(400, &headers, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>");
        }
        if request.parameter("X-Amz-Signature") != Some(expected) {
            return error(answer, 403, "SignatureDoesNotMatch");
        }
    } else if request.query.contains("X-Amz-") {
        return error(answer, 403, "InvalidAccessKeyId");
    }
    let Some(key) = request.path.strip_prefix("/corpus/") else { return error(answer, 404, "NoSuchBucket") };
    if key.is_empty() {
        let body = bucket.listing(request);
        let fault = bucket.list_faults.pop_front();
        return answer.content(request, &[], body.as_bytes(), fault, Duration::ZERO);
    }
    let Some(content) = bucket.objects.get(key).cloned() else { return error(answer, 404, "NoSuchKey") };
    let etag = etag(&content);
    let fault = bucket.faults.get_mut(key).and_then(VecDeque::pop_front);
    drop(bucket);
    if !["", etag.as_str()].contains(&request.header("if-match")) {
        return error(answer, 412, "PreconditionFailed");
    }
    answer.content(request, &[("ETag", etag)], &content, fault, Duration::ZERO)
}

/// Any name for a content will do.
fn etag(content: &[u8]) -> String {
    format!("\"{}\"", &hex(&Sha256::digest(content))[..32])
}

impl Bucket {
    fn listing(&self, request: &Request) -> String {
        let prefix = request.parameter("prefix").unwrap_or_default();
        let after = request.parameter("continuation-token").unwrap_or_default();
        let mut rest = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let page: Vec<_> = rest.by_ref().take(self.page_size).collect();
        let mut body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                        <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>corpus</Name>\
                        <EncodingType>url</EncodingType>"
            .to_owned();
        for (key, content) in &page {
            let (key, etag) = (encode(key), etag(content).replace('"', "&quot;"));
            body += &format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{etag}</ETag>\
                 <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                content.len()
            );
        }
        let next = match (&self.next_token, rest.next(), page.last()) {
            (Some(token), ..) => Some(token.clone()),
            (None, Some(_), Some((key, _))) => Some((*key).clone()),
            _ => None,
        };
        body += &format!("<KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated>", page.len(), next.is_some());
        if let Some(token) = next {
            body += &format!("<NextContinuationToken>{token}</NextContinuationToken>");
        }
        body + "</ListBucketResult>"
    }
}

/// As the store does it: a space is `+`.
fn encode(text: &str) -> String {
    let byte = |byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The signature that a request must bear, in hexadecimal, of AWS's description:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>.
fn signature(request: &Request, secret: &str, region: &str) -> String {
    let mut query: Vec<&str> =
        request.query.split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
    query.sort_unstable();
    let canonical = format!(
        "{}\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
        request.method,
        request.raw_path,
        query.join("&"),
        request.header("host")
    );
    let time = query.iter().find_map(|pair| pair.strip_prefix("X-Amz-Date=")).map(decode).unwrap_or_default();
    let day = time.get(..8).unwrap_or_default();
    let digest = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{day}/{region}/s3/aws4_request\n{digest}");
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day, region, "s3", "aws4_request", &text] {
        key = hmac(&key, part.as_bytes());
    }
    hex(&key)
}

/// HMAC-SHA-256 (RFC 2104), of keys no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        Sha256::new_with_prefix(block)
    };
    let inner = pad(0x36).chain_update(text).finalize();
    pad(0x5c).chain_update(inner).finalize().to_vec()
}

/// AWS's own example, so that the emulator's account of signatures is not only ours.
#[test]
fn signatures_are_those_of_aws() {
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F\
                 aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host";
    let request = Request {
        method: "GET".into(),
        raw_path: "/test.txt".into(),
        path: "/test.txt".into(),
        query: query.into(),
        headers: [("host".to_owned(), "examplebucket.s3.amazonaws.com".to_owned())].into(),
    };
    let expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    assert_eq!(signature(&request, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"), expected);
}
