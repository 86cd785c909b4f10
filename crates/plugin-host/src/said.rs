//! What a command printed, in the few lines that tell what was wrong.

use crate::output::Screen;

/// The lines of an output, without empty ones and those that a terminal would have overwritten. A stack trace becomes one line:
/// the error, and the frame in which it was raised.
pub(crate) fn lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let mut told = Vec::new();
    let mut traceback: Option<String> = None;
    let mut in_frames = false;
    let mut screen = Screen::default();
    for raw in text.lines() {
        let indented = raw.starts_with([' ', '\t']);
        let line = raw.trim();
        if line == "Traceback (most recent call last):" {
            traceback = Some(String::new());
            continue;
        }
        match &mut traceback {
            // The innermost frame is the last.
            Some(frame) if indented => {
                if line.starts_with("File \"") {
                    line.clone_into(frame);
                }
                continue;
            }
            Some(frame) if !line.is_empty() => {
                told.extend(screen.settle());
                let frame = std::mem::take(frame);
                told.push(if frame.is_empty() { line.to_owned() } else { format!("{line} ({frame})") });
                traceback = None;
                continue;
            }
            _ => {}
        }
        // Frames of JavaScript: the innermost is the first.
        let frame = indented && line.starts_with("at ");
        let pointer = !line.is_empty() && line.bytes().all(|byte| matches!(byte, b'^' | b'~'));
        if (frame && in_frames) || pointer {
            continue;
        }
        in_frames = frame;
        told.extend(screen.line(raw));
    }
    told.extend(screen.settle());
    told.retain(|line| !line.is_empty());
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, expect: &[&str]) {
        assert_eq!(lines(output.as_bytes()), expect, "{output}");
    }

    #[test]
    fn a_stack_trace_of_python_is_its_error_and_where_it_was_raised() {
        check(
            "WARN - x\nTraceback (most recent call last):\n  File \"/p/serve.py\", line 14, in <module>\n    run()\n  \
             File \"/p/a.py\", line 1\n    class Plugin(:\n                 ^\nSyntaxError: invalid syntax\n",
            &["WARN - x", "SyntaxError: invalid syntax (File \"/p/a.py\", line 1)"],
        );
        check("Traceback (most recent call last):\nKeyError: 'a'\n", &["KeyError: 'a'"]);
        check("Traceback (most recent call last):\n  File \"/p/a.py\", line 1\n", &[]);
    }

    #[test]
    fn a_stack_trace_of_javascript_is_its_error_and_the_first_frame() {
        check(
            "/p/a.js:1\nthrow new Error('x')\n^\n\nError: x\n    at f (/p/a.js:1:7)\n    at Module._compile (node:1)\n\nNode.js v20\n",
            &["/p/a.js:1", "throw new Error('x')", "Error: x", "at f (/p/a.js:1:7)", "Node.js v20"],
        );
    }

    #[test]
    fn what_a_terminal_overwrites_is_not_told() {
        check("D \x1b[0m\n\x1b[1A\x1b[K\n\x1b[1AD [WARN] text\nafter", &["D [WARN] text", "after"]);
        check("", &[]);
    }
}
