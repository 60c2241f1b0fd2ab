//! Names that others chose: what may become a path here, and what may be shown.

use crate::error::{Error, Result};

/// Refuses a file name from a listing that would leave the target folder or that is none: absolute, with `..`, with
/// empty parts, with characters that no honest name has.
pub fn check_file(name: &str) -> Result<()> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    let bad_character = |c: char| c.is_control() || c == '\\';
    if name.split('/').any(bad_part) || name.chars().any(bad_character) {
        return Err(Error::new(format!("the source names a file {name:?}, which is not a path below a folder"))
            .hint("nothing was written for it; do not trust this source"));
    }
    Ok(())
}

/// A repository is `name` or `organisation/name`.
pub fn check_repo(name: &str) -> Result<()> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if name.split('/').count() > 2 || !name.split('/').all(good) {
        let error = Error::invalid(format!("`{name}` is no repository name"));
        return Err(error.hint("it has the form organisation/name"));
    }
    Ok(())
}

/// The file name at the end of an address, decoded.
pub fn of_url(url: &str) -> Result<String> {
    let wrong = || Error::invalid(format!("`{}` does not end in a file name", shown(url)));
    let Some((scheme, rest)) = url.split_once("://") else {
        let error = Error::invalid(format!("`{}` is no address", shown(url)));
        return Err(error.hint("addresses begin with https://, http://, file:// or s3://"));
    };
    if !matches!(scheme, "https" | "http" | "file") {
        return Err(Error::invalid(format!("`{}`: {scheme}:// is not supported", shown(url)))
            .hint("addresses begin with https://, http://, file:// or s3://"));
    }
    if scheme == "file" {
        let name = rest.rsplit('/').next().unwrap_or_default().to_owned();
        return check_file(&name).map(|()| name).map_err(|_| wrong());
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).ok_or_else(wrong)?;
    let name = decode(name).ok_or_else(wrong)?;
    if name.contains('/') {
        return Err(wrong());
    }
    check_file(&name).map(|()| name).map_err(|_| wrong())
}

/// An address as it may stand in a log: without user, password, and query, where tokens and signatures are.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[host_end..])
}

/// Percent-encodes everything but unreserved characters and, if `keep_slash`, `/`.
pub fn encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/');
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_a_folder_pass() {
        for good in ["a", "data/a b.jsonl", "数据/2023.parquet", "..a/b.."] {
            assert!(check_file(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", "./a", "a\\..\\b", "a\0b", "a\nb"] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/", "a/b/c", "../x", "a/..", "a b/c", "org/"] {
            assert!(check_repo(bad).is_err(), "{bad:?}");
        }
        assert!(check_repo("mistralai/Mixtral-8x7B-v0.1").is_ok());
    }

    #[test]
    fn addresses_end_in_names_and_are_shown_without_secrets() {
        assert_eq!(of_url("https://h.org/x/a%20b.jsonl?sig=1").unwrap(), "a b.jsonl");
        assert_eq!(of_url("file:///x/a%20b.jsonl").unwrap(), "a%20b.jsonl");
        for bad in [
            "https://h.org",
            "https://h.org/",
            "https://h.org/..",
            "https://h.org/%2e%2e%2fa",
            "a.jsonl",
            "s3://b/k",
        ] {
            assert!(of_url(bad).is_err(), "{bad}");
        }
        assert_eq!(shown("https://me:secret@h.org/a?token=secret"), "https://h.org/a");
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/中", true), "a%20b/%E4%B8%AD");
    }
}
