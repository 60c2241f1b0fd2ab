//! Evaluation: tasks and their few-shot prompts, log-likelihoods, metrics, bits per byte, tables.
//!
//! Prompts, scoring and the shape of the results are those of lm-evaluation-harness at the revision that the
//! published figures were made with ([`HARNESS_REVISION`]); `tests/golden/make_lm_eval_prompts.py` makes the goldens
//! that the tests hold them against.
//!
//! | file                 | one idea                                                                    |
//! |----------------------|-----------------------------------------------------------------------------|
//! | [`tasks`]            | evaluation sets on disk → prompts, choices, answers                         |
//! | [`language_model`]   | what evaluation asks of a model                                             |
//! | [`mixtral`]          | a Mixtral folder that answers it                                            |
//! | [`likelihood`]       | (context, continuation) pairs → log-likelihoods, in batches                 |
//! | [`answers`]          | a model's answers to the items of a subject                                 |
//! | [`metrics`]          | log-likelihoods → accuracies and their standard errors                      |
//! | [`texts`]            | running text → loss per token and bits per byte                             |
//! | [`results`]          | the files of an evaluation: `results.json`, `results.md`, `samples.jsonl`   |
//! | [`comparison`]       | several evaluations side by side                                            |
//! | [`table`]            | tables for a terminal (wide characters counted as such) and for Markdown    |
//! | [`python`]           | what of Python's behaviour the prompts depend on: `random`, `str` methods   |

pub mod answers;
pub mod comparison;
pub mod language_model;
pub mod likelihood;
pub mod metrics;
pub mod mixtral;
pub mod python;
pub mod results;
pub mod table;
pub mod tasks;
pub mod texts;

/// The commit of EleutherAI/lm-evaluation-harness whose prompts, metrics and result files are reproduced (2024-01-05).
pub const HARNESS_REVISION: &str = "28ec7fa950346b5a895e85e1f3edd5648168acc4";
