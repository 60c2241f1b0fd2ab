//! Tasks, few-shot prompts, log-likelihood, metrics, tables.
