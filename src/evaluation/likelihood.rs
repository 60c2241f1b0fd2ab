//! Log-likelihoods of continuations: how a (context, continuation) pair is split into tokens, and how many pairs are
//! scored in few forward passes.

use crate::error::{Error, Result};
use crate::evaluation::language_model::{LanguageModel, Sequence, Target};
use crate::evaluation::python;

/// A pair in tokens: ln P(continuation | context) is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub context: Vec<u32>,
    pub continuation: Vec<u32>,
}

impl Request {
    /// Splits as the harness's `_encode_pair` does: white space at the end of the context moves to the continuation,
    /// both are encoded together, and the continuation is what lies beyond the *length* of the context encoded
    /// alone. No BOS is added. An empty context is replaced by EOS.
    pub fn new(model: &dyn LanguageModel, context: &str, continuation: &str) -> Result<Self> {
        Ok(Self::of_choices(model, context, &[continuation])?.remove(0))
    }

    /// One request for each continuation of the same context, which is encoded once.
    pub fn of_choices(
        model: &dyn LanguageModel,
        context: &str,
        continuations: &[impl AsRef<str>],
    ) -> Result<Vec<Self>> {
        let kept = python::rstrip(context);
        let mut context_ids = model.encode(kept)?;
        let length = context_ids.len();
        if context_ids.is_empty() {
            let empty = model.empty_context().ok_or_else(|| {
                Error::invalid("a prompt is empty, and the tokenizer has no end-of-text token to stand for it")
            })?;
            context_ids.push(empty);
        }
        let mut whole = String::with_capacity(context.len() + 64);
        continuations
            .iter()
            .map(|continuation| {
                whole.clear();
                whole.push_str(context);
                whole.push_str(continuation.as_ref());
                let ids = model.encode(&whole)?;
                let continuation_ids = ids.get(length..).unwrap_or_default().to_vec();
                if continuation_ids.is_empty() {
                    return Err(Error::new(format!(
                        "the tokenizer gives the choice {:?} no token of its own",
                        continuation.as_ref()
                    )));
                }
                Ok(Self { context: context_ids.clone(), continuation: continuation_ids })
            })
            .collect()
    }

    /// The input and its targets: the last `max_length + 1` tokens of context and continuation, of which the last is
    /// only predicted; the continuation must fit whole.
    fn sequence(&self, max_length: usize) -> Result<Sequence> {
        let asked = self.continuation.len();
        if asked > max_length {
            return Err(Error::invalid(format!(
                "a choice of {asked} tokens is longer than the model's longest input, {max_length}"
            )));
        }
        let whole = self.context.len() + asked;
        let start = whole.saturating_sub(max_length + 1);
        let ids: Vec<u32> =
            self.context.iter().chain(&self.continuation).copied().skip(start).take(whole - start - 1).collect();
        let first = ids.len() - asked;
        let targets = (first..).zip(&self.continuation).map(|(position, &token)| Target { position, token });
        Ok(Sequence { targets: targets.collect(), ids })
    }
}

/// ln P(continuation | context) of every request, in their order: sums over the continuation's tokens.
///
/// Causal attention lets one forward pass serve every request whose input is a prefix of another's: the four
/// one-token answers of a question share theirs, as do choices that begin alike. What remains is run longest first,
/// in batches of at most `batch_tokens` tokens (padding included; at least one input). `advance(done, total)` is
/// called after each batch with counts of inputs.
pub fn score(
    model: &dyn LanguageModel,
    requests: &[Request],
    batch_tokens: usize,
    advance: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let max_length = model.max_length();
    let mut sequences = requests.iter().map(|request| request.sequence(max_length)).collect::<Result<Vec<_>>>()?;
    let hosts = share(&mut sequences);
    let scored: Vec<usize> = (0..sequences.len()).filter(|&index| hosts[index].index == index).collect();
    let found = run(model, &sequences, &scored, batch_tokens, advance)?;
    let sums = requests
        .iter()
        .zip(&hosts)
        .map(|(request, host)| found[host.index][host.target..][..request.continuation.len()].iter().sum::<f64>());
    Ok(sums.collect())
}

/// Where a request's targets are to be found: in the sequence `index`, from its target number `target` on.
#[derive(Clone, Copy)]
struct Host {
    index: usize,
    target: usize,
}

/// Hands the targets of every sequence whose ids are a prefix of another's to that other one.
fn share(sequences: &mut [Sequence]) -> Vec<Host> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    // In lexicographic order a sequence comes just before those that it is a prefix of; among equals the first
    // request comes last, and hosts the others.
    order.sort_by(|&a, &b| sequences[a].ids.cmp(&sequences[b].ids).then(b.cmp(&a)));
    let mut hosts: Vec<Host> = (0..sequences.len()).map(|index| Host { index, target: 0 }).collect();
    let mut host: Option<usize> = None;
    for &index in order.iter().rev() {
        match host {
            Some(host) if sequences[host].ids.starts_with(&sequences[index].ids) => {
                let targets = std::mem::take(&mut sequences[index].targets);
                hosts[index] = Host { index: host, target: sequences[host].targets.len() };
                sequences[host].targets.extend(targets);
            }
            _ => host = Some(index),
        }
    }
    hosts
}

/// The log-probabilities of the targets of `sequences[index]` for each `index` in `wanted`; empty for the others.
pub(super) fn run(
    model: &dyn LanguageModel,
    sequences: &[Sequence],
    wanted: &[usize],
    batch_tokens: usize,
    advance: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<Vec<f64>>> {
    let mut found = vec![Vec::new(); sequences.len()];
    let mut done = 0;
    for batch in batches(sequences, wanted, batch_tokens) {
        let inputs: Vec<&Sequence> = batch.iter().map(|&index| &sequences[index]).collect();
        let values = model.log_probabilities(&inputs)?;
        for (&index, values) in batch.iter().zip(values) {
            if let Some(value) = values.iter().find(|value| value.is_nan()) {
                return Err(Error::new(format!("the model gives a log-probability of {value}"))
                    .hint("its weights hold NaN or infinity; look at the stage that made them"));
            }
            found[index] = values;
        }
        done += batch.len();
        advance(done, wanted.len())?;
    }
    Ok(found)
}

/// Inputs of similar length together, the longest first; the order among equals is that of the requests.
fn batches(sequences: &[Sequence], wanted: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order = wanted.to_vec();
    order.sort_by_key(|&index| (std::cmp::Reverse(sequences[index].ids.len()), index));
    let mut batches = Vec::new();
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let fits = (batch_tokens / sequences[longest].ids.len().max(1)).clamp(1, rest.len());
        let (batch, later) = rest.split_at(fits);
        batches.push(batch.to_vec());
        rest = later;
    }
    batches
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    /// A model over characters whose probabilities are known: after any token `t` at position `p` the token `n` has
    /// the probability 2^-(1 + (t + 3p + n) mod 7). They need not sum to one.
    pub struct Fake {
        pub max_length: usize,
        pub passes: Cell<usize>,
        pub inputs: Cell<usize>,
    }

    impl Fake {
        pub fn new(max_length: usize) -> Self {
            Self { max_length, passes: Cell::new(0), inputs: Cell::new(0) }
        }

        pub fn log_probability(ids: &[u32], target: Target) -> f64 {
            let exponent = 1 + (ids[target.position] + 3 * target.position as u32 + target.token) % 7;
            -f64::from(exponent) * std::f64::consts::LN_2
        }
    }

    impl LanguageModel for Fake {
        /// One token a character, but a space belongs to the character that follows it, as in SentencePiece.
        fn encode(&self, text: &str) -> Result<Vec<u32>> {
            let mut ids = Vec::new();
            let mut spaces = 0;
            for c in text.chars() {
                if c == ' ' {
                    spaces += 1;
                } else {
                    ids.push(u32::from(c) + 0x20_0000 * spaces);
                    spaces = 0;
                }
            }
            if spaces > 0 {
                ids.push(0x10_ffff + spaces);
            }
            Ok(ids)
        }
        fn document_start(&self) -> Option<u32> {
            Some(1)
        }
        fn empty_context(&self) -> Option<u32> {
            Some(2)
        }
        fn max_length(&self) -> usize {
            self.max_length
        }
        fn log_probabilities(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f64>>> {
            self.passes.set(self.passes.get() + 1);
            self.inputs.set(self.inputs.get() + batch.len());
            let of = |sequence: &&Sequence| {
                assert!(!sequence.ids.is_empty() && sequence.ids.len() <= self.max_length);
                sequence.targets.iter().map(|&target| Self::log_probability(&sequence.ids, target)).collect()
            };
            Ok(batch.iter().map(of).collect())
        }
    }

    /// What the harness computes for one request on its own.
    fn alone(request: &Request, max_length: usize) -> f64 {
        let whole: Vec<u32> = request.context.iter().chain(&request.continuation).copied().collect();
        let start = whole.len().saturating_sub(max_length + 1);
        let input = &whole[start..whole.len() - 1];
        let first = input.len() - request.continuation.len();
        let targets = request.continuation.iter().enumerate();
        targets.map(|(i, &token)| Fake::log_probability(input, Target { position: first + i, token })).sum()
    }

    #[test]
    fn the_pair_is_split_by_length_after_trailing_spaces_moved() {
        let model = Fake::new(64);
        let plain = Request::new(&model, "ab", " A").unwrap();
        assert_eq!(plain.context, model.encode("ab").unwrap());
        assert_eq!(plain.continuation, model.encode(" A").unwrap());
        let moved = Request::new(&model, "ab ", "A").unwrap();
        assert_eq!(moved, plain);
        let empty = Request::new(&model, "", "A").unwrap();
        assert_eq!((empty.context, empty.continuation), (vec![2], model.encode("A").unwrap()));
        let none = Request::new(&model, "ab", "").unwrap_err();
        assert_eq!(none.one_line(), "the tokenizer gives the choice \"\" no token of its own");
    }

    #[test]
    fn scores_do_not_depend_on_batches_or_sharing() {
        for max_length in [5, 9, 64] {
            let model = Fake::new(max_length);
            let mut requests = Vec::new();
            for context in ["the question is", "the question", "x", "a longer context than the model can see"] {
                let choices = [" A", " B", " A", " AB", " ABC", " zzz", " the"];
                requests.extend(Request::of_choices(&model, context, &choices).unwrap());
            }
            let expected: Vec<f64> = requests.iter().map(|request| alone(request, max_length)).collect();
            for batch_tokens in [1, 40, 1_000] {
                let mut last = (0, 0);
                let mut advance = |done, total| {
                    last = (done, total);
                    Ok(())
                };
                let found = score(&model, &requests, batch_tokens, &mut advance).unwrap();
                assert_eq!(found, expected);
                assert_eq!(last.0, last.1);
            }
        }
    }

    #[test]
    fn one_token_choices_cost_one_input() {
        let model = Fake::new(64);
        let requests = Request::of_choices(&model, "Answer:", &[" A", " B", " C", " D"]).unwrap();
        score(&model, &requests, 1_000, &mut |_, _| Ok(())).unwrap();
        assert_eq!((model.passes.get(), model.inputs.get()), (1, 1));
    }

    #[test]
    fn a_choice_longer_than_the_model_is_an_error() {
        let model = Fake::new(4);
        let requests = [Request::new(&model, "x", " abcde").unwrap()];
        let error = score(&model, &requests, 10, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.one_line(), "a choice of 5 tokens is longer than the model's longest input, 4");
    }
}
