//! Ctrl-C and SIGTERM: once asks stages to stop, twice ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Context, Result};

/// How often the user asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicUsize>);

impl Cancel {
    /// A counter that SIGINT and SIGTERM raise.
    pub fn on_signals() -> Result<Self> {
        let cancel = Self::default();
        let counter = cancel.0.clone();
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
                .context(|| "cannot listen for Ctrl-C".to_owned())?;
        std::thread::spawn(move || {
            for _ in signals.forever() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(cancel)
    }

    /// Stages should stop where they can go on later.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Stages should be ended at once.
    pub fn is_urgent(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 1
    }
}
