//! The words of a shell command line.

/// What a command line consists of, as far as that can be told without running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Quotes taken away, variables replaced. What else a shell knows (lists, patterns) is taken for text.
    pub words: Vec<String>,
    /// Whether a shell would do no more with the line than splitting it.
    pub is_plain: bool,
}

impl Words {
    /// Splits a line; `variable` gives the values of variables, one that is not set is empty.
    pub fn split(line: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut is_plain = true;
        let mut quote = None;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some('\''), c) => word.get_or_insert_default().push(c),
                (_, '\\') => {
                    let escaped = chars.next();
                    is_plain &= escaped.is_some();
                    word.get_or_insert_default().extend(escaped);
                }
                (_, '$') => {
                    is_plain = false;
                    let in_braces = chars.next_if_eq(&'{').is_some();
                    let mut name = String::new();
                    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                        name.push(c);
                    }
                    if in_braces {
                        chars.next_if_eq(&'}');
                    }
                    word.get_or_insert_default().push_str(&variable(&name).unwrap_or_default());
                }
                (Some(_), c) => {
                    is_plain &= c != '`';
                    word.get_or_insert_default().push(c);
                }
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, c) if c.is_whitespace() => words.extend(word.take()),
                (None, c) => {
                    is_plain &= !matches!(c, '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '*' | '?' | '~');
                    word.get_or_insert_default().push(c);
                }
            }
        }
        words.extend(word);
        Self { words, is_plain: is_plain && quote.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let check = |line: &str, expect: &[&str], plain: bool| {
            let split = Words::split(line, |name| (name == "HERE").then(|| "/here".to_owned()));
            assert_eq!(split.words, expect, "{line}");
            assert_eq!(split.is_plain, plain, "{line}");
        };
        check("env A=b  python x.py", &["env", "A=b", "python", "x.py"], true);
        check("'a b' \"c d\"e f\\ g ''", &["a b", "c de", "f g", ""], true);
        check(r#""a \" b" 'c \ d'"#, &[r#"a " b"#, r"c \ d"], true);
        check(r#"$HERE/a "${HERE}b" '$HERE' \$HERE $NOWHERE/c"#, &["/here/a", "/hereb", "$HERE", "$HERE", "/c"], false);
        check("'$HERE `a` ; *' \\;", &["$HERE `a` ; *", ";"], true);
        check("\"`a`\"", &["`a`"], false);
        check("a | b", &["a", "|", "b"], false);
        check("'unfinished", &["unfinished"], false);
        check("unfinished\\", &["unfinished"], false);
        check("", &[], true);
    }
}
