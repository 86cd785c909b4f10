//! What was recorded, and how it compares with what is counted now.

use std::fmt::Write;

/// Percent above its figure that a path may take: some of what is counted is not ours (the allocator, libc), and what the
/// compiler inlines depends on the directory that it builds in (up to 4 percent were seen).
pub(crate) const TOLERANCE: u64 = 8;

/// Percent below its figure from which on a path is worth a new figure.
const MUCH_CHEAPER: u64 = 10;

/// A path, and the instructions that one operation takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub name: String,
    pub instructions: u64,
}

/// The file of figures: what they were counted with, and the figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// The versions of what has a say in the count, one a line.
    pub with: Vec<String>,
    pub figures: Vec<Figure>,
}

const HEADING: &str = "\
# Instructions of one operation of each hot path. Written by `make instructions-record`; see README.md.
";
const WITH: &str = "# with ";

/// Why a file of figures cannot be read: a line that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no name and number: {text:?}")]
pub(crate) struct BadLine {
    pub line: usize,
    pub text: String,
}

impl Figures {
    pub(crate) fn parse(text: &str) -> Result<Self, BadLine> {
        let mut read = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(with) = text.strip_prefix(WITH) {
                read.with.push(with.to_owned());
            } else if !text.starts_with('#') && !text.trim().is_empty() {
                let figure = text.split_once(' ').and_then(|(name, number)| {
                    Some(Figure { name: name.to_owned(), instructions: number.trim().parse().ok()? })
                });
                read.figures.push(figure.ok_or_else(|| BadLine { line, text: text.to_owned() })?);
            }
        }
        Ok(read)
    }

    pub(crate) fn write(&self) -> String {
        let mut text = HEADING.to_owned();
        self.with.iter().for_each(|with| text.extend([WITH, with, "\n"]));
        text.push('\n');
        for Figure { name, instructions } in &self.figures {
            let _ = writeln!(text, "{name:40} {instructions:>9}");
        }
        text
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.instructions)
    }
}

/// How a run compares with what was recorded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Name, figure, count of now.
    pub dearer: Vec<(String, u64, u64)>,
    pub cheaper: Vec<(String, u64, u64)>,
    /// Paths without a figure, and figures without a path.
    pub unrecorded: Vec<String>,
    pub gone: Vec<String>,
    /// What counts differently here: as recorded, and as it is now.
    pub different: Vec<(String, String)>,
}

impl Comparison {
    pub(crate) fn new(recorded: &Figures, now: &Figures) -> Self {
        let mut comparison = Self::default();
        for Figure { name, instructions } in &now.figures {
            let entry = |before| (name.clone(), before, *instructions);
            match recorded.of(name) {
                None => comparison.unrecorded.push(name.clone()),
                Some(before) if *instructions * 100 > before * (100 + TOLERANCE) => {
                    comparison.dearer.push(entry(before));
                }
                Some(before) if *instructions * 100 < before * (100 - MUCH_CHEAPER) => {
                    comparison.cheaper.push(entry(before));
                }
                Some(_) => {}
            }
        }
        let gone = recorded.figures.iter().filter(|figure| now.of(&figure.name).is_none());
        comparison.gone = gone.map(|figure| figure.name.clone()).collect();
        let pairs = recorded.with.iter().zip(&now.with).filter(|(before, now)| before != now);
        comparison.different = pairs.map(|(before, now)| (before.clone(), now.clone())).collect();
        comparison
    }

    pub(crate) fn fails(&self) -> bool {
        !(self.dearer.is_empty() && self.unrecorded.is_empty() && self.gone.is_empty())
    }

    /// What is to be said: nothing where all is well.
    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        let mut say = |heading: &str, entries: &[(String, u64, u64)]| {
            if entries.is_empty() {
                return;
            }
            let _ = writeln!(text, "{heading}\n\n    {:40} {:>9} {:>9}", "one operation of", "recorded", "now");
            for (name, before, now) in entries {
                let _ = writeln!(text, "    {name:40} {before:>9} {now:>9}  {:>+6.1} %", percent(*before, *now));
            }
            text.push('\n');
        };
        say(&format!("Hot paths take more than {TOLERANCE} % more instructions than were recorded:"), &self.dearer);
        say("Hot paths take fewer instructions than were recorded:", &self.cheaper);
        if !self.dearer.is_empty() {
            let _ = writeln!(
                text,
                "Make them cheaper: `callgrind_annotate --inclusive=yes target/instructions/callgrind/NAME`, with dots \
                 for slashes,\nshows where they go. If they are worth it, run `make instructions-record` and commit the \
                 new figures;\nthe commit's message says why."
            );
        } else if !self.cheaper.is_empty() {
            let _ = writeln!(text, "Run `make instructions-record` and commit the new figures, so that they stay so.");
        }
        for (paths, what) in [(&self.unrecorded, "have no figure yet"), (&self.gone, "have a figure and are gone")] {
            if !paths.is_empty() {
                let _ = writeln!(text, "These paths {what}; run `make instructions-record`: {}", paths.join(", "));
            }
        }
        if !self.dearer.is_empty() && !self.different.is_empty() {
            let _ = writeln!(
                text,
                "The figures were recorded with other tools, which may be why. To tell, run `make \
                 instructions-record` here on a commit that passes elsewhere."
            );
            for (before, now) in &self.different {
                let _ = writeln!(text, "    recorded with {before}, here it is {now}");
            }
        }
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
fn percent(before: u64, now: u64) -> f64 {
    (now as f64 / before.max(1) as f64 - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(figures: &[(&str, u64)], with: &[&str]) -> Figures {
        let figure =
            |(name, instructions): &(&str, u64)| Figure { name: (*name).to_owned(), instructions: *instructions };
        Figures {
            with: with.iter().map(|with| (*with).to_owned()).collect(),
            figures: figures.iter().map(figure).collect(),
        }
    }

    fn compare(recorded: &[(&str, u64)], now: &[(&str, u64)]) -> Comparison {
        Comparison::new(&figures(recorded, &[]), &figures(now, &[]))
    }

    #[test]
    fn what_is_written_can_be_read() {
        let written = figures(&[("router/find/10/path", 512), ("b", 7)], &["gcc 12.2", "valgrind 3.19"]);
        assert_eq!(Figures::parse(&written.write()), Ok(written));
        let bad = Figures::parse("# heading\n\na x\n");
        assert_eq!(bad, Err(BadLine { line: 3, text: "a x".to_owned() }));
    }

    #[test]
    fn a_little_more_is_tolerated_and_more_is_not() {
        assert_eq!(compare(&[("a", 1000)], &[("a", 1080)]), Comparison::default());
        let dearer = compare(&[("a", 1000), ("b", 1)], &[("a", 1081), ("b", 1)]);
        assert!(dearer.fails());
        assert_eq!(dearer.dearer, [("a".to_owned(), 1000, 1081)]);
        assert!(dearer.report().contains("1000      1081    +8.1 %"), "{}", dearer.report());
        assert!(dearer.report().contains("make instructions-record"));
    }

    #[test]
    fn what_is_much_cheaper_is_told_and_is_no_failure() {
        assert_eq!(compare(&[("a", 1000)], &[("a", 900)]), Comparison::default());
        let cheaper = compare(&[("a", 1000)], &[("a", 890)]);
        assert!(!cheaper.fails());
        assert!(cheaper.report().contains("-11.0 %"), "{}", cheaper.report());
    }

    #[test]
    fn every_path_has_a_figure_and_every_figure_a_path() {
        let comparison = compare(&[("a", 1), ("old", 1)], &[("a", 1), ("new", 1)]);
        assert!(comparison.fails());
        assert_eq!((comparison.unrecorded, comparison.gone), (vec!["new".to_owned()], vec!["old".to_owned()]));
    }

    #[test]
    fn other_tools_are_told_of_where_they_may_be_why() {
        let recorded = figures(&[("a", 100)], &["gcc 12.2"]);
        let report = |count| Comparison::new(&recorded, &figures(&[("a", count)], &["gcc 14.2"])).report();
        assert_eq!(report(100), "");
        assert!(report(200).contains("recorded with gcc 12.2, here it is gcc 14.2"), "{}", report(200));
    }
}
