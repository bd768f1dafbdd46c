//! `sessiond policy report`: the configuration in force beside the requirements of a standard, for whoever has to answer for
//! it. A report, no gate: what is not met may have been decided so, and the exit code is 0.

use clap::{Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::output::{self, OutputError};
use crate::config::Config;
use crate::policy::{self, Finding, Judgement, Requirement, STANDARD, Verdict};

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Print each requirement of OWASP ASVS 5.0 on sessions, and what meets it
    Report {
        /// In what form
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Markdown,
}

impl Policy {
    pub(super) fn run(self, config: &Config) -> Result<(), OutputError> {
        let Self::Report { format } = self;
        let report = policy::report(config);
        let printed = match format {
            Format::Text => text(&report),
            Format::Json => format!("{:#}\n", json(&report)),
            Format::Markdown => markdown(&report),
        };
        output::text(printed)
    }
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::NotMet => "not met",
        Verdict::Application => "up to the application",
    }
}

fn json_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::NotMet => "not_met",
        Verdict::Application => "application",
    }
}

/// How many requirements have each verdict.
fn counts(report: &[Requirement]) -> [(Verdict, usize); 3] {
    let with = |verdict| report.iter().filter(|known| known.verdict() == verdict).count();
    [Verdict::Met, Verdict::NotMet, Verdict::Application].map(|verdict| (verdict, with(verdict)))
}

/// "24 requirements: 10 met, …"
fn summary(report: &[Requirement]) -> String {
    let counts = counts(report).map(|(verdict, count)| format!("{count} {}", name(verdict)));
    format!("{} requirements: {}", report.len(), counts.join(", "))
}

/// Which apps it is about; nothing if it is all.
fn apps(requirement: &Requirement, finding: &Finding) -> String {
    let names: Vec<&str> = finding.apps.iter().map(|app| app.as_str()).collect();
    match requirement.findings.len() {
        1 => String::new(),
        _ => names.join(", "),
    }
}

fn settings(judgement: &Judgement) -> Vec<String> {
    let shown = |(key, value): &(&str, Value)| match value {
        Value::Null => format!("{key} is off"),
        value => format!("{key} = {value}"),
    };
    judgement.settings.iter().map(shown).collect()
}

fn text(report: &[Requirement]) -> String {
    let mut text = format!(
        "{STANDARD} and the configuration in force, {}.\n",
        summary(report)
    );
    let mut line = |words: &[&str]| {
        text.extend(words.iter().copied());
        text.push('\n');
    };
    for requirement in report {
        let level = requirement.level.to_string();
        line(&["\n", requirement.id, " (level ", &level, ")  ", requirement.asks]);
        for finding in &requirement.findings {
            let judgement = &finding.judgement;
            let apps = apps(requirement, finding);
            let whose = if apps.is_empty() {
                apps
            } else {
                format!(" [{apps}]")
            };
            line(&["    ", name(judgement.verdict), &whose, ": ", &judgement.why]);
            for setting in settings(judgement) {
                line(&["        ", &setting]);
            }
        }
        for test in requirement.tests {
            line(&["    shown by ", test]);
        }
    }
    text
}

fn json(report: &[Requirement]) -> Value {
    let finding = |finding: &Finding| {
        let settings = finding.judgement.settings.iter();
        let settings: Map<String, Value> = settings
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        let apps: Vec<&str> = finding.apps.iter().map(|app| app.as_str()).collect();
        json!({
            "apps": apps,
            "verdict": json_name(finding.judgement.verdict),
            "settings": settings,
            "why": finding.judgement.why,
        })
    };
    let requirement = |known: &Requirement| {
        json!({
            "id": known.id,
            "level": known.level,
            "asks": known.asks,
            "verdict": json_name(known.verdict()),
            "findings": known.findings.iter().map(finding).collect::<Vec<_>>(),
            "tests": known.tests,
        })
    };
    let counts = counts(report).map(|(verdict, count)| (json_name(verdict).to_owned(), json!(count)));
    json!({
        "standard": STANDARD,
        "sessiond": env!("CARGO_PKG_VERSION"),
        "counts": Map::from_iter(counts),
        "requirements": report.iter().map(requirement).collect::<Vec<_>>(),
    })
}

fn markdown(report: &[Requirement]) -> String {
    let mut text = format!("# Sessions by {STANDARD}\n\n");
    let version = env!("CARGO_PKG_VERSION");
    let summary = summary(report);
    text.push_str(&format!(
        "The configuration in force, sessiond {version}; {summary}.\n\n"
    ));
    text.push_str("| number | level | asks for | apps | verdict | why | in force | shown by |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for requirement in report {
        for finding in &requirement.findings {
            let judgement = &finding.judgement;
            let apps = match apps(requirement, finding).as_str() {
                "" => "all".to_owned(),
                some => some.to_owned(),
            };
            let cells = [
                requirement.id.to_owned(),
                requirement.level.to_string(),
                plain(requirement.asks),
                plain(&apps),
                name(judgement.verdict).to_owned(),
                plain(&judgement.why),
                code(&settings(judgement)),
                code(requirement.tests),
            ];
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    text
}

/// Text of a cell that means nothing to Markdown: an app may be called `_a_`, a cookie is.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        if r"\`*_[]<>|#".contains(c) {
            plain.push('\\');
        }
        plain.push(if c.is_control() { ' ' } else { c });
    }
    plain
}

/// Each as code, in lines of one cell. A bar ends a cell even there, and a backtick the code.
fn code(texts: &[impl AsRef<str>]) -> String {
    let one = |text: &str| {
        let inert = |c: char| if c.is_control() || c == '`' { ' ' } else { c };
        let inert: String = text.chars().map(inert).collect();
        format!("`{}`", inert.replace('|', r"\|"))
    };
    let all: Vec<String> = texts.iter().map(|text| one(text.as_ref())).collect();
    all.join("<br>")
}
