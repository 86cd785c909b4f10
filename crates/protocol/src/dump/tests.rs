use proptest::prelude::*;

use super::*;

const INFO: &str =
    r#"{"Name":"p","Priority":10,"Version":"0.1","Phases":["access","log"],"Schema":{"name":"p","fields":[]}}"#;

fn parse(output: &str) -> Result<Dump, Error> {
    Dump::parse(output.as_bytes())
}

#[test]
fn both_forms_are_read() {
    let dump = parse(&format!("[{INFO}]\n")).unwrap();
    assert_eq!((dump.protocol, dump.socket, dump.plugins.len()), (WireProtocol::MsgPack, None, 1));
    let object = format!(r#"{{"Protocol":"ProtoBuf:1","SocketPath":"/a/b","Plugins":[{INFO},{INFO}],"New":1}}"#);
    let dump = parse(&object).unwrap();
    assert_eq!((dump.protocol, dump.plugins.len()), (WireProtocol::ProtoBuf, 2));
    assert_eq!(dump.socket, Some(PathBuf::from("/a/b")));
    assert_eq!(
        dump.plugins[0],
        PluginInfo {
            name: "p".to_owned(),
            version: Some("0.1".to_owned()),
            priority: 10,
            phases: vec!["access".to_owned(), "log".to_owned()],
            schema: serde_json::json!({"name": "p", "fields": []}),
        }
    );
    let dump = parse(&format!(r#"{{"Plugins":[{INFO}]}}"#)).unwrap();
    assert_eq!(dump.protocol, WireProtocol::MsgPack);
}

#[test]
fn the_last_json_value_counts() {
    let check = |before: &str| {
        let dump = parse(&format!("{before}[{INFO}]")).map(|dump| dump.plugins.len());
        assert_eq!(dump, Ok(1), "{before}");
    };
    check("WARN - [14:29:00] lua-style return values\n");
    check("{\"level\":\"info\"}\n");
    check("[1, 2]\n[\"x\"]\n");
    check("[[[[ {{{ [\"open\n");
    check("\u{1b}[0m text ");
}

#[test]
fn what_was_printed_before_the_json_is_told() {
    let check = |output: &str, expect: &str| assert_eq!(preamble(output.as_bytes()), expect.as_bytes(), "{output}");
    check(&format!("[WARN] x\n[{INFO}]\n"), "[WARN] x\n");
    check(&format!("[{INFO}]"), "");
    check("not found\n", "not found");
    check("", "");
}

#[test]
fn versions_and_priorities_may_be_odd() {
    let check = |version: &str, priority: &str, expect: (Option<&str>, i64)| {
        let info = format!(r#"[{{"Name":"p",{version}{priority}"Phases":null,"Schema":{{}}}}]"#);
        let dump = parse(&info).unwrap();
        assert_eq!((dump.plugins[0].version.as_deref(), dump.plugins[0].priority), expect, "{info}");
    };
    check("", "", (None, 0));
    check(r#""Version":null,"#, r#""Priority":1e3,"#, (None, 1000));
    check(r#""Version":"","#, r#""Priority":-5,"#, (None, -5));
    check(r#""Version":"v1-beta","#, "", (Some("v1-beta"), 0));
    check(r#""Version":1.5,"#, "", (Some("1.5"), 0));
}

#[test]
fn plugins_that_did_not_load_are_counted() {
    let zeros = r#"{"Name":"","Phases":null,"Version":"","Priority":0,"Schema":null}"#;
    let dump = parse(&format!("[{zeros},{INFO},{zeros}]")).unwrap();
    assert_eq!((dump.failed, dump.plugins.len()), (2, 1));
}

#[test]
fn what_says_nothing_is_an_error() {
    let check = |output: &str, expect: Error| assert_eq!(parse(output), Err(expect), "{output}");
    check(" \n", Error::Empty);
    check("command not found", Error::NoJson { tail: "command not found".to_owned() });
    check("[] and more", Error::NoJson { tail: "[] and more".to_owned() });
    check("[]", Error::NoneOffered);
    check("WARN x\n[]", Error::NoneOffered);
    check("[1]", Error::NoPlugins { head: "[1]".to_owned() });
    check("{}", Error::NoPlugins { head: "{}".to_owned() });
    check(r#"{"Protocol":"ProtoBuf:2","Plugins":[]}"#, Error::UnknownProtocol { protocol: "ProtoBuf:2".to_owned() });
    check(r#"[{"Name":"","Phases":["access"]}]"#, Error::NoName { number: 1 });
    check(r#"[{"Name":"p"}]"#, Error::NoSchema { plugin: "p".to_owned() });
}

proptest! {
    #[test]
    fn parsing_never_panics(output in any::<Vec<u8>>()) {
        let _ = Dump::parse(&output);
    }

    #[test]
    fn log_lines_before_do_not_matter(lines in prop::collection::vec("[ -~]{0,40}", 0..5)) {
        let output = format!("{}\n[{INFO}]", lines.join("\n"));
        prop_assert_eq!(parse(&output).map(|dump| dump.plugins.len()), Ok(1));
    }
}
