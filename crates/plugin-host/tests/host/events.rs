//! Events, and how they fail.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use silverback_model::Phase;
use silverback_plugin_host::{EventEnd, FailureKind, Pdk, Reply, ServerState, WireProtocol};
use silverback_protocol::{Call, Return, Value};
use tokio::sync::Notify;

use crate::support::{LONG, SHORT, Script, Stage, block_on, returns, with_both};

#[test]
fn calls_are_answered_in_order() {
    with_both(LONG, async |stage, protocol| {
        let script = json!([["call", "kong.request.get_header", "host"], ["call", "kong.response.clear_header", "x"]]);
        let instance = stage.script(script);
        for _ in 0..3 {
            let mut pdk = Script::new(vec![returns("example.test")]);
            assert_eq!(stage.run(&instance, &mut pdk).await.unwrap(), EventEnd::Returned);
            assert_eq!(pdk.methods(), ["kong.request.get_header", "kong.response.clear_header"]);
            assert_eq!(pdk.calls[0].args, [Value::from("host")]);
        }
        // one for the look at the socket, one for the instance, one for all events
        stage.wait_noted("connect", 3).await;
        assert_eq!(stage.noted("connect"), 3);
        assert_eq!(stage.noted("start actor"), 1);
        match protocol {
            WireProtocol::MsgPack => assert_eq!(stage.noted("plugin.Step Text(b\"example.test\")"), 3),
            WireProtocol::ProtoBuf => assert_eq!(stage.noted("answer \"\\n\\fexample.test\""), 3),
        }
    });
}

#[test]
fn an_exit_ends_the_event() {
    with_both(LONG, async |stage, protocol| {
        let instance = stage.script(json!([["call", "kong.response.exit", 403], ["call", "kong.request.get_host"]]));
        for _ in 0..2 {
            let mut pdk = Script::new(vec![Reply::Exit]);
            assert_eq!(stage.run(&instance, &mut pdk).await.unwrap(), EventEnd::Exited);
            assert_eq!(pdk.methods(), ["kong.response.exit"]);
        }
        match protocol {
            // no step follows, the connection is used again
            WireProtocol::MsgPack => {
                assert_eq!(stage.noted("plugin.Step"), 0);
                stage.wait_noted("connect", 3).await;
                assert_eq!(stage.noted("connect"), 3);
            }
            // the plugin gets an empty answer, then the connection is closed
            WireProtocol::ProtoBuf => {
                stage.wait_noted("answer \"\"", 2).await;
                stage.wait_noted("connect", 4).await;
            }
        }
    });
}

#[test]
fn a_wrong_call_fails_the_event_and_releases_the_handler() {
    with_both(LONG, async |stage, protocol| {
        let call = json!(["call", "kong.request.get_header", "x"]);
        let instance = stage.script(json!([call, call, call]));
        let mut pdk = Script::new(vec![Reply::Raise("name must be a string".to_owned())]);
        let failure = stage.run(&instance, &mut pdk).await.unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Raised, "name must be a string"));
        assert_eq!((failure.plugin.as_str(), failure.server.as_str()), ("actor", "stand-in"));
        assert_eq!(failure.pid, stage.status().pid);
        match protocol {
            // each further call fails too, and is not performed
            WireProtocol::MsgPack => {
                stage.wait_noted("plugin.StepError Text(b\"name must be a string\")", 3).await;
                stage.wait_noted("end of connection", 3).await;
            }
            WireProtocol::ProtoBuf => stage.wait_noted("end of connection", 3).await,
        }
        assert_eq!(pdk.calls.len(), 1);
    });
}

#[test]
fn a_call_that_there_is_not_fails_a_protobuf_event() {
    block_on(async {
        let stage = Stage::new(WireProtocol::ProtoBuf, LONG);
        let instance = stage.script(json!([["call", "kong.no.such"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Raised);
        assert!(failure.message.contains("kong.no.such"), "{failure}");
    });
}

#[test]
fn an_instance_that_is_gone_is_started_again_once() {
    with_both(LONG, async |stage, _| {
        let instance = stage.instance(json!({ "script": [], "forget": 1 }));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        assert_eq!((stage.noted("forgot"), stage.noted("start"), stage.noted("event")), (1, 2, 1));
    });
    with_both(LONG, async |stage, _| {
        let instance = stage.instance(json!({ "script": [], "forget": 9 }));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Closed);
        assert_eq!((stage.noted("forgot"), stage.noted("start")), (2, 2));
    });
}

#[test]
fn a_connection_closed_in_the_middle_fails_the_event() {
    with_both(LONG, async |stage, _| {
        let instance = stage.script(json!([["call", "kong.request.get_host"], ["close"]]));
        let mut pdk = Script::default();
        let failure = stage.run(&instance, &mut pdk).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Closed);
        // it is not run again: the plugin may have done something already
        assert_eq!((pdk.calls.len(), stage.noted("event")), (1, 1));
    });
}

#[test]
fn a_process_that_dies_in_the_middle_fails_the_event_and_is_started_again() {
    with_both(LONG, async |stage, _| {
        let dying = stage.script(json!([["call", "kong.request.get_host"], ["die"]]));
        let pid = {
            let failure = stage.run(&dying, &mut Script::default()).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Closed);
            assert!(failure.message.ends_with("its process ended (exit status 3)"), "{failure}");
            failure.pid
        };
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.wait(|| stage.status().restarts == 1, "a restart").await;
        assert_ne!(stage.status().pid, pid);
    });
}

#[test]
fn bytes_that_make_no_sense_fail_the_event() {
    for action in ["garbage", "huge"] {
        with_both(LONG, async |stage, protocol| {
            let instance = stage.script(json!([["call", "kong.request.get_host"], [action]]));
            let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
            let expect = match (protocol, action) {
                // what is no method of the schema is a wrong call
                (WireProtocol::ProtoBuf, "garbage") => FailureKind::Raised,
                _ => FailureKind::Protocol,
            };
            assert_eq!(failure.kind, expect, "{failure}");
        });
    }
}

#[test]
fn an_error_as_answer_fails_a_msgpack_event() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let instance = stage.script(json!([["fail", "list index out of range"], ["hang"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Server, "list index out of range"));
    });
}

#[test]
fn a_handler_that_hangs_alone_meets_its_deadline() {
    with_both(SHORT, async |stage, protocol| {
        let pid = {
            let instance = stage.script(json!([["hang"]]));
            let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
            failure.pid
        };
        // the server answers a probe, so it stays
        match protocol {
            WireProtocol::MsgPack => stage.wait_noted("connect", 4).await,
            WireProtocol::ProtoBuf => stage.wait_noted("status asked", 1).await,
        }
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        assert_eq!((stage.status().pid, stage.status().restarts), (pid, 0));
    });
}

#[test]
fn a_connection_whose_handler_runs_is_not_closed() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, SHORT);
        let late = json!([["sleep", 3000], ["call", "kong.request.get_host"], ["call", "kong.request.get_host"]]);
        let failure = stage.run(&stage.script(late), &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        // when it makes a call at last, it gets an error, and another until it returns
        stage.wait_noted("plugin.StepError", 2).await;
        assert_eq!(stage.status().restarts, 0);
    });
}

#[test]
fn a_server_that_hangs_is_replaced() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, SHORT);
        let instance = stage.script(json!([["freeze"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        stage.wait(|| stage.status().restarts == 1, "another process").await;
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn the_time_of_pdk_calls_does_not_count() {
    with_both(SHORT, async |stage, _| {
        let call = json!(["call", "kong.request.get_host"]);
        let instance = stage.script(json!([call, call, call]));
        let mut pdk = Script { pause: Duration::from_millis(700), ..Script::default() };
        assert_eq!(stage.run(&instance, &mut pdk).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn an_instance_that_is_refused_fails_the_event() {
    with_both(LONG, async |stage, _| {
        let instance = stage.instance(json!({ "start": "refuse" }));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Start, "{failure}");
        // a refusal is no outage
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        assert_eq!(stage.status().restarts, 0);
    });
}

#[test]
fn an_instance_that_does_not_start_meets_the_deadline() {
    with_both(SHORT, async |stage, _| {
        let instance = stage.instance(json!({ "start": "hang" }));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Start, "{failure}");
    });
}

#[test]
fn a_server_that_hangs_in_a_start_is_replaced() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, SHORT);
        let failure = {
            let instance = stage.instance(json!({ "start": "freeze" }));
            stage.run(&instance, &mut Script::default()).await.unwrap_err()
        };
        assert_eq!(failure.kind, FailureKind::Start, "{failure}");
        stage.wait(|| stage.status().restarts == 1, "another process").await;
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn a_server_that_counts_its_instances_itself_is_good_too() {
    block_on(async {
        let stage = Stage::new(WireProtocol::ProtoBuf, LONG);
        let instance = stage.instance(json!({ "start": "count", "script": [] }));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn a_start_with_the_number_of_another_instance_is_refused() {
    block_on(async {
        let stage = Stage::new(WireProtocol::ProtoBuf, LONG);
        let first = stage.script(json!([]));
        assert_eq!(stage.run(&first, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let thief = stage.instance(json!({ "start": "steal", "script": [] }));
        let failure = stage.run(&thief, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Start);
        assert!(failure.message.contains("the number of another instance"), "{failure}");
        assert_eq!(stage.noted("event"), 1);
    });
}

#[test]
fn a_call_after_the_end_of_its_event_is_not_that_of_the_next_one() {
    block_on(async {
        let stage = Stage::new(WireProtocol::ProtoBuf, LONG);
        let instance = stage.script(json!([["stray"]]));
        for times in 1..=3 {
            let mut pdk = Script::default();
            assert_eq!(stage.run(&instance, &mut pdk).await.unwrap(), EventEnd::Returned);
            assert_eq!(pdk.methods(), Vec::<&str>::new());
            stage.wait_noted("strayed", times).await;
        }
        // each event on a connection of its own, after one look at the socket and one start
        assert_eq!((stage.noted("connect"), stage.noted("start")), (5, 1));
    });
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_that_of_the_next_event() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let instance = stage.script(json!([["stray"]]));
        for times in 1..=3 {
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            stage.wait_noted("strayed", times).await;
        }
    });
}

#[test]
fn half_a_message_fails_the_event() {
    with_both(LONG, async |stage, protocol| {
        let call = json!(["call", "kong.request.get_host"]);
        let instance = stage.script(json!([call, ["truncate"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Closed, "{protocol:?}: {failure}");
    });
}

#[test]
fn a_message_that_comes_byte_by_byte_meets_the_deadline() {
    with_both(SHORT, async |stage, protocol| {
        let instance = stage.script(json!([["drip"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline, "{protocol:?}: {failure}");
    });
}

#[test]
fn an_answer_to_another_request_fails_the_event() {
    with_both(LONG, async |stage, protocol| {
        let call = json!(["call", "kong.request.get_host"]);
        let instance = stage.script(json!([call, ["sequence"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Protocol, "{protocol:?}: {failure}");
        let healthy = stage.script(json!([]));
        assert_eq!(stage.run(&healthy, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn a_header_of_two_megabytes_is_a_mistake_of_the_plugin() {
    with_both(LONG, async |stage, protocol| {
        let large = "x".repeat(2 << 20);
        let instance = stage.script(json!([["call", "kong.response.clear_header", large]]));
        let mut pdk = Script::default();
        let failure = stage.run(&instance, &mut pdk).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Raised, "{protocol:?}: {failure}");
        assert!(failure.message.contains("kong.response.clear_header was called with more than 1 MB"), "{failure}");
        assert!(pdk.calls.is_empty());
        // the server gets rid of all of it before the connection is closed
        stage.wait_noted("end of connection", 3).await;
        let body = stage.script(json!([["call", "kong.service.request.set_raw_body", large]]));
        assert_eq!(stage.run(&body, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn an_event_may_have_a_limit_of_its_own() {
    with_both(LONG, async |stage, protocol| {
        let instance = stage.script(json!([["hang"]]));
        let limit = Some(Duration::from_secs(1));
        let failure =
            stage.connections.handle_event(&instance, Phase::Access, limit, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline, "{protocol:?}");
        assert_eq!(failure.message, "its handler did not end within 1 s");
    });
}

#[test]
fn notifications_without_end_fail_the_event() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let instance = stage.script(json!([["flood"]]));
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Protocol);
        assert!(failure.message.contains("notifications without end"), "{failure}");
    });
}

#[test]
fn what_the_deadline_cut_off_is_sent_when_the_handler_is_released() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, SHORT);
        let call = json!(["call", "kong.request.get_host"]);
        let instance = stage.script(json!([["stall", 3000, "kong.request.get_path"], call, call]));
        let mut pdk = Script::new(vec![returns("x".repeat(1 << 20))]);
        let failure = stage.run(&instance, &mut pdk).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        stage.wait_noted("plugin.StepError", 2).await;
        assert_eq!((pdk.methods(), stage.status().restarts), (vec!["kong.request.get_path"], 0));
    });
}

#[test]
fn a_terminal_call_that_ends_nothing_is_a_failure() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let instance = stage.script(json!([["call", "kong.response.exit", 403]]));
        let failure = stage.run(&instance, &mut Script::new(vec![returns("ignored")])).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Protocol, "{failure}");
    });
}

#[test]
fn an_instance_is_started_once_for_all() {
    with_both(LONG, async |stage, _| {
        let instance = stage.script(json!([["call", "kong.request.get_host"]]));
        let again = stage.script(json!([["call", "kong.request.get_host"]]));
        assert!(Arc::ptr_eq(&instance, &again), "one instance for one configuration");
        let events: Vec<_> = (0..20)
            .map(|_| async {
                let mut pdk = Script::default();
                stage.run(&instance, &mut pdk).await.unwrap()
            })
            .collect();
        for end in join_all(events).await {
            assert_eq!(end, EventEnd::Returned);
        }
        assert_eq!((stage.noted("start"), stage.noted("event")), (1, 20));
    });
}

/// Polls all futures until each is done.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, done) in &mut futures {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(result) => *done = Some(result),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

/// A server that runs one event at a time, and lets none wait.
fn one_at_a_time(protocol: WireProtocol) -> Stage {
    Stage::with_settings(protocol, LONG, "", |server| {
        server.events.max_inflight = 1;
        server.events.max_queue = 0;
    })
}

#[test]
fn a_slow_logger_keeps_no_request_waiting() {
    for protocol in [WireProtocol::MsgPack, WireProtocol::ProtoBuf] {
        block_on(async {
            let stage = one_at_a_time(protocol);
            stage.wait_state(ServerState::Ready).await;
            let (slow, other) = (stage.script(json!([["sleep", 2000]])), stage.script(json!([])));
            let mut pdk = Script::default();
            let log = async {
                let ended = stage.connections.handle_event(&slow, Phase::Log, None, &mut pdk).await;
                assert_eq!(ended.unwrap(), EventEnd::Returned);
            };
            let deciding = async {
                stage.wait(|| stage.status().in_flight == 1, "the log event").await;
                assert_eq!(stage.run(&other, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            };
            tokio::join!(log, deciding);
            stage.host.stop().await;
        });
    }
}

/// Answers a call when it is told to.
#[derive(Default)]
struct Slow {
    called: Notify,
    may_answer: Notify,
}

impl Pdk for &Slow {
    async fn call(&mut self, _: &Call) -> Reply {
        self.called.notify_one();
        self.may_answer.notified().await;
        Reply::Return(Return::default())
    }
}

#[test]
fn an_event_that_waits_for_its_client_leaves_its_slot_to_others() {
    for protocol in [WireProtocol::MsgPack, WireProtocol::ProtoBuf] {
        block_on(async {
            let stage = one_at_a_time(protocol);
            let (waits, other) =
                (stage.script(json!([["call", "kong.request.get_raw_body"]])), stage.script(json!([])));
            let slow = Slow::default();
            let waiting = async {
                assert_eq!(stage.run(&waits, &mut &slow).await.unwrap(), EventEnd::Returned);
            };
            let meanwhile = async {
                slow.called.notified().await;
                assert_eq!(stage.run(&other, &mut Script::default()).await.unwrap(), EventEnd::Returned);
                slow.may_answer.notify_one();
            };
            tokio::join!(waiting, meanwhile);
            assert_eq!(stage.status().in_flight, 0);
            stage.host.stop().await;
        });
    }
}
