//! What is wrong with a command line, in one line.
//!
//! `clap` says it in a paragraph with the usage below; here it becomes what every other failure is.

use std::error::Error;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// The line for an error of `clap`.
pub fn failure(error: &clap::Error) -> Failure {
    let said = Said(error);
    let option = said.first(ContextKind::InvalidArg).map(|name| bare(&name).to_owned()).unwrap_or_default();
    let value = said.first(ContextKind::InvalidValue).unwrap_or_default();
    let see = || format!("see {} --help", said.program());
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = said.first(ContextKind::InvalidSubcommand).unwrap_or_default();
            let failure = Failure::new(name, format!("{} has no such command", said.program()));
            failure.remedy(said.did_you_mean(ContextKind::SuggestedSubcommand).unwrap_or_else(see))
        }
        ErrorKind::UnknownArgument => {
            let failure = Failure::new(option, "there is no such option, and nothing more is expected here");
            failure.remedy(said.did_you_mean(ContextKind::SuggestedArg).unwrap_or_else(see))
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            Failure::new(format!("{option} {value}"), why)
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            Failure::new(option, "no value is given").remedy(see())
        }
        ErrorKind::InvalidValue => {
            let valid = said.all(ContextKind::ValidValue).join(", ");
            Failure::new(format!("{option} {value}"), "there is no such choice")
                .remedy(format!("give {valid}"))
        }
        ErrorKind::MissingRequiredArgument => {
            let names = said.all(ContextKind::InvalidArg);
            let names: Vec<&str> = names.iter().map(|name| bare(name)).collect();
            Failure::line(format!("{} is missing", names.join(" and "))).remedy(see())
        }
        ErrorKind::ArgumentConflict => {
            let others = said.all(ContextKind::PriorArg);
            let others: Vec<&str> = others.iter().map(|name| bare(name)).collect();
            if others.is_empty() || others == [option.as_str()] {
                Failure::new(option, "it is given more than once").remedy("give it once")
            } else {
                let why = format!("it does not go with {}", others.join(" or "));
                Failure::new(option, why).remedy("give one of them")
            }
        }
        _ => {
            let text = error.render().to_string();
            let paragraph = text.split("\n\n").next().unwrap_or_default();
            Failure::line(paragraph.trim_start_matches("error: ")).remedy(see())
        }
    }
}

/// An option without the placeholder of its value: `--memory` of `--memory <SIZE>`, `IMAGE` of `<IMAGE>`.
fn bare(name: &str) -> &str {
    let name = name.split(' ').next().unwrap_or(name);
    name.trim_start_matches(['<', '[']).trim_end_matches(['>', ']', '.'])
}

/// What an error of `clap` tells about itself.
struct Said<'a>(&'a clap::Error);

impl Said<'_> {
    fn all(&self, kind: ContextKind) -> Vec<String> {
        match self.0.get(kind) {
            Some(ContextValue::String(one)) => vec![one.clone()],
            Some(ContextValue::Strings(many)) => many.clone(),
            _ => Vec::new(),
        }
    }

    fn first(&self, kind: ContextKind) -> Option<String> {
        self.all(kind).into_iter().next()
    }

    fn did_you_mean(&self, kind: ContextKind) -> Option<String> {
        self.first(kind).map(|name| format!("did you mean {}?", bare(&name)))
    }

    /// The command the error is about, like `viv run`, from the usage that clap would show.
    fn program(&self) -> String {
        let usage = match self.0.get(ContextKind::Usage) {
            Some(ContextValue::StyledStr(usage)) => usage.to_string(),
            _ => String::new(),
        };
        let words = usage.trim_start_matches("Usage:").split_whitespace();
        let words: Vec<&str> =
            words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
        if words.is_empty() { "viv".to_owned() } else { words.join(" ") }
    }
}
