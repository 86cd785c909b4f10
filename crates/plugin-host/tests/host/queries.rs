//! Query commands.

use std::{collections::BTreeMap, path::PathBuf};

use silverback_config::load_text;
use silverback_plugin_host::{Offer, QueryError, WireProtocol, query};

use crate::support::block_on;

/// The outcome for servers of these names and query commands.
fn ask(servers: &[(&str, &str)]) -> Result<Vec<Offer>, Vec<QueryError>> {
    let names: Vec<_> = servers.iter().map(|(name, _)| *name).collect();
    let mut text = format!("pluginserver_names = {}\n", names.join(","));
    for (name, command) in servers {
        text.push_str(&format!("pluginserver_{name}_query_cmd = {command}\npluginserver_{name}_start_cmd = true\n"));
    }
    let settings = load_text(None, &text, &BTreeMap::new()).unwrap().settings;
    let mut outcome = None;
    block_on(async { outcome = Some(query(&settings.plugin_servers, &settings.main_env, Vec::new()).await) });
    let (offers, errors): (Vec<_>, Vec<_>) = outcome.unwrap().into_iter().partition(Result::is_ok);
    if errors.is_empty() {
        Ok(offers.into_iter().map(Result::unwrap).collect())
    } else {
        Err(errors.into_iter().map(Result::unwrap_err).collect())
    }
}

fn info(name: &str) -> String {
    format!(r#"{{"Name":"{name}","Phases":["access"],"Schema":{{"fields":[]}}}}"#)
}

#[test]
fn offers_come_in_the_order_of_the_names() {
    let slow = format!("sh -c \"sleep 0.2; echo '[{}]'\"", info("a").replace('"', "\\\""));
    let object = format!(r#"{{"Protocol":"ProtoBuf:1","SocketPath":"/x","Plugins":[{}]}}"#, info("b"));
    let quick = format!("echo '{object}'");
    let offers = ask(&[("one", &slow), ("two", &quick)]).unwrap();
    let seen: Vec<_> = offers.iter().map(|o| (o.server.as_str(), o.protocol, o.plugins[0].name.as_str())).collect();
    assert_eq!(seen, [("one", WireProtocol::MsgPack, "a"), ("two", WireProtocol::ProtoBuf, "b")]);
    assert_eq!(offers[1].socket, Some(PathBuf::from("/x")));
}

#[test]
fn all_problems_are_told() {
    let errors = ask(&[("bad", "sh -c 'echo oops >&2; exit 4'"), ("empty", "true")]).unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].contains("bad") && texts[0].contains("oops") && texts[0].contains('4'), "{}", texts[0]);
    assert!(texts[1].contains("empty") && texts[1].contains("printed nothing"), "{}", texts[1]);
}

#[test]
fn a_plugin_that_did_not_load_is_an_error_with_what_the_server_said() {
    let zeros = r#"{"Name":"","Phases":null,"Version":"","Priority":0,"Schema":null}"#;
    let command = format!("sh -c \"echo 'cannot load plugin x.so' >&2; echo '[{}]'\"", zeros.replace('"', "\\\""));
    let errors = ask(&[("go", &command)]).unwrap_err();
    assert!(errors[0].to_string().contains("x.so"), "{}", errors[0]);
}
