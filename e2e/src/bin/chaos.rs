//! The chaos table, and the soak.
//!
//!     chaos [--fault NAME]... [--language go|python|javascript]... [--policy closed|open]...
//!     chaos --soak SECONDS [--seed N]
//!
//! Exit status 1 if a row, or the soak, is not clean.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{process::ExitCode, time::Duration};

use silverback_e2e::{
    Trial,
    chaos::{Fault, Policy, Report, row, soak},
};

#[derive(Default)]
struct Options {
    faults: Vec<Fault>,
    languages: Vec<Trial>,
    policies: Vec<Policy>,
    soak: Option<Duration>,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} takes a value"))?;
        let wrong = || format!("{name}: {value} is not known");
        match name.as_str() {
            "--fault" => options.faults.push(Fault::from_name(&value).ok_or_else(|| {
                let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                format!("{}: one of {}", wrong(), names.join(", "))
            })?),
            "--language" => options.languages.push(language(&value).ok_or_else(wrong)?),
            "--policy" => {
                options.policies.push(Policy::ALL.into_iter().find(|p| p.name() == value).ok_or_else(wrong)?);
            }
            "--soak" => options.soak = Some(Duration::from_secs(value.parse().map_err(|_| wrong())?)),
            "--seed" => options.seed = value.parse().map_err(|_| wrong())?,
            _ => return Err(format!("{name} is not an option")),
        }
    }
    Ok(options)
}

fn language(name: &str) -> Option<Trial> {
    match name {
        "go" => Some(Trial::Go),
        "python" => Some(Trial::Python),
        "javascript" => Some(Trial::JavaScript),
        _ => None,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(64);
        }
    };
    if let Some(time) = options.soak {
        let soaked = soak(time, options.seed).await;
        println!("{soaked}");
        return ExitCode::from(u8::from(!soaked.problems.is_empty()));
    }
    let or_all = |given: &[Fault]| if given.is_empty() { Fault::ALL.to_vec() } else { given.to_vec() };
    let languages = if options.languages.is_empty() {
        vec![Trial::Go, Trial::Python, Trial::JavaScript]
    } else {
        options.languages
    };
    let policies = if options.policies.is_empty() { Policy::ALL.to_vec() } else { options.policies };
    println!("{}", Report::heading());
    let (mut rows, mut clean) = (0, 0);
    for fault in or_all(&options.faults) {
        for language in &languages {
            for policy in &policies {
                let report = row(fault, *language, *policy).await;
                println!("{report}");
                rows += 1;
                clean += usize::from(report.is_clean());
            }
        }
    }
    println!("{clean} of {rows} rows are clean");
    ExitCode::from(u8::from(clean < rows))
}
