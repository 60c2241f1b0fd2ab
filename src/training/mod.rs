//! Training: data order, optimiser, schedule, loop, checkpoints, TensorBoard.
//!
//! A run is a function of its settings, its data and its seed. Every random number is a function of the seed and of
//! where it is used ([`crate::model::ops::Stream`]), so a checkpoint needs no generator's state, and a run that was
//! killed and continued gives the bytes of one that was not.

mod batch;
mod blend;
mod calibration;
mod checkpoint;
pub mod forecast;
mod memory;
mod mix;
mod optimiser;
mod permutation;
mod plan;
mod record;
mod run;
mod schedule;
pub mod tensorboard;

pub use blend::{Blend, Pass, Place, Share};
pub use calibration::{Speed, calibrate};
pub use checkpoint::Checkpoints;
pub use memory::{keep_freed_memory, peak_memory};
pub use mix::Mix;
pub use optimiser::{Adam, AdamW, clipping, decays, global_norm};
pub use permutation::Permutation;
pub use plan::{Extent, Plan};
pub use record::{Record, Records};
pub use run::{Auxiliary, Host, Report, Settings, Validation, train};
pub use schedule::{Schedule, Scheduler, Shape as ScheduleShape};
