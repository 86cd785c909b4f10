//! Whatever goes wrong in a plugin server costs at most the requests it was working on. One row of each fault; `make chaos` has them all.

use silverback_e2e::{
    Trial,
    chaos::{Fault, Policy, row},
};

/// Runs the faults whose turn it is, each in another language, one after the other.
async fn rows(first: usize, policy: Policy) {
    const LANGUAGES: [Trial; 3] = [Trial::Go, Trial::Python, Trial::JavaScript];
    let mut failed = Vec::new();
    for (index, fault) in Fault::ALL.into_iter().enumerate().skip(first).step_by(LANGUAGES.len()) {
        let report = row(fault, LANGUAGES[(index / LANGUAGES.len()) % LANGUAGES.len()], policy).await;
        if !report.problems.is_empty() {
            failed.push(report.to_string());
        }
    }
    assert!(failed.is_empty(), "rows of `make chaos` with problems:\n{}", failed.join("\n"));
}

#[tokio::test]
async fn faults_of_processes_and_handlers_let_nothing_pass_unchecked() {
    rows(0, Policy::Closed).await;
}

#[tokio::test]
async fn faults_at_sockets_and_on_the_wire_let_nothing_pass_unchecked() {
    rows(1, Policy::Closed).await;
}

#[tokio::test]
async fn faults_under_an_open_policy_refuse_nothing() {
    rows(2, Policy::Open).await;
}
