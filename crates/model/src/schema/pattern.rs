//! Lua patterns (the `match` attributes of schemas), matched as Lua 5.1 does, over bytes.

use std::fmt;

/// A Lua pattern. Matching never recurses deeper than the pattern is long.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    source: String,
    anchored: bool,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    One(Set, Repeat),
    /// `%bxy`: balanced text.
    Balanced(u8, u8),
    /// `%f[set]`: a boundary.
    Frontier(Set),
    Open,
    Close,
    /// `()`: a position; matches nothing.
    Position,
    /// `%1`: what a capture matched.
    Again(usize),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    Once,
    Optional,
    /// `*`
    Greedy,
    /// `+`
    GreedySome,
    /// `-`
    Lazy,
}

/// The bytes that a single position of the pattern accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set([u64; 4]);

impl Set {
    const NONE: Self = Self([0; 4]);
    const ALL: Self = Self([u64::MAX; 4]);

    fn of(accepts: impl Fn(u8) -> bool) -> Self {
        (0..=u8::MAX).filter(|&byte| accepts(byte)).fold(Self::NONE, Self::with)
    }

    const fn with(mut self, byte: u8) -> Self {
        self.0[(byte >> 6) as usize] |= 1 << (byte & 63);
        self
    }

    const fn union(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        Self([a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]])
    }

    const fn inverted(self) -> Self {
        let a = self.0;
        Self([!a[0], !a[1], !a[2], !a[3]])
    }

    const fn has(&self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] & (1 << (byte & 63)) != 0
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Set({:x?})", self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

/// `%a`, `%d`, ...: upper case inverts; any other byte stands for itself.
fn class(letter: u8) -> Set {
    let set = match letter.to_ascii_lowercase() {
        b'a' => Set::of(|b| b.is_ascii_alphabetic()),
        b'c' => Set::of(|b| b.is_ascii_control()),
        b'd' => Set::of(|b| b.is_ascii_digit()),
        b'g' => Set::of(|b| b.is_ascii_graphic()),
        b'l' => Set::of(|b| b.is_ascii_lowercase()),
        b'p' => Set::of(|b| b.is_ascii_punctuation()),
        b's' => Set::of(|b| b.is_ascii_whitespace() || b == 0x0b),
        b'u' => Set::of(|b| b.is_ascii_uppercase()),
        b'w' => Set::of(|b| b.is_ascii_alphanumeric()),
        b'x' => Set::of(|b| b.is_ascii_hexdigit()),
        b'z' => Set::NONE.with(0),
        _ => return Set::NONE.with(letter),
    };
    if letter.is_ascii_uppercase() { set.inverted() } else { set }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Lua's text about what is malformed.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut rest = source.as_bytes();
        let anchored = rest.first() == Some(&b'^');
        if anchored {
            rest = rest.get(1..).unwrap_or_default();
        }
        let items = Reader { rest, open: 0, captures: 0 }.items()?;
        Ok(Self { source: source.to_owned(), anchored, items })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the pattern is found in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let mut starts = if self.anchored { 0..=0 } else { 0..=text.len() };
        starts.any(|start| Matcher { text, captures: Vec::new() }.run(&self.items, start).is_some())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    open: usize,
    captures: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn items(mut self) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        while let Some(byte) = self.next() {
            let item = match byte {
                b'(' if self.rest.first() == Some(&b')') => {
                    self.next();
                    self.captures += 1;
                    Item::Position
                }
                b'(' => {
                    self.open += 1;
                    self.captures += 1;
                    Item::Open
                }
                b')' => {
                    self.open = self.open.checked_sub(1).ok_or("invalid pattern capture")?;
                    Item::Close
                }
                b'$' if self.rest.is_empty() => Item::End,
                b'%' => match self.next().ok_or("malformed pattern (ends with '%')")? {
                    b'b' => {
                        let (Some(open), Some(close)) = (self.next(), self.next()) else {
                            return Err("unbalanced pattern".to_owned());
                        };
                        Item::Balanced(open, close)
                    }
                    b'f' => {
                        if self.next() != Some(b'[') {
                            return Err("missing '[' after '%f' in pattern".to_owned());
                        }
                        Item::Frontier(self.set()?)
                    }
                    digit @ b'0'..=b'9' => {
                        let number = usize::from(digit - b'0');
                        if number == 0 || number > self.captures {
                            return Err("invalid capture index".to_owned());
                        }
                        Item::Again(number - 1)
                    }
                    letter => self.repeated(class(letter)),
                },
                b'[' => {
                    let set = self.set()?;
                    self.repeated(set)
                }
                b'.' => self.repeated(Set::ALL),
                other => self.repeated(Set::NONE.with(other)),
            };
            items.push(item);
        }
        if self.open > 0 { Err("unfinished capture".to_owned()) } else { Ok(items) }
    }

    fn repeated(&mut self, set: Set) -> Item {
        let repeat = match self.rest.first() {
            Some(b'*') => Repeat::Greedy,
            Some(b'+') => Repeat::GreedySome,
            Some(b'-') => Repeat::Lazy,
            Some(b'?') => Repeat::Optional,
            _ => return Item::One(set, Repeat::Once),
        };
        self.next();
        Item::One(set, repeat)
    }

    /// What follows a `[`.
    fn set(&mut self) -> Result<Set, String> {
        const UNFINISHED: &str = "malformed pattern (missing ']')";
        let inverted = self.rest.first() == Some(&b'^');
        if inverted {
            self.next();
        }
        let mut set = Set::NONE;
        let mut first = true;
        loop {
            let byte = self.next().ok_or(UNFINISHED)?;
            if byte == b']' && !first {
                return Ok(if inverted { set.inverted() } else { set });
            }
            first = false;
            if byte == b'%' {
                set = set.union(class(self.next().ok_or(UNFINISHED)?));
            } else if let [b'-', end, ..] = self.rest
                && *end != b']'
            {
                set = (byte..=*end).fold(set, Set::with);
                self.next();
                self.next();
            } else {
                set = set.with(byte);
            }
        }
    }
}

struct Matcher<'a> {
    text: &'a [u8],
    /// Start, and end once it is closed.
    captures: Vec<(usize, Option<usize>)>,
}

impl Matcher<'_> {
    /// The end of a match of `items` that starts at `at`.
    fn run(&mut self, items: &[Item], mut at: usize) -> Option<usize> {
        let mut items = items;
        while let Some((item, rest)) = items.split_first() {
            match item {
                Item::One(set, Repeat::Once) => {
                    if !self.accepts(set, at) {
                        return None;
                    }
                    at += 1;
                }
                Item::One(set, Repeat::Optional) => {
                    if self.accepts(set, at)
                        && let Some(end) = self.attempt(rest, at + 1)
                    {
                        return Some(end);
                    }
                }
                Item::One(set, repeat @ (Repeat::Greedy | Repeat::GreedySome)) => {
                    let least = at + usize::from(*repeat == Repeat::GreedySome);
                    let mut most = at;
                    while self.accepts(set, most) {
                        most += 1;
                    }
                    return (least..=most).rev().find_map(|end| self.attempt(rest, end));
                }
                Item::One(set, Repeat::Lazy) => loop {
                    if let Some(end) = self.attempt(rest, at) {
                        return Some(end);
                    }
                    if !self.accepts(set, at) {
                        return None;
                    }
                    at += 1;
                },
                Item::Balanced(open, close) => at = self.balanced(*open, *close, at)?,
                Item::Frontier(set) => {
                    let before = at.checked_sub(1).and_then(|i| self.text.get(i)).copied().unwrap_or(0);
                    let after = self.text.get(at).copied().unwrap_or(0);
                    if set.has(before) || !set.has(after) {
                        return None;
                    }
                }
                Item::Open => self.captures.push((at, None)),
                Item::Position => self.captures.push((at, Some(at))),
                Item::Close => self.captures.iter_mut().rev().find(|capture| capture.1.is_none())?.1 = Some(at),
                Item::Again(number) => {
                    let (start, end) = *self.captures.get(*number)?;
                    let wanted = self.text.get(start..end?)?;
                    if !self.text.get(at..)?.starts_with(wanted) {
                        return None;
                    }
                    at += wanted.len();
                }
                Item::End => return (at == self.text.len()).then_some(at),
            }
            items = rest;
        }
        Some(at)
    }

    /// As [`Self::run`], but leaves the captures as they were when it fails.
    fn attempt(&mut self, items: &[Item], at: usize) -> Option<usize> {
        let saved = self.captures.clone();
        let end = self.run(items, at);
        if end.is_none() {
            self.captures = saved;
        }
        end
    }

    fn accepts(&self, set: &Set, at: usize) -> bool {
        self.text.get(at).is_some_and(|&byte| set.has(byte))
    }

    fn balanced(&self, open: u8, close: u8, at: usize) -> Option<usize> {
        if *self.text.get(at)? != open {
            return None;
        }
        let mut depth = 1;
        for (offset, &byte) in self.text.get(at + 1..)?.iter().enumerate() {
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Some(at + offset + 2);
                }
            } else if byte == open {
                depth += 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_lua_does() {
        for (pattern, text, expect) in [
            ("^%u+$", "GET", true),
            ("^%u+$", "Get", false),
            ("^[a-z][a-z%d-]-[a-z%d]+$", "my-vault", true),
            ("^[a-z][a-z%d-]-[a-z%d]+$", "My", false),
            ("^[^*]*%*?[^*]*$", "*.a", true),
            ("^[^*]*%*?[^*]*$", "*.*", false),
            ("b", "abc", true),
            ("^b", "abc", false),
            ("(a)%1", "xaax", true),
            ("(a)%1", "aba", false),
            ("%b()", "f(a(b)c)", true),
            ("^%b()$", "(a(b)c", false),
            ("%f[%w]word", "a word", true),
            ("%f[%w]word", "sword", false),
            ("^x-y$", "xxy", true),
            ("^a?b$", "b", true),
            ("^[]]$", "]", true),
            ("^[%]-]+$", "]-", true),
            ("", "", true),
            ("^.$", "é", false),
            ("^()a()$", "a", true),
        ] {
            assert_eq!(Pattern::new(pattern).map(|p| p.is_match(text)), Ok(expect), "{pattern} on {text}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["%", "[a", "(a", "a)", "%1", "%bx", "%fa"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(pattern in ".{0,12}", text in ".{0,12}") {
            if let Ok(pattern) = Pattern::new(&pattern) {
                pattern.is_match(&text);
            }
        }
    }
}
