//! A tokenizer's chat template, a Jinja program: messages → a text, and where in it the answers stand.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use regex::Regex;

use super::dialogue::{ASSISTANT, Message};
use crate::error::{Context, Error, Result};

/// A template ready for use, in the surroundings that transformers gives it.
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
    /// It says itself where answers are, by `{% generation %}`.
    marks_answers: bool,
}

/// What a template can call by name: the tokens' texts.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    pub unk: Option<String>,
}

/// A dialogue as the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// What the assistant is to say, in bytes of `text`, in order.
    pub answers: Vec<Range<usize>>,
}

/// What stands where an answer begins and ends while a template runs: characters that no text may hold (Unicode's
/// noncharacters).
const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

const NAME: &str = "chat template";

impl ChatTemplate {
    pub fn new(source: &str, tokens: SpecialTokens) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.context(|| "cannot prepare for chat templates".to_owned())?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let marked = marked(source)?;
        let marks_answers = marked.contains(BEGIN);
        environment.add_template_owned(NAME, marked).context(|| "the chat template is no Jinja".to_owned())?;
        Ok(Self { environment, tokens, marks_answers })
    }

    /// The text of a dialogue.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        Ok(self.marked(messages, false)?.replace([BEGIN, END], ""))
    }

    /// What a model is given to answer the last message.
    pub fn render_prompt(&self, messages: &[Message]) -> Result<String> {
        Ok(self.marked(messages, true)?.replace([BEGIN, END], ""))
    }

    /// The text of a dialogue and the answers in it. They are what the template puts between `{% generation %}` and
    /// `{% endgeneration %}`; of one without these tags all that follows where the assistant is asked to speak
    /// (`add_generation_prompt`) until the message is over, but for white space at its end: a model that has said its
    /// end-of-turn token is not asked further.
    pub fn render_answers(&self, messages: &[Message]) -> Result<Rendered> {
        if self.marks_answers {
            return Ok(between_marks(&self.marked(messages, false)?));
        }
        let text = self.marked(messages, false)?;
        let mut answers = Vec::new();
        for (at, _) in messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
            let before = self.marked(&messages[..at], true)?;
            let with = self.marked(&messages[..=at], false)?;
            if !(text.starts_with(&with) && with.starts_with(&before)) {
                return Err(Error::invalid(format!(
                    "the chat template does not say where message {} begins: what stands before it depends on what \
                     comes later",
                    at + 1
                ))
                .hint("put {% generation %} and {% endgeneration %} around answers in the template"));
            }
            answers.push(before.len()..with.trim_end().len().max(before.len()));
        }
        Ok(Rendered { text, answers })
    }

    fn marked(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        if let Some(at) = messages.iter().position(|message| message.content.contains([BEGIN, END])) {
            let message = format!("message {} holds U+FDD0 or U+FDD1, which are no characters", at + 1);
            return Err(Error::invalid(message));
        }
        let SpecialTokens { bos, eos, pad, unk } = &self.tokens;
        let surroundings = context! {
            messages => messages.iter().map(value).collect::<Vec<_>>(),
            add_generation_prompt,
            bos_token => bos, eos_token => eos, pad_token => pad, unk_token => unk,
            tools => (), documents => (),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(surroundings))
            .map_err(|error| Error::invalid("the chat template fails").caused_by(error))
    }
}

fn value(Message { role, content }: &Message) -> Value {
    Value::from_pairs([("role", role.as_str()), ("content", content.as_str())])
}

/// A template whose `generation` tags, which only transformers knows, are put in words that every Jinja knows. White
/// space around the tags is handled as for any tag.
fn marked(source: &str) -> Result<String> {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
        .context(|| "cannot look for generation tags".to_owned())?;
    Ok(tag
        .replace_all(source, |found: &regex::Captures| {
            let mark = if found.get(2).is_some() { END } else { BEGIN };
            let (left, right) = (&found[1], &found[3]);
            format!("{{%{left} if true %}}{{% endif %}}{{{{ '{mark}' }}}}{{% if true %}}{{% endif {right}%}}")
        })
        .into_owned())
}

fn between_marks(marked: &str) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(marked.len()), answers: Vec::new() };
    for character in marked.chars() {
        let at = rendered.text.len();
        match character {
            BEGIN => rendered.answers.push(at..at),
            END => {
                if let Some(last) = rendered.answers.last_mut() {
                    last.end = at;
                }
            }
            _ => rendered.text.push(character),
        }
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message { role: (*role).into(), content: (*content).into() }).collect()
    }

    fn answers(template: &str, turns: &[(&str, &str)]) -> (String, Vec<String>) {
        let tokens = SpecialTokens { bos: Some("<s>".into()), ..SpecialTokens::default() };
        let template = ChatTemplate::new(template, tokens).unwrap();
        let Rendered { text, answers } = template.render_answers(&dialogue(turns)).unwrap();
        assert_eq!(template.render(&dialogue(turns)).unwrap(), text);
        let answers = answers.into_iter().map(|span| text[span].to_owned()).collect();
        (text, answers)
    }

    const TURNS: [(&str, &str); 5] =
        [("system", "短"), ("user", "1+1?"), ("assistant", "2 "), ("user", "<>&"), ("assistant", "不懂")];

    #[test]
    fn answers_are_found_with_and_without_tags() {
        let huozi = include_str!("../../pipelines/huozi3.jinja");
        let expected = "<s><|beginofutterance|>系统\n短<|endofutterance|>\n<|beginofutterance|>用户\n1+1?<|endofutterance|>\n\
                        <|beginofutterance|>助手\n2 <|endofutterance|>\n<|beginofutterance|>用户\n<>&<|endofutterance|>\n\
                        <|beginofutterance|>助手\n不懂<|endofutterance|>\n";
        let spoken = vec!["2 <|endofutterance|>".to_owned(), "不懂<|endofutterance|>".to_owned()];
        assert_eq!(answers(huozi.trim_end(), &TURNS), (expected.to_owned(), spoken));

        let tagged = "{% for message in messages %}\n  {{- '[' + message.role + ']' }}\n  \
                      {%- if message['role'] == 'assistant' %}\n  {% generation %}\n{{ message.content }}!\n  \
                      {%- endgeneration %}\n\n  {%- else %}\n{{ message.content.strip() }}\n  {%- endif %}\n{%- endfor %}";
        let (text, spoken) = answers(tagged, &TURNS);
        assert_eq!(text, "[system]短[user]1+1?[assistant]2 ![user]<>&[assistant]不懂!");
        assert_eq!(spoken, ["2 !", "不懂!"]);
    }

    #[test]
    fn a_template_that_looks_ahead_or_fails_is_an_error() {
        let tokens = SpecialTokens::default;
        let error = |template: &str| {
            let template = ChatTemplate::new(template, tokens()).unwrap();
            template.render_answers(&dialogue(&TURNS)).unwrap_err().one_line()
        };
        let looks_ahead = error("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}");
        assert!(looks_ahead.starts_with("the chat template does not say where message 3 begins"), "{looks_ahead}");
        let raises = error("{{ raise_exception('roles must alternate') }}");
        assert!(raises.contains("roles must alternate"), "{raises}");
        assert!(ChatTemplate::new("{% if %}", tokens()).is_err());
        let template = ChatTemplate::new("{{ messages[0].content }}", tokens()).unwrap();
        assert!(template.render(&dialogue(&[("user", "a\u{fdd0}")])).is_err());
    }
}
