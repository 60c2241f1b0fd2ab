//! cmx: declarative pipelines that turn a base Mixture-of-Experts model into a bilingual one, and prove how.
//!
//! `docs/architecture.md` draws the rooms. Floors, from the top: [`commands`] → [`runner`] → [`plan`] → [`manifest`],
//! [`runner`] → [`stages`] → the rooms that do the work; everything stands on [`store`] and the ground floor.

pub mod commands;
pub mod manifest;
pub mod plan;
pub mod runner;
pub mod stages;

pub mod corpus;
pub mod evaluation;
pub mod hub;
pub mod model;
pub mod report;
pub mod tokenizer;
pub mod training;
pub mod weights;

pub mod error;
pub mod events;
pub mod files;
mod guard;
pub mod store;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
