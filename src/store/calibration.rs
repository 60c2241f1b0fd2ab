//! What was measured of this machine, kept so that it need not be measured again.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Digest, Store};
use crate::error::{Context, Result};

impl Store {
    fn calibration_path(&self, of: Digest) -> PathBuf {
        self.root.join("calibrations").join(format!("{of}.json"))
    }

    /// What was measured of that name; one that cannot be read counts as absent.
    pub fn calibration<T: DeserializeOwned>(&self, of: Digest) -> Option<T> {
        serde_json::from_slice(&fs::read(self.calibration_path(of)).ok()?).ok()
    }

    pub fn set_calibration(&self, of: Digest, measured: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(measured).context(|| "cannot write what was measured".to_owned())?;
        self.write(&self.calibration_path(of), &text)
    }

    /// A place for a folder while something is measured; whoever measures removes it.
    pub fn calibration_folder(&self) -> PathBuf {
        self.root.join("calibrations").join(format!("{}.tmp", std::process::id()))
    }
}
