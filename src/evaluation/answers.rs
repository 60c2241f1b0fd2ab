//! A model's answers to the items of a subject.

use crate::error::{Context, Result};
use crate::evaluation::language_model::LanguageModel;
use crate::evaluation::likelihood::{self, Request};
use crate::evaluation::metrics::{Accuracy, best, best_normalised};
use crate::evaluation::tasks::Subject;

/// What the model made of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Of each choice.
    pub log_likelihoods: Vec<f64>,
    pub prediction: usize,
    /// By log-likelihood per character.
    pub prediction_normalised: usize,
    pub target: usize,
}

/// The answers to all items of a subject, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers(pub Vec<Answer>);

impl Answers {
    /// Asks `model`; `advance(done, total)` is called after each batch with counts of the subject's inputs.
    pub fn of(
        model: &dyn LanguageModel,
        subject: &Subject,
        batch_tokens: usize,
        advance: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        let mut requests = Vec::new();
        for (number, item) in subject.items.iter().enumerate() {
            let of_item = Request::of_choices(model, &item.context, &item.continuations)
                .context(|| format!("cannot ask item {number} of {}", subject.name))?;
            requests.extend(of_item);
        }
        let scores = likelihood::score(model, &requests, batch_tokens, advance)
            .context(|| format!("cannot score {}", subject.name))?;
        let mut rest = scores.as_slice();
        let answers = subject.items.iter().map(|item| {
            let (log_likelihoods, later) = rest.split_at(item.continuations.len());
            rest = later;
            Answer {
                prediction: best(log_likelihoods),
                prediction_normalised: best_normalised(log_likelihoods, &item.characters),
                log_likelihoods: log_likelihoods.to_vec(),
                target: item.target,
            }
        });
        Ok(Self(answers.collect()))
    }

    /// `acc` of the harness.
    pub fn accuracy(&self) -> Accuracy {
        Accuracy::of(self.0.iter().map(|answer| answer.prediction == answer.target))
    }

    /// `acc_norm` of the harness.
    pub fn accuracy_normalised(&self) -> Accuracy {
        Accuracy::of(self.0.iter().map(|answer| answer.prediction_normalised == answer.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::language_model::Target;
    use crate::evaluation::likelihood::tests::Fake;
    use crate::evaluation::tasks::Item;

    #[test]
    fn predictions_follow_the_models_probabilities() {
        let model = Fake::new(64);
        let item = |context: &str, choices: &[&str], target| Item {
            context: context.to_owned(),
            continuations: choices.iter().map(|choice| format!(" {choice}")).collect(),
            characters: choices.iter().map(|choice| choice.chars().count()).collect(),
            target,
        };
        let items = vec![item("the sea is", &["blue", "green"], 0), item("2 + 2 =", &["3", "4", "5"], 1)];
        let subject = Subject {
            name: "facts".to_owned(),
            alias: "facts".to_owned(),
            group: None,
            description: String::new(),
            version: 1.0,
            normalised: true,
            items: items.clone(),
        };
        let answers = Answers::of(&model, &subject, 16, &mut |_, _| Ok(())).unwrap();
        for (item, answer) in items.iter().zip(&answers.0) {
            let ids = model.encode(&item.context).unwrap();
            let expected: Vec<f64> = item
                .continuations
                .iter()
                .map(|choice| {
                    let all: Vec<u32> = ids.iter().copied().chain(model.encode(choice).unwrap()).collect();
                    let positions = ids.len() - 1..all.len() - 1;
                    positions
                        .map(|position| Fake::log_probability(&all, Target { position, token: all[position + 1] }))
                        .sum()
                })
                .collect();
            assert_eq!(answer.log_likelihoods, expected);
            let best = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(expected[answer.prediction], best);
            assert_eq!(answer.target, item.target);
        }
        assert_eq!(answers.accuracy().items, 2);
        assert_eq!(answers.accuracy_normalised().items, 2);
    }
}
