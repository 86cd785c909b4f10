//! The reference page of the PDK, docs/pdk.md, written from the table of functions.

use std::fmt::Write as _;

use crate::{
    function::{Function, PhaseRule},
    functions,
};

const HEAD: &str = "# The PDK, function by function

Every function that a plugin can call, in every language. Written from the table of functions in `crates/pdk`
(`cargo run -p silverback-pdk --example pdk_docs`); do not edit.

Plugins of the MessagePack protocol (JavaScript, Python) get nil where a function gives nil and an error; the error is
in the log. A call with a wrong argument, or in a phase in which the function may not be called, ends the event.
";

/// The page, Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut namespace = "";
    for function in functions::all() {
        let own = function.name.rsplit_once('.').map_or(function.name, |(namespace, _)| namespace);
        let own = if own == "kong" || own == "kong.log.inspect" { "kong.log" } else { own };
        if own != namespace {
            namespace = own;
            // Writing to a String cannot fail.
            let _ = write!(page, "\n## {own}\n\n| Function | Result | Phases | Since |\n|---|---|---|---|\n");
        }
        let _ = writeln!(page, "{}", row(function));
    }
    page
}

fn row(function: &Function) -> String {
    let phases = match function.phases {
        PhaseRule::Any => "all".to_owned(),
        rule => {
            let phases: Vec<_> = rule.allowed().map(|phase| phase.name()).collect();
            if phases.is_empty() { "none".to_owned() } else { phases.join(", ") }
        }
    };
    let about = function.about.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "| `{}({})` <br> {about} | {} | {phases} | {} |",
        function.name, function.args, function.result, function.since
    )
}

/// The names of all functions, in the order of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    functions::all().map(|function| function.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pdk.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "docs/pdk.md is out of date: cargo run -p silverback-pdk --example pdk_docs");
    }

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<_> = names().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
