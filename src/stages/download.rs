//! `download`: a repository of a hub, or addresses → their files, verified.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Fault, Input, Stage, Work};
use crate::error::{Error, Result};
use crate::events::Unit;
use crate::hub::{self, Client, Folders, Patience, Patterns, Repo, RepoType, Rights, s3};

/// Exactly one of `dataset`, `repo` and `urls` says what is fetched.
///
/// The environment's `HF_ENDPOINT` and `HF_TOKEN` are where, and with whose rights, unless `hub` or `endpoint` says
/// where; for `s3://`, `AWS_ENDPOINT_URL_S3`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and their like are. They are no part of
/// the stage: the same repository from a mirror is the same.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// A dataset of `datasets.toml`; its `repo` or `urls` there say where it comes from.
    pub dataset: Option<Dataset>,
    /// A repository, `organisation/name`.
    pub repo: Option<String>,
    /// What `repo` holds.
    pub repo_type: RepoType,
    /// Branch, tag or commit; `main` if absent.
    pub revision: Option<String>,
    /// Patterns of the files wanted, as the Hub's clients have them (`*` matches `/` too); all if absent.
    pub include: Option<Vec<String>>,
    /// Patterns of files not wanted.
    pub exclude: Option<Vec<String>>,
    /// Addresses: `https://…`, `http://…`, `file://…`, `s3://BUCKET/KEY`, `s3://BUCKET/FOLDER/`.
    pub urls: Option<Vec<String>>,
    /// A folder in the workspace laid out as a hub (`datasets/ORGANISATION/NAME/…`), to fetch from instead of the
    /// Hub. It is an input: when it changes, the stage runs again.
    pub hub: Option<Input>,
    /// Address of another hub, `https://…` or `file://…`, or of the object store that `s3://` means. What it serves is
    /// taken to stay the same.
    pub endpoint: Option<String>,
    /// Bytes a second: a transfer that is slower for a minute is broken off and tried again; 0 lets any pass.
    pub min_rate: u64,
}

/// What is fetched.
enum Wanted {
    Repo(Repo, Patterns),
    Urls(Vec<String>, Patterns),
}

impl Stage for Download {
    const KIND: &'static str = "download";
    const REVISION: u32 = 1;

    fn check(&self) -> Result<(), Fault> {
        if self.hub.is_some() && self.endpoint.is_some() {
            let message = "both `hub` and `endpoint` say where to download from";
            return Err(Fault::new("endpoint", message).hint("give one"));
        }
        self.wanted().map(|_| ())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let wanted = self.wanted()?;
        let patience = Patience { min_rate: self.min_rate, ..Patience::default() };
        let client = Client::new(Rights::from_env(), patience, work.cancelled());
        let listing = match &wanted {
            Wanted::Urls(urls, patterns) => {
                let site = s3::Site::from_env(self.endpoint.as_deref())?;
                hub::list_urls(&client, urls, &site, patterns)?
            }
            Wanted::Repo(repo, patterns) => {
                let endpoint = self.endpoint()?;
                work.info(format!("{} at {}", repo.name, hub::shown(&endpoint)));
                hub::list(&client, &endpoint, repo, patterns)?
            }
        };
        if let Some(commit) = &listing.commit {
            work.metric("commit", commit.as_str());
        }
        if let Some(etags) = listing.etags() {
            work.metric("etags", etags);
        }
        let progress = work.progress("fetched", listing.size(), Unit::Bytes);
        let folders = Folders { pool: work.pool(), scratch: work.scratch(), output: work.output() };
        let fetched = hub::fetch(&client, &listing, &folders, |bytes| progress.add(bytes))?;
        progress.finish();
        work.metric("files", fetched.files);
        work.metric("bytes", fetched.bytes);
        if fetched.reused > 0 {
            work.info(format!("{} of {} files were here already", fetched.reused, fetched.files));
        }
        Ok(())
    }
}

impl Download {
    fn wanted(&self) -> Result<Wanted, Fault> {
        let hint = "say what to fetch with exactly one of `dataset`, `repo` and `urls`";
        let given = [self.dataset.is_some(), self.repo.is_some(), self.urls.is_some()];
        match given.iter().filter(|given| **given).count() {
            0 => return Err(Fault::new("", "nothing says what to download").hint(hint)),
            1 => {}
            _ => return Err(Fault::new("", "more than one thing says what to download").hint(hint)),
        }
        let mut kind = self.repo_type;
        let (mut repo, mut revision) = (self.repo.clone(), self.revision.clone());
        let (mut include, mut exclude) = (self.include.clone(), self.exclude.clone());
        let mut urls = self.urls.clone().unwrap_or_default();
        if let Some(dataset) = &self.dataset {
            // What the stage says itself goes before what is registered.
            let source = dataset.source.clone();
            kind = RepoType::Dataset;
            repo = source.repo;
            urls = source.urls;
            revision = revision.or(source.revision);
            include = include.or(Some(source.include));
            exclude = exclude.or(Some(source.exclude));
            if repo.is_some() != urls.is_empty() {
                let name = &dataset.name;
                let message = if repo.is_some() { "both `repo` and `urls`" } else { "neither `repo` nor `urls`" };
                return Err(Fault::new("dataset", format!("the dataset `{name}` has {message} to come from"))
                    .hint("give it one of them in datasets.toml"));
            }
        }
        let (include, exclude) = (include.unwrap_or_default(), exclude.unwrap_or_default());
        let patterns =
            || Patterns::new(&include, &exclude).map_err(|error| Fault { parameter: String::new(), error });
        let Some(name) = repo else {
            if urls.is_empty() {
                return Err(Fault::new("urls", "`urls` is empty: there is nothing to download"));
            }
            // An object store has folders, from which patterns choose, and may be found at an endpoint.
            let has_store = urls.iter().any(|url| url.starts_with("s3://"));
            let idle = [
                ("include", !include.is_empty() && !has_store),
                ("exclude", !exclude.is_empty() && !has_store),
                ("revision", revision.is_some()),
                ("hub", self.hub.is_some()),
                ("endpoint", self.endpoint.is_some() && !has_store),
            ];
            if let Some((name, _)) = idle.iter().find(|(_, given)| *given) {
                return Err(Fault::new(*name, format!("`{name}` means a repository's files, not those at `urls`")));
            }
            return Ok(Wanted::Urls(urls, patterns()?));
        };
        let revision = revision.unwrap_or_else(|| "main".to_owned());
        Ok(Wanted::Repo(Repo { name, kind, revision }, patterns()?))
    }

    fn endpoint(&self) -> Result<String> {
        let endpoint = match (&self.hub, &self.endpoint) {
            (Some(hub), _) => return Ok(format!("file://{}", hub.path().display())),
            (None, Some(endpoint)) => endpoint.clone(),
            (None, None) => match std::env::var("HF_ENDPOINT") {
                Ok(endpoint) if !endpoint.is_empty() => endpoint,
                _ => hub::HUGGING_FACE.to_owned(),
            },
        };
        if !["https://", "http://", "file://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(Error::invalid(format!("the endpoint `{}` is no address", hub::shown(&endpoint)))
                .hint("addresses begin with https://, http:// or file://"));
        }
        Ok(endpoint)
    }
}
