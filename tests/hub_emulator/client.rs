//! The client under test, in a hurry.

use std::sync::Arc;
use std::time::Duration;

use cmx::error::Result;
use cmx::hub::{self, Client, Fetched, Folders, Listing, Patience, Patterns, Repo, RepoType, Rights};

use super::Hub;
use crate::workshop::Workshop;

pub const QUICK: Patience = Patience {
    attempts: 3,
    wait: Duration::from_millis(1),
    longest: Duration::from_millis(2),
    silence: Duration::from_secs(5),
    min_rate: 1024,
    window: Duration::from_secs(60),
};

/// A client with a hub's token.
pub fn client(token: Option<&str>, patience: Patience) -> Client {
    let rights = Rights { hub_token: token.map(str::to_owned), ..Rights::default() };
    Client::new(rights, patience, Arc::default())
}

/// Fetches a listing into the output of a workshop.
pub fn fetch_listing(client: &Client, listing: &Listing, shop: &Workshop) -> Result<Fetched> {
    let (pool, scratch, output) = (shop.pool(), shop.scratch(), shop.output());
    hub::fetch(client, listing, &Folders { pool: &pool, scratch: &scratch, output: &output }, |_| ())
}

/// Lists and fetches the emulator's dataset: its commit, and what was fetched.
pub fn fetch_as(
    client: &Client,
    hub: &Hub,
    shop: &Workshop,
    include: &[&str],
) -> Result<(Option<String>, Fetched)> {
    let repo = Repo { name: "org/corpus".into(), kind: RepoType::Dataset, revision: "main".into() };
    let include: Vec<String> = include.iter().map(|glob| (*glob).to_owned()).collect();
    let listing = hub::list(client, &hub.address, &repo, &Patterns::new(&include, &[])?)?;
    let fetched = fetch_listing(client, &listing, shop)?;
    Ok((listing.commit, fetched))
}

/// [`fetch_as`] without a token.
pub fn fetch(hub: &Hub, shop: &Workshop) -> Result<Fetched> {
    fetch_as(&client(None, QUICK), hub, shop, &[]).map(|(_, fetched)| fetched)
}

/// Some bytes that no compression or pattern makes shorter.
pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut out);
    out
}
