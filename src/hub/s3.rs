//! Object stores that speak S3: `s3://bucket/key` and `s3://bucket/folder/`, listed page by page, read with signed
//! requests, or anonymously where no key is set.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, S3Action, UrlStyle};
use url::Url;

use super::client::{Client, Peer, is_word};
use super::names::{self, shown};
use super::{Origin, Patterns, Remote};
use crate::error::{Context, Error, Result};

/// How long a signature holds: longer than any single answer takes to begin.
const VALID: Duration = Duration::from_secs(3600);

/// Where buckets are found.
#[derive(Clone, Debug)]
pub struct Site {
    /// AWS itself if absent.
    endpoint: Option<Url>,
    region: String,
}

/// A page of a bucket's listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub objects: Vec<Object>,
    /// The token that the next page is asked for with.
    pub next: Option<String>,
}

/// An object of a bucket, as its listing has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Not yet checked.
    pub key: String,
    pub size: Option<u64>,
    /// With its quotes.
    pub etag: Option<String>,
}

impl Site {
    /// The endpoint given, else that of `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, else AWS; the region of
    /// `AWS_REGION` or `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub fn from_env(endpoint: Option<&str>) -> Result<Self> {
        let first = |names: [&str; 2]| {
            names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        };
        let endpoint = endpoint.map(str::to_owned).or_else(|| first(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
        let region = first(["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| "us-east-1".to_owned());
        Self::new(endpoint.as_deref(), &region)
    }

    pub fn new(endpoint: Option<&str>, region: &str) -> Result<Self> {
        if !is_word(region) {
            return Err(Error::invalid("the region of the object store is no region's name")
                .hint("set AWS_REGION to one such as us-east-1"));
        }
        let endpoint = match endpoint {
            None => None,
            Some(text) => match Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
                _ => {
                    let message = format!("the endpoint `{}` is no address of an object store", shown(text));
                    return Err(Error::invalid(message).hint("it begins with https:// or http://"));
                }
            },
        };
        Ok(Self { endpoint, region: region.to_owned() })
    }

    /// Where a bucket is reached: as a path of an endpoint of one's own, as a host below AWS, unless its name does
    /// not do as the name of a host.
    fn bucket(&self, name: &str) -> Result<Bucket> {
        let is_host_name = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let (endpoint, style) = match &self.endpoint {
            Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
            None => {
                let suffix = if self.region.starts_with("cn-") { ".cn" } else { "" };
                let address = format!("https://s3.{}.amazonaws.com{suffix}", self.region);
                let url = Url::parse(&address).context(|| format!("`{}` is no region", self.region))?;
                (url, if is_host_name { UrlStyle::VirtualHost } else { UrlStyle::Path })
            }
        };
        let unusable = |error| Error::invalid(format!("`{name}` is no name of a bucket: {error:?}"));
        Bucket::new(endpoint, style, name.to_owned(), self.region.clone()).map_err(unusable)
    }
}

/// The wanted files at an address: those below `s3://bucket/folder/`, with names relative to it, or the one object
/// `s3://bucket/key`, or, if there is none, those below it.
pub(super) fn list(client: &Client, site: &Site, url: &str, patterns: &Patterns) -> Result<Vec<Remote>> {
    let (name, prefix) = parse_url(url)?;
    let bucket = Arc::new(site.bucket(name)?);
    let what = format!("the bucket `{name}`");
    let folder = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
    let mut single = None;
    let mut below = Vec::new();
    let mut tokens = HashSet::new();
    let mut token: Option<String> = None;
    loop {
        let address = || {
            let mut request = ListObjectsV2::new(&bucket, client.credentials());
            request.with_prefix(prefix);
            if let Some(token) = &token {
                request.with_continuation_token(token);
            }
            request.sign(VALID).into()
        };
        let (body, _) = client.document(address, Peer::ObjectStore, &what)?;
        let page = parse_listing(&body)
            .context(|| format!("{} does not answer as an object store does", shown(bucket.base_url().as_str())))?;
        for object in page.objects {
            let name = match object.key.strip_prefix(&folder) {
                // A folder's own mark.
                Some(name) if name.is_empty() || name.ends_with('/') => continue,
                Some(name) => name.to_owned(),
                None if object.key == prefix => {
                    let name = prefix.rsplit('/').next().unwrap_or(prefix).to_owned();
                    names::check_file(&name)?;
                    single = Some(remote(&bucket, name, object));
                    continue;
                }
                None => continue,
            };
            names::check_file(&name)?;
            if patterns.want(&name) {
                below.push(remote(&bucket, name, object));
            }
        }
        token = match page.next {
            None => break,
            Some(next) if tokens.insert(next.clone()) => Some(next),
            Some(_) => return Err(Error::new(format!("the listing of {what} comes back to where it has been"))),
        };
    }
    let files = single.map(|file| vec![file]).unwrap_or(below);
    if files.is_empty() {
        let error = Error::invalid(format!("there is nothing to fetch at `{url}`"));
        return Err(error.hint("a folder ends in `/`; `include` and `exclude` choose among the files below it"));
    }
    Ok(files)
}

fn remote(bucket: &Arc<Bucket>, name: String, object: Object) -> Remote {
    let from = Origin::Object { bucket: bucket.clone(), key: object.key };
    Remote { name, from, size: object.size, checksum: None, etag: object.etag }
}

/// The address of an object, signed if there is a key.
pub(super) fn address(client: &Client, bucket: &Bucket, key: &str) -> String {
    bucket.get_object(client.credentials(), key).sign(VALID).into()
}

/// Bucket and key, or prefix of keys, of an address `s3://bucket/key`.
pub fn parse_url(url: &str) -> Result<(&str, &str)> {
    let wrong = || {
        let error = Error::invalid(format!("`{}` is no address of an object store", shown(url)));
        error.hint("it has the form s3://bucket/key or s3://bucket/folder/")
    };
    let (bucket, prefix) = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let path = prefix.strip_suffix('/').unwrap_or(prefix);
    if !is_bucket || bucket.contains("..") || !(prefix.is_empty() || names::check_file(path).is_ok()) {
        return Err(wrong());
    }
    Ok((bucket, prefix))
}

/// A page of `ListObjectsV2`.
pub fn parse_listing(body: &[u8]) -> Result<Page> {
    /// Of Google Cloud Storage, which means the same by it.
    const OTHER_NAMESPACE: &str = "http://doc.s3.amazonaws.com/2006-03-01";
    const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
    let text = std::str::from_utf8(body).context(|| "the listing is not UTF-8".to_owned())?;
    let text = text.replace(OTHER_NAMESPACE, NAMESPACE);
    let listing =
        ListObjectsV2::parse_response(&text).context(|| "the listing is not of the form expected".into())?;
    let object = |object: rusty_s3::actions::list_objects_v2::ListObjectsContent| {
        let quoted = |etag: String| if etag.ends_with('"') { etag } else { format!("\"{etag}\"") };
        let etag = object.etag.filter(|etag| !etag.is_empty() && etag.bytes().all(|byte| byte.is_ascii_graphic()));
        Object { key: object.key, size: object.size, etag: etag.map(quoted) }
    };
    Ok(Page { objects: listing.contents.into_iter().map(object).collect(), next: listing.next_continuation_token })
}

/// The code in an error's answer, `<Error><Code>NoSuchBucket</Code>…`. The rest of it may repeat the request.
pub fn error_code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    is_word(code).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_bucket_and_a_key() {
        assert_eq!(parse_url("s3://my-bucket/data/a.jsonl").unwrap(), ("my-bucket", "data/a.jsonl"));
        assert_eq!(parse_url("s3://my.bucket/data/").unwrap(), ("my.bucket", "data/"));
        assert_eq!(parse_url("s3://bucket/").unwrap(), ("bucket", ""));
        for wrong in [
            "s3://bucket",
            "s3:///a",
            "s3://b u/a",
            "s3://bucket/../a",
            "s3://bucket//a",
            "s3://a..b/c",
            "https://bucket/a",
        ] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buckets_are_hosts_of_aws_and_paths_elsewhere() {
        let base = |endpoint, region, name| {
            Site::new(endpoint, region).unwrap().bucket(name).unwrap().base_url().to_string()
        };
        assert_eq!(base(None, "eu-west-1", "corpus"), "https://corpus.s3.eu-west-1.amazonaws.com/");
        assert_eq!(base(None, "cn-north-1", "corpus"), "https://corpus.s3.cn-north-1.amazonaws.com.cn/");
        assert_eq!(base(None, "eu-west-1", "my.corpus"), "https://s3.eu-west-1.amazonaws.com/my.corpus/");
        assert_eq!(base(Some("http://minio:9000"), "x", "corpus"), "http://minio:9000/corpus/");
        for (endpoint, region) in [(Some("ftp://x"), "x"), (Some("x"), "x"), (None, "x.evil.org/"), (None, "")] {
            assert!(Site::new(endpoint, region).is_err(), "{endpoint:?} {region}");
        }
    }

    #[test]
    fn a_listing_is_read_and_garbage_is_not() {
        for namespace in ["http://s3.amazonaws.com/doc/2006-03-01/", "http://doc.s3.amazonaws.com/2006-03-01"] {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"{namespace}\"><Name>b</Name>\
                 <KeyCount>1</KeyCount><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>\
                 <NextContinuationToken>t/1=</NextContinuationToken><Contents><Key>data/a%2Bb+c</Key>\
                 <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0a&quot;</ETag><Size>12</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
            );
            let object = Object { key: "data/a+b c".into(), size: Some(12), etag: Some("\"0a\"".into()) };
            let page = Page { objects: vec![object], next: Some("t/1=".into()) };
            assert_eq!(parse_listing(body.as_bytes()).unwrap(), page);
            assert!(parse_listing(&body.as_bytes()[..body.len() / 2]).is_err());
            // More is said to follow, and not where.
            let body = body.replace("<NextContinuationToken>t/1=</NextContinuationToken>", "");
            assert!(parse_listing(body.as_bytes()).is_err());
        }
        for wrong in ["", "{}", "<html></html>", "<ListBucketResult>", "<a><b></a></b>"] {
            assert!(parse_listing(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse_listing(b"\xff").is_err());
    }

    #[test]
    fn an_error_is_told_by_its_code_alone() {
        let body = b"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        assert_eq!(error_code(body).as_deref(), Some("SignatureDoesNotMatch"));
        assert_eq!(error_code(b"<Error><Code>see AKIA</Code></Error>"), None);
        assert_eq!(error_code(b"\xff<Code>"), None);
    }
}
